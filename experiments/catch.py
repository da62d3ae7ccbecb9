"""Learn Catch, in pixels and in the dark too, with several seeds. Run: python -m experiments.catch

Runs the examples of Catch with each seed of SEEDS, and prints the table of experiments/README.md.
What was measured is kept in catch.json, and measured again only with other constants or code;
delete that file to measure all of it again (half an hour on 2 cores).
"""

from pathlib import Path

import numpy as np

from examples import catch, catch_pixels, memory
from experiments import knobs

DATA = Path(__file__).with_name("catch.json")
ROWS = {  # the module of an example
    "catch": catch,
    "catch_pixels": catch_pixels,
    "memory": memory,
    "memory, emptied at each step": memory,
}
SEEDS = dict(zip(ROWS, map(range, (20, 10, 10, 5))))
EMPTIED = (
    "x, state = self.lstm(x[:, None], self.state if state is None else state)",
    "x, state = self.lstm(x[None])[0][0][:, None], self.start",
)


def script_of(row):
    return f"{ROWS[row].__name__.replace('.', '/')}.py"


def expected(row):
    """Return the constants with which `row` is run, as they are kept in the data."""
    return {"MAX_EP": ROWS[row].MAX_EP, "LR": ROWS[row].LR, "N_WORKERS": 2}


def train_row(row, seed):
    """Run the example of `row`; return its seconds and the greedy mean return of 100 balls."""
    constants = expected(row)
    script = script_of(row)
    changes = [(script, *EMPTIED)] if "emptied" in row else []
    _, _, seconds, greedy = knobs.play(constants, seed, changes, script)
    return {"constants": constants, "seconds": seconds, "greedy": round(float(greedy.mean()), 2)}


def table(data):
    """Return the table in Markdown: medians, with the lowest and the highest of all seeds."""
    header = "| example | seeds | seconds | greedy mean return of 100 balls |"
    lines = [header, "|---|---|---|---|"]
    for row in ROWS:
        runs = knobs.runs_of(data, row, SEEDS[row])
        if not runs:
            continue
        cells = [row, f"{len(runs)}"]
        for key, digits in (("seconds", 1), ("greedy", 2)):
            values = [run[key] for run in runs]
            ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            cells.append(f"{np.median(values):.{digits}f} ({ends})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    print(table(knobs.fill(DATA, SEEDS, train_row, expected, script_of)))


if __name__ == "__main__":
    main()
