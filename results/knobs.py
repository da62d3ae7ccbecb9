"""Remake the README's table and figure of the knobs. Run: python results/knobs.py

Trains CartPole-v0 with each row of ROWS and each of SEEDS, prints the table and draws
readme_knobs.png. Every run is kept in readme_knobs.json and run again only with other constants:
delete that file to measure all of them on your machine (half an hour on 2 cores). Needs fork:
Linux or macOS.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import discrete_A3C as a3c  # first: it sets OMP_NUM_THREADS
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
from shared_adam import SharedAdam
from utils import evaluate, run_workers

DATA = Path(__file__).resolve().with_name("readme_knobs.json")
FIGURE = DATA.with_suffix(".png")
SEEDS = range(5)
KNOBS = "UPDATE_GLOBAL_ITER GAMMA LR MAX_GRAD_NORM ENTROPY_BETA MAX_EP".split()
SHIPPED = {name: getattr(a3c, name) for name in KNOBS} | {"N_WORKERS": 2}
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
BLOCK = 25  # episodes averaged into one point of a curve


def record(global_ep, global_ep_r, ep_r, res_queue, name):
    """Stand in for utils.record: queue the return as it is, with the time, and print nothing."""
    with global_ep.get_lock():
        global_ep.value += 1
        res_queue.put((ep_r, time.perf_counter()))


def train(constants, seed):
    """Run main of discrete_A3C.py with other `constants`; return what the table and figure need."""
    mp.set_start_method("fork", force=True)  # so that workers see the changed module
    constants = {**SHIPPED, **constants}
    for name, value in constants.items():
        setattr(a3c, name, value)
    a3c.record = record
    torch.manual_seed(seed)
    gnet = a3c.Net(a3c.N_S, a3c.N_A).share_memory()
    opt = SharedAdam(gnet.parameters(), lr=a3c.LR, betas=a3c.BETAS)
    counter, queue = mp.Value("i", 0), mp.SimpleQueue()
    workers = [a3c.Worker(gnet, opt, counter, None, queue, i) for i in range(a3c.N_WORKERS)]
    start = time.perf_counter()
    res, seconds, failure = run_workers(workers, queue)
    if failure is not None:
        raise SystemExit(failure)
    returns, times = np.array(res[: a3c.MAX_EP]).T
    moving_average = returns[0]
    for r in returns[1:]:
        moving_average = 0.99 * moving_average + 0.01 * r
    hundred = np.convolve(returns, np.ones(100), "valid")  # the first sums episodes 1 to 100
    solved = np.flatnonzero(hundred >= 100 * 195) + 100
    curve = returns[: len(returns) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1)
    return {
        "constants": constants,
        "solved": int(solved[0]) if len(solved) else None,
        "seconds": round(float(times[solved[0] - 1]) - start, 1) if len(solved) else None,
        "of all": round(seconds, 1),
        "moving average": round(float(moving_average), 1),
        "greedy": round(evaluate(gnet, a3c.env, seed), 1),
        "curve": curve.round(1).tolist(),
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
        ax.axhline(195, color="gray", linestyle="--", linewidth=0.8)
        ax.set_title(row.replace("`", ""), size=10)
    fig.supxlabel("Episode (gray: as shipped; dashed: solved)")
    fig.supylabel(f"Return, mean of {BLOCK} episodes: median and quartiles of {len(SEEDS)} seeds")
    fig.savefig(FIGURE, dpi=80)


def main():
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    for seed in SEEDS:  # all rows of a seed before the next: what else the machine does hits all
        for row, constants in ROWS.items():
            runs = data.setdefault(row, {})
            if runs.get(str(seed), {}).get("constants") != {**SHIPPED, **constants}:
                runs[str(seed)] = train(constants, seed)
                DATA.write_text(json.dumps(data, separators=(",", ":")) + "\n")
                print({"row": row, "seed": seed, **runs[str(seed)], "curve": "..."}, flush=True)
    print(table(data))
    draw(data)


if __name__ == "__main__":
    main()
