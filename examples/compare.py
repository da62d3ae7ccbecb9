"""Compare runs: the moving averages of many seeds in one picture. Run: python -m examples.compare

Runs whose constants differ in SEED alone are one line, as long as the shortest of them: the median,
and a band from the lowest to the highest seed. Its label has the constants that differ, or else the
name of the run's folder. Rename a folder, to CartPole-v0-gradients for example, to tell a run with
a patch from the others.
"""

import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

RUNS = "results/*"  # folders of runs
THRESHOLDS = {"CartPole-v0": 195}  # draws a dashed line


def read_run(folder):
    """Return the constants of the run in `folder` and its moving averages (episodes,)."""
    constants = json.loads((folder / "constants.json").read_text())
    table = np.loadtxt(folder / "returns.csv", delimiter=",", skiprows=1, ndmin=2)
    return constants, table[:, 2]


def group_runs(folders):
    """Return a list of groups: name, constants without SEED, and the averages of each seed."""
    groups = []
    for folder in sorted(folders):
        constants, averages = read_run(folder)
        constants.pop("SEED", None)
        name = re.sub(r"-\d+$", "", folder.name)  # CartPole-v0-2 is another run of CartPole-v0
        for group in groups:
            if group[:2] == (name, constants):
                group[2].append(averages)
                break
        else:
            groups.append((name, constants, [averages]))
    return groups


def labels_of(groups):
    """Return a label for each group: the constants that differ, or the name."""
    all_constants = [constants for _, constants, _ in groups]
    labels = []
    for name, constants, _ in groups:
        differ = [k for k in constants if any(c.get(k) != constants[k] for c in all_constants)]
        label = ", ".join(f"{k} = {constants[k]}" for k in differ)
        if label == "" or all_constants.count(constants) > 1:
            label = f"{name} {label}".strip()
        labels.append(label)
    return labels


def draw(groups, title):
    """Return the figure of the groups of one environment."""
    fig, ax = plt.subplots(figsize=(11, 6), layout="constrained")
    for label, (_, _, runs) in zip(labels_of(groups), groups):
        curves = np.array([averages[: min(map(len, runs))] for averages in runs])
        if len(runs) > 1:
            label = f"{label} ({len(runs)} seeds)"
        episodes = np.arange(1, curves.shape[1] + 1)
        [line] = ax.plot(episodes, np.median(curves, axis=0), label=label)
        ax.fill_between(episodes, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2)
    if title in THRESHOLDS:
        ax.axhline(THRESHOLDS[title], color="gray", linestyle="--", label=str(THRESHOLDS[title]))
    if len({constants["MAX_EP"] for _, constants, _ in groups}) > 1:
        title += " (MAX_EP differs, so LR is annealed at different speeds)"
    ax.set(title=title, xlabel="Episode", ylabel="Return, moving average")
    fig.legend(loc="outside lower center")
    return fig


if __name__ == "__main__":
    tables = Path().glob(f"{RUNS}/returns.csv")
    folders = [path.parent for path in tables if path.read_text().count("\n") > 1]  # has episodes
    if not folders:
        sys.exit(f"RUNS = {RUNS!r}: no such run")
    groups = group_runs(folders)
    for env_name in dict.fromkeys(constants["ENV_NAME"] for _, constants, _ in groups):
        figure = draw([group for group in groups if group[1]["ENV_NAME"] == env_name], env_name)
        path = Path("results", f"compare-{re.sub('[/:]', '-', env_name)}.png")
        figure.savefig(path)
        print(f"Saved {path}")
    plt.show()
