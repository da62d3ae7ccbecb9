"""Draw which.png: curves of the right code and of five mistakes. Run: python -m experiments.which

mistakes/README.md asks which is which, and tells. Each run has quick's constants, seed 0 and one
worker, so that it repeats itself. Takes about ten minutes; needs git, and
pip install scipy.
"""

import random
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from examples.train import train
from experiments import lab
from experiments.learning import QUICK

MISTAKES = ["not_detached", "broadcast", "punished_entropy", "gradients", "limit"]
PANELS = {"return": 1, "entropy": 3, "value error": 4}  # columns of episodes.csv
WINDOW = 20  # episodes in a point of the dark curves


def columns_of(patch):
    """Train with a patch of mistakes/ (None: the right code); return {name: (episodes,)}."""
    with lab.copy(None if patch is None else f"mistakes/{patch}.patch") as folder:
        run = train("discrete_A3C.py", {**QUICK, "N_WORKERS": 1, "SEED": 0}, folder)
        if run.code != 0:
            raise SystemExit(run.errors)
        table = np.loadtxt(run.folder / "episodes.csv", delimiter=",", skiprows=1)
    return {name: table[:, column] for name, column in PANELS.items()}


def draw(runs):
    """Return a figure of runs, a list of {name: (episodes,)}: a column each, A, B, C and so on."""
    fig = plt.figure(figsize=(13, 6.5), layout="constrained")
    axes = fig.subplots(len(PANELS), len(runs), sharex=True, sharey="row")
    for column, (letter, run) in enumerate(zip("ABCDEF", runs)):
        axes[0, column].set_title(letter)
        for ax, name in zip(axes[:, column], PANELS):
            mean = np.convolve(run[name], np.ones(WINDOW) / WINDOW, "valid")
            episodes = np.arange(1, 1 + len(run[name]))
            ax.plot(episodes, run[name], color="tab:blue", alpha=0.25, linewidth=0.8)
            ax.plot(episodes[WINDOW - 1 :], mean, color="tab:blue")
    for ax, name in zip(axes[:, 0], PANELS):
        ax.set(ylabel=name)
    axes[2, 0].set(yscale="log")
    fig.supxlabel("Episode")
    return fig


def main():
    patches = [None, *MISTAKES]
    random.Random(0).shuffle(patches)
    runs = []
    for letter, patch in zip("ABCDEF", patches):
        runs.append(columns_of(patch))
        print(f"{letter}: {patch or 'right'}", flush=True)
    draw(runs).savefig(Path(__file__).parent / "mistakes" / "which.png", dpi=80)


if __name__ == "__main__":
    main()
