"""What is the first A of A3C for? Run: python -m experiments.first_a

A3C, A2C and Stable-Baselines3, which stops when it has solved it, learn CartPole in turn. Prints a
table, and draws A3C and A2C: first_a.png. A step of CartPole pays 1, so the sum of returns counts
the steps; the clock starts as the first episode ends. Results are kept in first_a.json: remove it
to measure all of them again. Needs pip install scipy stable_baselines3.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from examples.train import train
from experiments import lab
from experiments.lab import Row
from experiments.learning import LARGE_LR, LEVELS, QUICK

DATA = Path(__file__).with_suffix(".json")
SEEDS, FEW = range(10), range(5)
A2C = "examples/a2c.py"
ASYNCHRONY = {
    "A3C, 1 worker": Row(SEEDS, {**QUICK, "N_WORKERS": 1}),
    "A3C, 2 workers": Row(SEEDS, {**QUICK, "N_WORKERS": 2}),
    "A3C, 8 workers": Row(SEEDS, {**QUICK, "N_WORKERS": 8}),
    # n and LR of A2C: the best of five pairs tried with seeds 100 to 102.
    "A2C, 2 environments": Row(SEEDS, {**QUICK, "N_ENVS": 2, "LR": 3e-3}, script=A2C),
    "A2C, 8 environments": Row(SEEDS, {**QUICK, "N_ENVS": 8, "LR": 8e-3}, script=A2C),
}
PEERS = {
    "A3C, 2 workers, n = 10, 0.99, 1e-3": Row(FEW, {**LARGE_LR, "N_WORKERS": 2}),
    "Stable-Baselines3 A2C, 8 environments": Row(FEW, script=None),
    "Stable-Baselines3 PPO, 8 environments": Row(FEW, script=None),
}
ROWS = {**ASYNCHRONY, **PEERS}


def measure(name, seed):
    """Return when a run solves CartPole, its speed, and points [steps, seconds, mean return]."""
    row = ROWS[name]
    if row.script is None:
        returns, times = train_peer(name.split()[1].strip(","), seed)
    else:
        with lab.copy() as folder:
            run = train(row.script, {**row.constants, "SEED": seed}, folder)
            if run.code != 0:
                sys.exit(run.errors or run.code)
            returns, times = lab.returns_of(run), run.times
    steps, seconds = np.cumsum(returns), np.array(times) - times[0]
    means = [returns[max(0, i - 99) : i + 1].mean() for i in range(len(returns))]
    points = np.column_stack([steps, seconds, means]).round(2).tolist()
    reached = [i for i in range(99, len(means)) if means[i] >= 195]
    solved = [reached[0] + 1, *points[reached[0]][:2]] if reached else None
    speed = round((steps[-1] - steps[0]) / seconds[-1])
    return {"solved": solved, "steps/s": speed, "curve": points[9::10]}


def train_peer(algorithm, seed):
    """Return the returns (n,) and times (n,) of Stable-Baselines3: defaults, but 8 environments."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    envs = make_vec_env("CartPole-v0", n_envs=8, seed=seed)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", envs, device="cpu", seed=seed)
    returns, times, _ = lab.train_peer(model, LEVELS["CartPole-v0"])
    return returns, times


def spread(values, digits=0):
    """Return the median of values and their range; inf: never."""
    low, median, high = (f"{x:,.{digits}f}" for x in (min(values), np.median(values), max(values)))
    return f"{median} ({low} to {high})".replace("inf", "never")


def draw(data):
    """Draw medians and quartiles of the seeds; a run that has ended keeps its last mean."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    runs = {name: [np.array(run["curve"]).T for run in seeds] for name, seeds in data.items()}
    # All have learned what they learn by then.
    sides = ((0, "Environment steps", 110_000), (1, "Seconds", 8))
    for ax, (column, label, end) in zip(axes, sides):
        grid = np.linspace(0, end, 300)
        for name, seeds in runs.items():
            means = [np.interp(grid, run[column], run[2]) for run in seeds]
            low, median, high = np.percentile(means, [25, 50, 75], axis=0)
            [line] = ax.plot(grid, median, label=name)
            ax.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        ax.axhline(195, color="gray", linestyle="--", linewidth=0.8)
        ax.set(xlabel=label)
    axes[0].set(ylabel="Mean of the last 100 returns")
    axes[1].legend(loc="lower right")
    fig.savefig(DATA.with_suffix(".png"), dpi=80)


def tables(data):
    """Return the table in Markdown: a line a row."""
    lines = []
    for name, runs in lab.results(data, ROWS).items():
        count = f"{sum(run['solved'] is not None for run in runs)} of {len(runs)}"
        episodes, steps, seconds = zip(*(run["solved"] or [np.inf] * 3 for run in runs))
        when = [spread(episodes), spread(steps), spread(seconds, 1)]
        lines.append([name, count, *when, spread([run["steps/s"] for run in runs])])
    return lab.table(["contestant", "solved", "episode", "steps", "seconds", "env steps/s"], lines)


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    print(tables(data))
    draw(lab.results(data, ASYNCHRONY))


if __name__ == "__main__":
    main()
