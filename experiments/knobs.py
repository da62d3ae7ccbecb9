"""Measure the knobs: the README's table and figure. Run: python -m experiments.knobs

Trains CartPole-v0 with each row of ROWS and each of SEEDS, prints the table of
experiments/README.md and draws knobs.png. Each run is discrete_A3C.py with other constants, in a
copy of its own. What it gave is kept in knobs.json, and it is run again only with other constants:
delete that file to measure all of them on your machine (half an hour on 2 cores).
"""

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import discrete_A3C
from experiments.copies import Copy

DATA = Path(__file__).with_name("knobs.json")
FIGURE = Path(__file__).with_name("knobs.png")
SEEDS = range(5)
SOLVED = 195  # the mean of 100 returns in a row
BLOCK = 25  # episodes averaged into one point of a curve
SHIPPED = {
    "UPDATE_GLOBAL_ITER": discrete_A3C.UPDATE_GLOBAL_ITER,
    "GAMMA": discrete_A3C.GAMMA,
    "LR": discrete_A3C.LR,
    "MAX_GRAD_NORM": discrete_A3C.MAX_GRAD_NORM,
    "ENTROPY_BETA": discrete_A3C.ENTROPY_BETA,
    "MAX_EP": discrete_A3C.MAX_EP,
    "N_WORKERS": 2,
}
TIPS = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
ROWS = {
    "as shipped, 2 workers": {},
    "`UPDATE_GLOBAL_ITER = 10`": {"UPDATE_GLOBAL_ITER": 10},
    "`GAMMA = 0.99`": {"GAMMA": 0.99},
    "`LR = 1e-3`": {"LR": 1e-3},
    "`MAX_GRAD_NORM = 40`": {"MAX_GRAD_NORM": 40},
    "the three tips": TIPS,
    "the three tips, `GAMMA = 0.9`": {"UPDATE_GLOBAL_ITER": 10, "LR": 1e-3},
    "the three tips, `MAX_GRAD_NORM = 40`": {**TIPS, "MAX_GRAD_NORM": 40},
    "`ENTROPY_BETA = 0`": {"ENTROPY_BETA": 0.0},
    "`N_WORKERS = 1`": {"N_WORKERS": 1},
    "`N_WORKERS = 4`": {"N_WORKERS": 4},
}


def play(constants, seed):
    """Run discrete_A3C.py with other `constants`; return what it printed, read and timed.

    That is the return of each episode, the seconds from the start of the workers to each, the
    seconds of the whole run and the greedy policy's mean return.
    """
    returns = []
    times = []
    other = []
    with tempfile.TemporaryDirectory(prefix="knobs-") as folder:
        copy = Copy(folder)
        copy.set_constants("discrete_A3C.py", {**constants, "SEED": seed})
        # The return itself beside the moving average, which is rounded.
        copy.change("utils.py", "{global_ep_r.value:.0f}", "{global_ep_r.value:.0f} | {ep_r}")
        begin = "    begin = time.perf_counter()\n"
        copy.change("utils.py", begin, f'{begin}    print("The workers start", flush=True)\n')
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with copy.start("discrete_A3C.py", **pipes) as process:
            for line in process.stdout:
                now = time.perf_counter()
                episode = re.match(r"w\d\d Ep: \d+ \| Ep_r: -?\d+ \| (\S+)$", line)
                if line == "The workers start\n":
                    start = now
                elif episode:
                    returns.append(float(episode[1]))
                    times.append(now - start)
                else:
                    other.append(line)
    text = "".join(other)
    if process.returncode != 0:
        raise SystemExit(f"{text}This run ended with status {process.returncode}: {constants}")
    seconds = float(re.search(r"^\d+ episodes in (\S+) s, ", text, re.MULTILINE)[1])
    greedy = float(re.search(r"^Greedy policy: mean return (\S+) over", text, re.MULTILINE)[1])
    return np.array(returns), np.array(times), seconds, greedy


def solving_episode(returns):
    """Return the number of the episode at which 100 in a row average SOLVED, or None."""
    sums = np.convolve(returns, np.ones(100), "valid")  # the first one is of episodes 1 to 100
    reached = np.flatnonzero(sums >= 100 * SOLVED)
    return int(reached[0]) + 100 if len(reached) else None


def train(constants, seed):
    """Train with other `constants` than the shipped ones; return what table and figure need."""
    constants = {**SHIPPED, **constants}
    returns, times, seconds, greedy = play(constants, seed)
    returns = returns[: constants["MAX_EP"]]  # without what other workers had under way
    moving_average = returns[0]
    for r in returns[1:]:
        moving_average = 0.99 * moving_average + 0.01 * r
    solved = solving_episode(returns)
    blocks = returns[: len(returns) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return {
        "constants": constants,
        "solved": solved,
        "seconds": None if solved is None else round(float(times[solved - 1]), 1),
        "of all": seconds,
        "moving average": round(float(moving_average), 1),
        "greedy": greedy,
        "curve": blocks.mean(axis=1).round(1).tolist(),
    }


def table(data):
    """Return the table in Markdown: medians, and (low to high); to solve: of those that did."""
    lines = ["| changed | solved | episodes to solve | seconds | final moving average | greedy |"]
    lines.append("|---|---|---|---|---|---|")
    for row in ROWS:
        runs = [data[row][str(seed)] for seed in SEEDS]
        solved = [run for run in runs if run["solved"]]
        cells = [row, f"{len(solved)} of {len(runs)}"]
        for key in ("solved", "seconds"):
            cells.append(f"{np.median([run[key] for run in solved]):.0f}" if solved else "-")
        for key in ("moving average", "greedy"):
            values = [run[key] for run in runs]
            cells.append(f"{np.median(values):.0f} ({min(values):.0f} to {max(values):.0f})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(data):
    """Draw median and quartiles over the seeds of each row's curve, the shipped one behind it."""
    fig, axes = plt.subplots(3, 4, figsize=(13, 8), sharex=True, sharey=True, layout="constrained")
    curves = {row: np.array([data[row][str(seed)]["curve"] for seed in SEEDS]) for row in ROWS}
    episodes = np.arange(1, 1 + SHIPPED["MAX_EP"] // BLOCK) * BLOCK
    axes.flat[-1].remove()  # 11 rows
    for ax, (row, curve) in zip(axes.flat, curves.items()):
        ax.plot(episodes, np.median(curves["as shipped, 2 workers"], axis=0), color="silver")
        low, median, high = np.percentile(curve, [25, 50, 75], axis=0)
        ax.fill_between(episodes, low, high, alpha=0.3, linewidth=0)
        ax.plot(episodes, median)
        ax.axhline(SOLVED, color="gray", linestyle="--", linewidth=0.8)
        ax.set_title(row.replace("`", ""), size=10)
    fig.supxlabel("Episode (gray: as shipped; dashed: solved)")
    fig.supylabel(f"Return, mean of {BLOCK} episodes: median and quartiles of {len(SEEDS)} seeds")
    fig.savefig(FIGURE, dpi=80)


def main():
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    # All rows of a seed before the next seed: what else the machine does then hits all rows.
    for seed in SEEDS:
        for row, constants in ROWS.items():
            runs = data.setdefault(row, {})
            kept = runs.get(str(seed))
            if kept is None or kept["constants"] != {**SHIPPED, **constants}:
                runs[str(seed)] = train(constants, seed)
                DATA.write_text(json.dumps(data, separators=(",", ":")) + "\n")
                print({"row": row, "seed": seed, **runs[str(seed)], "curve": "..."}, flush=True)
    print(table(data))
    draw(data)


if __name__ == "__main__":
    main()
