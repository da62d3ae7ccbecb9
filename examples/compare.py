"""Compare runs: the moving averages of many seeds in one picture. Run: python -m examples.compare

Runs of one program that differ only in SEED form one line: the median, with a band from the lowest
to the highest seed, cut at the shortest run. If a seed was run twice, the newer run counts; runs
that were interrupted or stopped early are left out. The first line's label names all constants that
differ between lines; each other label, those that differ from the first. To name a line yourself,
rename its folder, for example to CartPole-v0-gradients.
"""

import ast
import csv
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from examples.train import change, find_constants, is_whole

RUNS = "results/*"  # folders of runs
THRESHOLDS = {"CartPole-v0": 195}  # draws a dashed line


def read_run(folder):
    """Return the constants of the run in `folder` and its moving averages (episodes,)."""
    constants = json.loads((folder / "constants.json").read_text(encoding="utf-8"))
    with open(folder / "episodes.csv", encoding="utf-8", newline="") as file:
        return constants, np.array([float(row["average"]) for row in csv.DictReader(file)])


def read_code(script):
    """Return the code of a script without comments, and with None for each constant."""
    text = script.read_text(encoding="utf-8")
    text = change(text, dict.fromkeys(find_constants(text)))
    return ast.unparse(ast.parse(text))


def group_runs(folders):
    """Return a list of groups: name, constants without SEED, and the averages of each seed.

    Prints the name of a run that it leaves out. Runs of different code get a constant `script`.
    """
    groups, scripts = [], {}
    for folder in sorted(folders, key=lambda folder: (folder / "episodes.csv").stat().st_mtime_ns):
        if not is_whole(folder):
            print(f"Left out, interrupted or stopped early: {folder}")
            continue
        constants, averages = read_run(folder)
        for script in folder.glob("*.py"):
            constants["script"] = scripts.setdefault(read_code(script), str(script))
        constants.pop("EXIT_CODE", None)
        seed = constants.pop("SEED", None)
        if seed is None:
            seed = folder.name
        name = re.sub(r"-\d+$", "", folder.name)  # CartPole-v0-2 is another run of CartPole-v0
        for group in groups:
            if group[:2] == (name, constants):
                group[2][seed] = averages
                break
        else:
            groups.append((name, constants, {seed: averages}))
    return [(name, constants, list(runs.values())) for name, constants, runs in groups]


def labels_of(groups):
    """Return a label for each group: what differs from the first; of the first, what differs."""
    described = [{"name": name, **constants} for name, constants, _ in groups]
    keys = dict.fromkeys(key for group in described for key in group)
    first, *others = described
    labels = []
    for group in described:
        compared = others if group is first else [first]
        differ = [k for k in keys if any(other.get(k) != group.get(k) for other in compared)]
        label = ", ".join(f"{key} = {group.get(key)}" for key in differ)
        labels.append(label.removeprefix("name = ") or first["name"])
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
    if len({constants.get("MAX_EP") for _, constants, _ in groups}) > 1:
        title += " (MAX_EP differs, so LR is annealed at different speeds)"
    ax.set(title=title, xlabel="Episode", ylabel="Return, moving average")
    fig.legend(loc="outside lower center")
    return fig


def main():
    groups = {}  # of each environment
    for group in group_runs(path.parent for path in Path().glob(f"{RUNS}/episodes.csv")):
        name, constants, _ = group
        groups.setdefault(constants.get("ENV_NAME", name), []).append(group)
    if not groups:
        sys.exit(f"RUNS = {RUNS!r}: no run to compare")
    for env_name, group in groups.items():
        path = Path("results", f"compare-{re.sub('[/:]', '-', env_name)}.png")
        draw(group, env_name).savefig(path)
        print(f"Saved {path}")
    plt.show()


if __name__ == "__main__":
    main()
