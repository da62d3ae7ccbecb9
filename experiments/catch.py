"""Learn Catch and Catch in pixels with several seeds. Run: python -m experiments.catch

Runs examples/catch.py and examples/catch_pixels.py with each seed of SEEDS, and prints the table of
experiments/README.md. What was measured is kept in catch.json, and measured again only with other
constants or code; delete that file to measure all of it again (seven minutes on 2 cores).
"""

from pathlib import Path

import numpy as np

from examples import catch, catch_pixels
from experiments import knobs

DATA = Path(__file__).with_name("catch.json")
ROWS = {"examples/catch.py": catch, "examples/catch_pixels.py": catch_pixels}
SEEDS = {"examples/catch.py": range(20), "examples/catch_pixels.py": range(10)}


def expected(row):
    """Return the constants with which `row` is run, as they are kept in the data."""
    return {"MAX_EP": ROWS[row].MAX_EP, "LR": ROWS[row].LR, "N_WORKERS": 2}


def train_row(row, seed):
    """Run the example `row`; return its seconds and the greedy mean return of 100 balls."""
    constants = expected(row)
    _, _, seconds, greedy = knobs.play(constants, seed, script=row)
    return {"constants": constants, "seconds": seconds, "greedy": round(float(greedy.mean()), 2)}


def table(data):
    """Return the table in Markdown: medians, with the lowest and the highest of all seeds."""
    header = "| example | seeds | seconds | greedy mean return of 100 balls |"
    lines = [header, "|---|---|---|---|"]
    for row in ROWS:
        runs = knobs.runs_of(data, row, SEEDS[row])
        cells = [f"[{row}](../{row})", f"{len(runs)}"]
        for key, digits in (("seconds", 1), ("greedy", 2)):
            values = [run[key] for run in runs]
            ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            cells.append(f"{np.median(values):.{digits}f} ({ends})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    # A row is the script that it runs.
    print(table(knobs.fill(DATA, SEEDS, train_row, expected, lambda row: row)))


if __name__ == "__main__":
    main()
