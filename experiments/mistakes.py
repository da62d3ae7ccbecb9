"""Measure the README's "what differs", one mistake at a time. Run: python -m experiments.mistakes

Each mistake is a copy of the four files in which just those lines are broken, and runs beside the
right one, with the same seeds. What was measured is kept in mistakes.json, and measured again only
with other constants, lines or code; delete that file to measure all of it again. Prints the tables
of experiments/README.md and draws mistakes.png. Takes an hour and a quarter on 2 cores. Needs
Linux, and Python below 3.14, where workers are forked: without a fork OMP_NUM_THREADS is never too
late.
"""

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
SCRIPT = "discrete_A3C.py"
PATIENCE = 10  # seconds without a new line until a run counts as standing still
LOADING = 30  # seconds until the first episode: torch takes its time

# The lines that each mistake breaks, as (file, old, new).
GRADIENTS = [("utils.py", "    lnet.zero_grad()  #", "    opt.zero_grad()  #")]
BUFFERS = [
    (
        SCRIPT,
        "max_grad_norm=MAX_GRAD_NORM)  # fmt: skip\n"
        "                    buffer_s, buffer_a, buffer_r = [], [], []\n",
        "max_grad_norm=MAX_GRAD_NORM)  # fmt: skip\n",
    )
]
STEP = [("shared_adam.py", "torch.tensor(0.0).share_memory_()", "torch.tensor(0.0)")]
INT_STEP = [
    ("shared_adam.py", "torch.tensor(0.0).share_memory_()", "0"),
    # As in the tutorial's listing, Adam is not fused.
    ("shared_adam.py", ", fused=True", ""),
]
LIMIT = [(SCRIPT, "lnet, gnet, terminated, s_", "lnet, gnet, terminated or truncated, s_")]
ONE_SEED = [(SCRIPT, "self.seed = torch.randint(2**31, ()).item()", "self.seed = SEED")]
LEAK = [
    (
        SCRIPT,
        "                ep_r += r\n"
        "                if terminated and FALL_REWARD is not None:\n"
        "                    r = FALL_REWARD\n",
        "                if terminated and FALL_REWARD is not None:\n"
        "                    r = FALL_REWARD\n"
        "                ep_r += r\n",
    )
]
UNREAD = [
    (
        "utils.py",
        "            if res_queue.empty():\n",
        "            if not ended.is_set():\n",
    )
]
FIRST_DONE = [
    ("utils.py", "        while running:\n", "        while len(running) == len(workers):\n")
]
FAULT = [
    (
        SCRIPT,
        "            s, _ = env.reset()  # S3: get state\n",
        "            s, _ = env.reset()\n"
        '            if self.name == "w01" and self.g_ep.value >= 50:\n'
        '                raise RuntimeError("a fault of the environment")\n',
    )
]
# The parent waits until each worker has put None on the queue, as many A3C programs do.
WAIT_FOR_ALL = [
    *FAULT,
    (
        SCRIPT,
        "self.res_queue, self.name)\n",
        "self.res_queue, self.name)\n        self.res_queue.put(None)\n",
    ),
    (
        "utils.py",
        "            if result is not None:\n                res.append(result)\n",
        "            res.append(result)\n",
    ),
    (
        "utils.py",
        "        while running:\n            for sentinel in wait(running, timeout=1):\n",
        "        while res.count(None) < len(workers):\n"
        "            time.sleep(0.01)\n"
        "            for sentinel in ():\n",
    ),
]
TWO_LOCKS = [
    (
        "utils.py",
        "        if global_ep.value == 1:\n",
        "    with global_ep_r.get_lock():\n        if global_ep.value == 1:\n",
    )
]
NO_AVERAGE = [("utils.py", "if global_ep.value == 1:", "if global_ep_r.value == 0:")]
RECORD = """
import torch.multiprocessing as mp
from utils import record
global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
for ep_r in (0.0, 100.0):
    record(global_ep, global_ep_r, ep_r, res_queue, "w00")
"""


def copy_with(folder, changes, constants):
    """Return a copy of the collection in `folder`, with other lines and constants."""
    copy = Copy(folder)
    copy.set_constants(SCRIPT, constants)
    for change in changes:
        copy.change(*change)
    return copy


def run(constants, seed, changes, arguments=(SCRIPT,)):
    """Run `python arguments` in a changed copy; return the lines that it prints, and its status.

    A run that prints nothing more for PATIENCE seconds is ended, and its status is None.
    """
    with tempfile.TemporaryDirectory(prefix="mistakes-") as folder:
        copy = copy_with(folder, changes, {**constants, "SEED": seed})
        printed = copy.folder / "printed"
        with open(printed, "w") as output:
            process = copy.start(*arguments, stdout=output, stderr=subprocess.STDOUT)
        text = ""
        grown = time.monotonic()
        try:
            while process.poll() is None:
                limit = PATIENCE if " Ep: " in text else LOADING
                if time.monotonic() - grown > limit:
                    break
                time.sleep(0.1)
                if printed.read_text() != text:
                    text = printed.read_text()
                    grown = time.monotonic()
            status = process.poll()
        finally:
            process.kill()
            process.wait()
        return printed.read_text().splitlines(), status


def whole_run(constants, seed, changes, arguments=(SCRIPT,)):
    """Return the lines of a run that ends well."""
    lines, status = run(constants, seed, changes, arguments)
    if status != 0:
        raise SystemExit("\n".join([*lines, f"The run ended with status {status}."]))
    return lines


def returns(constants, seed, changes):
    """Return the reported return of each episode of each worker."""
    changes = [*changes, ("utils.py", "{global_ep_r.value:.2f}", "{ep_r:.0f}")]
    found = {}
    for line in whole_run(constants, seed, changes):
        episode = re.match(r"(w\d\d) Ep: \d+ \| Ep_r: (\d+)$", line)
        if episode:
            found.setdefault(episode[1], []).append(int(episode[2]))
    return {"returns": found}


def steps_per_second(constants, seed, changes):
    rate, _ = speed.run_script(SCRIPT, lambda folder, _: copy_with(folder, changes, constants), 2)
    return {"steps/s": rate}


def episode_numbers(lines):
    numbers = re.findall(r"^w\d\d Ep: (\d+) \|", "\n".join(lines), re.MULTILINE)
    return [int(number) for number in numbers]


def end(constants, seed, changes):
    """Return how a run ends: the episodes, the exit status, and what Python or the run says."""
    lines, status = run(constants, seed, changes)
    errors = [line for line in lines if re.match(r"\w+Error: ", line)]
    episodes = max(episode_numbers(lines), default=0)
    return {
        "episodes": episodes,
        "status": status,
        "errors": errors,
        "last line": lines[-1] if lines else "",
    }


def gathered(constants, seed, changes):
    """Return how many returns reach the parent."""
    text = "\n".join(whole_run(constants, seed, changes))
    return {"gathered": int(re.search(r"^(\d+) episodes in ", text, re.MULTILINE)[1])}


def numbers(constants, seed, changes):
    """Return how many numbers of episodes are printed more than once, and how many never."""
    found = episode_numbers(whole_run(constants, seed, changes))
    once = set(found)
    twice = sum(found.count(number) > 1 for number in once)
    return {"twice": twice, "never": max(found) - len(once)}


def average(constants, seed, changes):
    """Return the moving average after a return of 0 and one of 100."""
    lines = whole_run(constants, seed, changes, ("-c", RECORD))
    return {"average": round(float(re.search(r"Ep: 2 \| Ep_r: (\S+)$", lines[-1])[1]))}


def values(runs, key):
    """Return "median (lowest to highest)", or the value where all are the same."""
    found = [run[key] for run in runs]
    if min(found) == max(found):
        return f"{found[0]}"
    return f"{statistics.median(found):.0f} ({min(found):.0f} to {max(found):.0f})"


def tell_rates(runs):
    return f"{values(runs, 'steps/s')} steps/s"


def tell_beginnings(runs):
    same = 0
    for run in runs:
        same += run["returns"]["w00"][:3] == run["returns"]["w01"][:3]
    return f"the workers begin with the same three returns in {same} seeds of {len(runs)}"


def tell_reports(runs):
    found = np.concatenate([run["returns"]["w00"] for run in runs])
    return f"{found.mean():.1f} on average, of {len(found)} episodes"


def tell_end(runs):
    if len({run["status"] for run in runs}) > 1:
        raise ValueError(f"Some of these runs end and some do not: {runs}")
    if all(run["status"] is None for run in runs):
        return f"stands still after episode {values(runs, 'episodes')}"
    text = f"ends after {values(runs, 'episodes')} episodes"
    if all(run["status"] for run in runs):
        last_line, _, _ = runs[0]["last line"].partition(":")
        text += f": `{last_line}`"
    return text


def tell_error(runs):
    # The error itself has backticks.
    return f"``{runs[0]['errors'][0]}``" if runs[0]["errors"] else tell_end(runs)


def tell_gathered(runs):
    return f"{values(runs, 'gathered')} returns reach the parent"


def tell_numbers(runs):
    twice, never = values(runs, "twice"), values(runs, "never")
    return f"{twice} numbers of 3000 come more than once, {never} never"


def tell_average(runs):
    return f"after returns of 0 and 100 it is {values(runs, 'average')}"


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
# What is not: {mistake: (measure, tell, constants, lines of the right one, of the wrong one)}.
BEGINNINGS = "all workers have one seed, the beginning"
OPENMP = "`OMP_NUM_THREADS` below `import torch`"
REPORTS = "the -1 of a fall is reported"
ONE_WORKER = {"MAX_EP": 200, "N_WORKERS": 1}  # so that right and wrong play the same games
SHORT = {"LR": 1e-9, "MAX_EP": 200}  # nothing is learned, so the episodes stay short
MANY = {"LR": 1e-9, "N_WORKERS": 8}
OTHER = {
    "Adam's `step` is an int": (end, tell_error, SHORT, [], INT_STEP),
    BEGINNINGS: (returns, tell_beginnings, {"MAX_EP": 50}, [], ONE_SEED),
    OPENMP: (steps_per_second, tell_rates, {}, [], speed.OPENMP_TOO_LATE),
    "the queue is not read before all are done": (end, tell_end, {"LR": 1e-9}, [], UNREAD),
    "the parent stops at the first worker that is done": (
        gathered, tell_gathered, {**MANY, "MAX_EP": 200}, [], FIRST_DONE,
    ),
    "the parent waits for a worker that died": (end, tell_end, SHORT, FAULT, WAIT_FOR_ALL),
    "counter and average have a lock each": (numbers, tell_numbers, MANY, [], TWO_LOCKS),
    "an average of 0 passes for none": (average, tell_average, {}, [], NO_AVERAGE),
    REPORTS: (returns, tell_reports, ONE_WORKER, [], LEAK),
}  # fmt: skip
# What is run: {row: (measure, constants, lines)}, and the seeds of each row.
ROWS = {}
SEEDS = {}
for name, constants in RIGHT.items():
    ROWS[name] = (knobs.train, constants, [])
    SEEDS[name] = range(10)
for name, (right, lines, episodes) in LEARNING.items():
    ROWS[name] = (knobs.train, {**RIGHT[right], "MAX_EP": episodes}, lines)
    SEEDS[name] = range(10)
for name, (measure, _, constants, right, wrong) in OTHER.items():
    ROWS[f"{name}: right"] = (measure, constants, right)
    ROWS[f"{name}: wrong"] = (measure, constants, wrong)
    SEEDS[f"{name}: right"] = SEEDS[f"{name}: wrong"] = range(5)
# Here ten seeds are too few to tell right from wrong.
SEEDS["as shipped"] = SEEDS["Adam's `step` is private"] = range(20)
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


def expected(row):
    """Return the constants and lines with which `row` is run, as they are kept in the data."""
    _, constants, lines = ROWS[row]
    return {**knobs.SHIPPED, **constants, "lines": [list(line) for line in lines]}


def measure_row(row, seed):
    measure, constants, lines = ROWS[row]
    result = measure({**knobs.SHIPPED, **constants}, seed, lines)
    return {**result, "constants": expected(row)}


def runs_of(data, row, seeds=None):
    return [data[row][str(seed)] for seed in seeds or SEEDS[row]]


def last_100(run, episodes):
    """Return the mean of the last 100 returns of the first `episodes`."""
    last = slice((episodes - 100) // knobs.BLOCK, episodes // knobs.BLOCK)
    return np.mean(run["curve"][last])


def tell_learned(runs, episodes):
    """Return the mean of the last 100 returns, and how many were solved by then, as text."""
    means = [last_100(run, episodes) for run in runs]
    solved = sum(run["solved"] is not None and run["solved"] <= episodes for run in runs)
    return f"{knobs.spread(means)}, solved {solved} of {len(runs)}"


def tell_afterwards(runs):
    """Return the mean of the returns from episode 1001 on, as text."""
    means = [np.mean(run["curve"][1000 // knobs.BLOCK :]) for run in runs]
    return f"{knobs.spread(means)} on average"


def table(data):
    """Return the table in Markdown; of learning: the last 100 returns, median (low to high)."""
    lines = ["| mistake | right | with the mistake |", "|---|---|---|"]
    for name, (right, _, episodes) in LEARNING.items():
        cells = [f"{name}, {episodes} episodes, {right}"]
        for row in (right, name):
            cells.append(tell_learned(runs_of(data, row, SEEDS[name]), episodes))
        lines.append(f"| {' | '.join(cells)} |")
    name = "a time limit passes for terminal"
    cells = [tell_afterwards(runs_of(data, row)) for row in ("the three tips", name)]
    lines.append(f"| {name}, from episode 1001 on | {' | '.join(cells)} |")
    for name, (_, tell, _, _, _) in OTHER.items():
        cells = [tell(runs_of(data, f"{name}: {which}")) for which in ("right", "wrong")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seeds_table(data):
    """Return a table in Markdown of how each seed learns."""
    lines = [
        f"| run | a mean of {knobs.BLOCK} reaches 100 after | seconds, `SEED` 0 to 4"
        f" | each seed: last 100 returns (highest mean of {knobs.BLOCK}) |",
        "|---|---|---|---|",
    ]
    for row in (*RIGHT, *LEARNING):
        runs = runs_of(data, row)
        episodes = expected(row)["MAX_EP"]
        reached = []
        seeds = []
        for run in runs:
            above = np.flatnonzero(np.array(run["curve"]) >= 100)
            if len(above):
                reached.append((above[0] + 1) * knobs.BLOCK)
            seeds.append(f"{last_100(run, episodes):.0f} ({max(run['curve']):.0f})")
        first = knobs.spread(reached) + f" episodes in {len(reached)} seeds of {len(runs)}"
        seconds = knobs.spread([run["of all"] for run in runs[:5]])  # those of one machine
        lines.append(f"| {row} | {first} | {seconds} | {', '.join(seeds)} |")
    return "\n".join(lines)


def draw_curves(ax, runs, color, code):
    curves = np.array([run["curve"] for run in runs])
    episodes = np.arange(1, 1 + curves.shape[1]) * knobs.BLOCK
    ax.plot(episodes, curves.T, color=color, linewidth=0.7, alpha=0.5)
    ax.plot(episodes, np.median(curves, axis=0), color=color, linewidth=2.5)
    ax.axhline(knobs.SOLVED, color="gray", linestyle="--", linewidth=0.8)
    ax.set_title(code, family="monospace", size=9)


def draw(data):
    """Draw right above wrong: each seed thin, their median thick. Below: what is no curve."""
    fig = plt.figure(figsize=(14, 10), layout="constrained")
    fig.suptitle(
        "A3C on CartPole-v0: one line right (blue), and the same line wrong (red)\n", size=14
    )
    above, below = fig.subfigures(2, 1, height_ratios=[5, 3])
    axes = above.subplots(2, len(LEARNING), sharex=True, sharey=True)
    for (upper, lower), (name, (right, _, _)) in zip(axes.T, LEARNING.items()):
        draw_curves(upper, runs_of(data, right, SEEDS[name]), "C0", SHOWN[name][0])
        draw_curves(lower, runs_of(data, name), "C3", SHOWN[name][1])
        lower.set_xlabel(f"Episode\n{name.replace('`', '')}", weight="bold")
    axes[0, 0].set_ylabel("right: return")
    axes[1, 0].set_ylabel("wrong: return")
    axes[0, 0].text(1750, 20, "thin: a seed\nthick: median\ndashed: solved")
    left, middle, right = below.subplots(1, 3)
    draw_beginnings(left, data)
    draw_threads(middle, data)
    draw_reports(right, data)
    fig.savefig(FIGURE, dpi=80)


def draw_beginnings(ax, data):
    for which, color, size in [("right", "C0", 30), ("wrong", "C3", 60)]:
        w00, w01 = [], []
        for run in runs_of(data, f"{BEGINNINGS}: {which}"):
            w00 += run["returns"]["w00"][:3]
            w01 += run["returns"]["w01"][:3]
        ax.scatter(w00, w01, color=color, s=size, alpha=0.6, label=which)
    ax.set(xlabel="first three returns of worker w00", ylabel="and of w01")
    ax.set_title("one seed: the workers begin with the same games", size=10)
    ax.legend()


def draw_threads(ax, data):
    medians = []
    for which in ("right", "wrong"):
        runs = runs_of(data, f"{OPENMP}: {which}")
        medians.append(statistics.median(run["steps/s"] for run in runs))
    bars = ax.bar(["above import torch", "below it"], medians, color=["C0", "C3"])
    ax.bar_label(bars, fmt="%.0f")
    ax.margins(y=0.1)
    ax.set_ylabel("environment steps/s, 2 workers")
    ax.set_title('os.environ["OMP_NUM_THREADS"] = "1"', family="monospace", size=9)


def draw_reports(ax, data):
    episodes = range(1, 21)
    for which, label, color in (("right", "earned", "C0"), ("wrong", "reported", "C3")):
        shown = data[f"{REPORTS}: {which}"]["0"]["returns"]["w00"][:20]
        ax.plot(episodes, shown, "o-", color=color, label=label)
    ax.set(xlabel="Episode", ylabel="return", xticks=range(0, 21, 5))
    ax.set_title("the -1 of a fall leaks into the report", size=10)
    ax.legend()


def main():
    data = knobs.fill(DATA, SEEDS, measure_row, expected)
    print(table(data), seeds_table(data), sep="\n\n")
    draw(data)


if __name__ == "__main__":
    main()
