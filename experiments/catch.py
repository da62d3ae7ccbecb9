"""Learn Catch and Catch in pixels with several seeds. Run: python -m experiments.catch

Runs examples/catch.py and examples/catch_pixels.py with each seed of SEEDS, and prints the table of
experiments/README.md. What was measured is kept in catch.json; delete that file to measure again
(seven minutes on 2 cores).
"""

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from examples import catch
from experiments import knobs
from experiments.copies import Copy

DATA = Path(__file__).with_name("catch.json")
CONSTANTS = {"MAX_EP": catch.MAX_EP, "LR": catch.LR, "N_WORKERS": 2}
ROWS = {"examples/catch.py": "examples.catch", "examples/catch_pixels.py": "examples.catch_pixels"}
SEEDS = {"examples/catch.py": range(20), "examples/catch_pixels.py": range(10)}


def train_row(row, seed):
    """Run the example `row`; return its seconds and the greedy mean return of 100 balls."""
    with tempfile.TemporaryDirectory(prefix="catch-") as folder:
        copy = Copy(folder)
        copy.set_constants("examples/catch.py", {**CONSTANTS, "SEED": seed})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = copy.start("-m", ROWS[row], **pipes)
        text, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{text[-2000:]}{row} ended with status {process.returncode}.")
    found = re.search(r"episodes in (\S+) s\nGreedy policy: mean return (\S+) over 100 ", text)
    return {"constants": CONSTANTS, "seconds": float(found[1]), "greedy": float(found[2])}


def table(data):
    """Return the table in Markdown: medians, with the lowest and the highest of all seeds."""
    header = "| example | seeds | seconds | greedy mean return of 100 balls |"
    lines = [header, "|---|---|---|---|"]
    for row in ROWS:
        runs = [data[row][str(seed)] for seed in SEEDS[row]]
        cells = [f"[{row}](../{row})", f"{len(runs)}"]
        for key, digits in (("seconds", 1), ("greedy", 2)):
            values = [run[key] for run in runs]
            ends = f"{min(values):.{digits}f} to {max(values):.{digits}f}"
            cells.append(f"{np.median(values):.{digits}f} ({ends})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    print(table(knobs.fill(DATA, SEEDS, train_row, lambda row: CONSTANTS)))


if __name__ == "__main__":
    main()
