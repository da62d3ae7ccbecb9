"""Compare runs: draw their moving averages over each other. Run: python -m examples.compare

Each line is labelled by the constants in which the runs differ.
"""

import glob
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from utils import show_picture

RUNS = "results/CartPole-v0-*.csv"  # which runs, or a list: ["results/CartPole-v0-1.csv", ...]
PICTURE = "results/compare.png"


def find_runs(runs):
    """Return the paths of `runs`, a pattern or a list, the lowest number first."""
    paths = glob.glob(runs) if isinstance(runs, str) else runs
    return sorted(map(Path, paths), key=lambda path: (len(path.name), path.name))


def read_run(path):
    """Return what the csv at `path` holds: {constant: value}, as text, and the averages (n,)."""
    try:
        with open(path) as file:
            first = file.readline().strip()  # "# GAMMA = 0.9, BETAS = (0.92, 0.999), ..."
            constants = dict(re.findall(r"(\w+) = (.*?)(?:, (?=\w+ = )|$)", first))
            averages = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)[:, 2]
    except (OSError, ValueError, IndexError) as error:
        sys.exit(f"RUNS: {path} is not a csv that a run has saved ({error}).")
    return constants, averages


def labels_of(runs):
    """Return a label for each of `runs`, a list of constants: those that are not all the same."""
    names = {name for constants in runs for name in constants}
    differ = [name for name in names if len({constants.get(name) for constants in runs}) > 1]
    labels = []
    for constants in runs:
        # In the order in which the run told them.
        told = [f"{name} = {constants[name]}" for name in constants if name in differ]
        labels.append(", ".join(told))
    return labels


if __name__ == "__main__":
    paths = find_runs(RUNS)
    if not paths:
        sys.exit(f"RUNS = {RUNS!r}: there is no such run; train first, or change it.")
    runs = [read_run(path) for path in paths]
    labels = labels_of([constants for constants, _ in runs])
    fig, ax = plt.subplots(figsize=(11, 6))
    for path, label, (_, averages) in zip(paths, labels, runs):
        ax.plot(range(1, len(averages) + 1), averages, label=f"{path.stem}: {label}".rstrip(": "))
    ax.set(xlabel="Episode", ylabel="Return, moving average (0.99)")
    ax.legend()
    fig.savefig(PICTURE)
    print(f"Saved {PICTURE}")
    show_picture()
