"""Measure CartPole as it stands, for the README's table. Run: python -m experiments.shipped

This is a row of knobs.py, its seeds trained one after the other. What they gave is kept in
shipped.json, and is trained again only with other constants or other code: delete that file to
measure again (an hour on 2 cores).
"""

from pathlib import Path

import numpy as np

from experiments import knobs

DATA = Path(__file__).with_name("shipped.json")
SEEDS = {"as shipped, 2 workers": range(20)}


expected = knobs.expected


def table(data):
    """Return the table in Markdown; a seed that did not solve it counts as later than all."""
    lines = [
        "| CartPole-v0, 3000 episodes | solved (95% interval) | half of all seeds solved it by"
        " | moving average at the end | of those at least 190 | greedy |",
        "|---|---|---|---|---|---|",
    ]
    for row in SEEDS:
        runs = knobs.runs_of(data, row, SEEDS[row])
        solved = [run["solved"] or np.inf for run in runs]
        low, high = knobs.interval(np.isfinite(solved).sum(), len(runs))
        half = np.median(solved)
        averages = [run["moving average"] for run in runs]
        cells = [row, f"{np.isfinite(solved).sum()} of {len(runs)} ({low:.0%} to {high:.0%})"]
        cells.append(f"episode {half:.0f}" if np.isfinite(half) else "-")
        cells.append(f"{np.median(averages):.0f} ({min(averages):.0f} to {max(averages):.0f})")
        cells.append(f"{sum(average >= 190 for average in averages)} of {len(runs)}")
        cells.append(f"{np.median([run['greedy'] for run in runs]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    print(table(knobs.fill(DATA, SEEDS, knobs.train_row, expected)))


if __name__ == "__main__":
    main()
