"""Measure the README's "what differs", each by its mistake. Run: python -m experiments.mistakes

Each mistake is a copy of the four files in which just those lines are broken, and runs beside the
right one, with the same seeds. What was measured is kept in mistakes.json, so that a run that was
stopped goes on; delete that file to measure again. Prints the table of experiments/README.md and
draws mistakes.png. Takes three quarters of an hour on 2 cores. Needs Linux, and Python below 3.14,
where workers are forked: without a fork OMP_NUM_THREADS is never too late.
"""

import json
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments import knobs, speed
from experiments.copies import Copy

DATA = Path(__file__).with_name("mistakes.json")
FIGURE = Path(__file__).with_name("mistakes.png")
SEEDS = range(10)
ROUNDS = 5  # of what is about speed

# The lines that each mistake breaks, as (file, old, new).
GRADIENTS = [("utils.py", "    lnet.zero_grad()  #", "    opt.zero_grad()  #")]
BUFFERS = [
    (
        "discrete_A3C.py",
        "max_grad_norm=MAX_GRAD_NORM)  # fmt: skip\n"
        "                    buffer_s, buffer_a, buffer_r = [], [], []\n",
        "max_grad_norm=MAX_GRAD_NORM)  # fmt: skip\n",
    )
]
STEP = [("shared_adam.py", "torch.tensor(0.0).share_memory_()", "torch.tensor(0.0)")]
LIMIT = [
    ("discrete_A3C.py", "lnet, gnet, terminated, s_", "lnet, gnet, terminated or truncated, s_")
]
ONE_SEED = [("discrete_A3C.py", "self.seed = torch.randint(2**31, ()).item()", "self.seed = SEED")]
OPENMP = speed.OPENMP_TOO_LATE
LEAK = [
    (
        "discrete_A3C.py",
        "                ep_r += r\n"
        "                if terminated and FALL_REWARD is not None:\n"
        "                    r = FALL_REWARD\n",
        "                true_r += r\n"
        "                if terminated and FALL_REWARD is not None:\n"
        "                    r = FALL_REWARD\n"
        "                ep_r += r\n",
    ),
    ("discrete_A3C.py", "ep_r = 0.0\n", "ep_r = true_r = 0.0\n"),
    (
        "discrete_A3C.py",
        "            record(",
        '            print("earned", true_r, "reported", ep_r)\n            record(',
    ),
]
# What is about learning: {mistake: (what is right, lines, episodes)}.
RIGHT = {"as shipped": {}, "the three tips": knobs.TIPS}
LEARNING = {
    "local gradients are not cleared": ("as shipped", GRADIENTS, 3000),
    # Fewer episodes: an update at every step takes time.
    "the buffers are not emptied": ("as shipped", BUFFERS, 1000),
    "Adam's `step` is private": ("as shipped", STEP, 3000),
    "all workers have one seed": ("as shipped", ONE_SEED, 3000),
    "a time limit passes for terminal": ("the three tips", LIMIT, 3000),
}
# What the figure shows of the lines, right and wrong.
SHOWN = {
    "local gradients are not cleared": ("lnet.zero_grad()", "opt.zero_grad()"),
    "the buffers are not emptied": (
        "push_and_pull(...)\nbuffer_s, ... = [], [], []",
        "push_and_pull(...)",
    ),
    "Adam's `step` is private": (
        "step = torch.tensor(0.0)\n.share_memory_()",
        "step = torch.tensor(0.0)",
    ),
    "all workers have one seed": ("seed = torch.randint(...)", "seed = SEED"),
    "a time limit passes for terminal": (
        "push_and_pull(...,\nterminated, ...)",
        "push_and_pull(...,\nterminated or truncated, ...)",
    ),
}


def copy_with(folder, changes, constants):
    """Return a copy of the collection in `folder`, with other lines and constants."""
    copy = Copy(folder)
    copy.set_constants("discrete_A3C.py", constants)
    for change in changes:
        copy.change(*change)
    return copy


def lines_of(changes, constants):
    """Run discrete_A3C.py, changed, and return the lines that it prints."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with tempfile.TemporaryDirectory(prefix="mistakes-") as folder:
        process = copy_with(folder, changes, constants).start("discrete_A3C.py", **pipes)
        text, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{text}The run ended with status {process.returncode}.")
    return text.splitlines()


def first_returns(changes, seed):
    """Return the first three returns of each of two workers."""
    changes = [*changes, ("utils.py", "{global_ep_r.value:.0f}", "{ep_r:.0f}")]
    returns = {"w00": [], "w01": []}
    for line in lines_of(changes, {"MAX_EP": 50, "N_WORKERS": 2, "SEED": seed}):
        episode = re.match(r"(w\d\d) Ep: \d+ \| Ep_r: (\d+)$", line)
        if episode:
            returns[episode[1]].append(int(episode[2]))
    return [returns["w00"][:3], returns["w01"][:3]]


def reports(seed):
    """Return [earned, reported] of 200 episodes where FALL_REWARD leaks into the report."""
    pairs = []
    for line in lines_of(LEAK, {"MAX_EP": 200, "N_WORKERS": 1, "SEED": seed}):
        pair = re.match(r"earned (\S+) reported (\S+)$", line)
        if pair:
            pairs.append([float(earned) for earned in pair.groups()])
    return pairs


def steps_per_second(prepare):
    rate, _ = speed.run_script("discrete_A3C.py", prepare, 2)
    return rate


def measurements():
    """Return (name, what, function, its arguments): `what` is a seed or a round."""
    found = []
    for seed in SEEDS:
        for name, constants in RIGHT.items():
            found.append((name, seed, knobs.train, (constants, seed)))
        for name, (right, changes, episodes) in LEARNING.items():
            constants = {**RIGHT[right], "MAX_EP": episodes}
            found.append((name, seed, knobs.train, (constants, seed, changes)))
        found.append(("first returns, right", seed, first_returns, ([], seed)))
        found.append(("first returns, one seed", seed, first_returns, (ONE_SEED, seed)))
        found.append(("reports with the leak", seed, reports, (seed,)))
    for number in range(ROUNDS):
        found.append(("steps/s, OpenMP in time", number, steps_per_second, (speed.shipped,)))
        found.append(("steps/s, OpenMP too late", number, steps_per_second, (speed.too_late,)))
    return found


def learned(runs, episodes):
    """Return the mean of the last 100 returns, and how many were solved by then, as text."""
    last = slice((episodes - 100) // knobs.BLOCK, episodes // knobs.BLOCK)
    means = [np.mean(run["curve"][last]) for run in runs]
    solved = sum(run["solved"] is not None and run["solved"] <= episodes for run in runs)
    return f"{knobs.spread(means)}, solved {solved} of {len(runs)}"


def afterwards(runs):
    """Return the mean of the returns from episode 1001 on, as text."""
    means = [np.mean(run["curve"][1000 // knobs.BLOCK :]) for run in runs]
    return f"{knobs.spread(means)} on average"


def rates(values):
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) steps/s"


def twins(pairs):
    """Return in how many seeds both workers began with the same returns, as text."""
    same = sum(first == second for first, second in pairs)
    return f"the workers begin with the same three returns in {same} seeds of {len(pairs)}"


def table(data):
    """Return the table in Markdown; of learning: the last 100 returns, median (low to high)."""
    lines = ["| mistake | right | with the mistake |", "|---|---|---|"]
    for name, (right, _, episodes) in LEARNING.items():
        cells = [f"{name}, {episodes} episodes, {right}"]
        cells += [learned(data[right], episodes), learned(data[name], episodes)]
        lines.append(f"| {' | '.join(cells)} |")
    name = "a time limit passes for terminal"
    cells = [afterwards(data[which]) for which in ("the three tips", name)]
    lines.append(f"| {name}, from episode 1001 on | {' | '.join(cells)} |")
    first = [twins(data[f"first returns, {which}"]) for which in ("right", "one seed")]
    lines.append(f"| all workers have one seed, the beginning | {' | '.join(first)} |")
    speeds = [rates(data[f"steps/s, OpenMP {when}"]) for when in ("in time", "too late")]
    lines.append(f"| `OMP_NUM_THREADS` below `import torch` | {' | '.join(speeds)} |")
    pairs = np.array([pair for run in data["reports with the leak"] for pair in run])
    off = np.unique(pairs[:, 0] - pairs[:, 1]).tolist()
    means = pairs.mean(axis=0)
    told = f"{means[1]:.1f} is reported; each of {len(pairs)} episodes is off by"
    told += f" {' or '.join(f'{x:g}' for x in off)}"
    lines.append(f"| the -1 of a fall is reported | {means[0]:.1f} on average | {told} |")
    return "\n".join(lines)


def draw_curves(ax, runs, color, code):
    curves = np.array([run["curve"] for run in runs])
    episodes = np.arange(1, 1 + curves.shape[1]) * knobs.BLOCK
    ax.plot(episodes, curves.T, color=color, linewidth=0.7, alpha=0.5)
    ax.plot(episodes, np.median(curves, axis=0), color=color, linewidth=2)
    ax.axhline(knobs.SOLVED, color="gray", linestyle="--", linewidth=0.8)
    ax.set_title(code, family="monospace", size=8)


def draw(data):
    """Draw right above wrong: each seed thin, their median thick. Below: what is no curve."""
    fig = plt.figure(figsize=(14, 9.5), layout="constrained")
    above, below = fig.subfigures(2, 1, height_ratios=[5, 3])
    axes = above.subplots(2, len(LEARNING), sharex=True, sharey=True)
    for (upper, lower), (name, (right, _, _)) in zip(axes.T, LEARNING.items()):
        draw_curves(upper, data[right], "C0", SHOWN[name][0])
        draw_curves(lower, data[name], "C3", SHOWN[name][1])
        lower.set_xlabel(f"Episode\n{name.replace('`', '')}", weight="bold")
    axes[0, 0].set_ylabel("right: return")
    axes[1, 0].set_ylabel("wrong: return")
    left, middle, right = below.subplots(1, 3)
    draw_beginnings(left, data)
    draw_threads(middle, data)
    draw_reports(right, data)
    fig.savefig(FIGURE, dpi=80)


def draw_beginnings(ax, data):
    for which, color, size in (("right", "C0", 30), ("one seed", "C3", 60)):
        w00, w01 = np.array(data[f"first returns, {which}"]).transpose(1, 0, 2)
        ax.scatter(w00, w01, color=color, s=size, alpha=0.6, label=which)
    ax.set(xlabel="first three returns of worker w00", ylabel="and of w01")
    ax.set_title("one seed: both workers play the same games", size=10)
    ax.legend()


def draw_threads(ax, data):
    medians = [
        statistics.median(data[f"steps/s, OpenMP {when}"]) for when in ("in time", "too late")
    ]
    bars = ax.bar(["above import torch", "below it"], medians, color=["C0", "C3"])
    ax.bar_label(bars, fmt="%.0f")
    ax.margins(y=0.1)
    ax.set_ylabel("environment steps/s, 2 workers")
    ax.set_title('os.environ["OMP_NUM_THREADS"] = "1"', family="monospace", size=9)


def draw_reports(ax, data):
    earned, reported = np.array(data["reports with the leak"][0][:20]).T
    episodes = range(1, 21)
    ax.plot(episodes, earned, "o-", color="C0", label="earned")
    ax.plot(episodes, reported, "o-", color="C3", label="reported")
    ax.set(xlabel="Episode", ylabel="return", xticks=range(0, 21, 5))
    ax.set_title("the -1 of a fall leaks into the report", size=10)
    ax.legend()


def main():
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    missing = [m for m in measurements() if len(data.get(m[0], [])) <= m[1]]
    begin = time.perf_counter()
    for done, (name, number, function, arguments) in enumerate(missing, 1):
        data.setdefault(name, []).append(function(*arguments))
        DATA.write_text(json.dumps(data, separators=(",", ":")) + "\n")
        left = (time.perf_counter() - begin) / done * (len(missing) - done) / 60
        text = f"{name}, seed or round {number}: {done} of {len(missing)}"
        print(f"{text}, {left:.0f} minutes left", flush=True)
    print(table(data))
    draw(data)


if __name__ == "__main__":
    main()
