"""Measure the knobs: the README's table and figure. Run: python -m experiments.knobs

Trains CartPole-v0 with each row of ROWS and the seeds of that row, prints the tables of
experiments/README.md and draws knobs.png. Each run is discrete_A3C.py with other constants, in a
copy of its own. What it gave is kept in knobs.json, and it is run again only with other constants
or other code: delete that file to measure all of them on your machine (an hour and a half on 2
cores).
"""

import json
import math
import re
import subprocess
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import discrete_A3C
from experiments.copies import Copy, code_of

DATA = Path(__file__).with_name("knobs.json")
FIGURE = Path(__file__).with_name("knobs.png")
GREEDY_EPISODES = 100
SOLVED = 195  # the mean of 100 returns in a row
BLOCK = 25  # episodes averaged into one point of a curve
SHIPPED = {
    "UPDATE_GLOBAL_ITER": discrete_A3C.UPDATE_GLOBAL_ITER,
    "GAMMA": discrete_A3C.GAMMA,
    "LR": discrete_A3C.LR,
    "BETAS": list(discrete_A3C.BETAS),
    "MAX_GRAD_NORM": discrete_A3C.MAX_GRAD_NORM,
    "ENTROPY_BETA": discrete_A3C.ENTROPY_BETA,
    "FALL_REWARD": discrete_A3C.FALL_REWARD,
    "MAX_EP": discrete_A3C.MAX_EP,
    "N_WORKERS": 2,
}
# What learning does without annealing, as (old, new).
NOT_ANNEALED = [("LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)", "LR")]
TIPS = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
ROWS = {
    "as shipped, 2 workers": {},
    "`UPDATE_GLOBAL_ITER = 10`": {"UPDATE_GLOBAL_ITER": 10},
    "`GAMMA = 0.99`": {"GAMMA": 0.99},
    "`LR = 1e-3`": {"LR": 1e-3},
    "`LR` not annealed": {},
    "`BETAS = (0.9, 0.99)`": {"BETAS": [0.9, 0.99]},
    "`MAX_GRAD_NORM = 40`": {"MAX_GRAD_NORM": 40},
    "the three tips": TIPS,
    "the three tips, `GAMMA = 0.9`": {"UPDATE_GLOBAL_ITER": 10, "LR": 1e-3},
    "the three tips, `MAX_GRAD_NORM = 40`": {**TIPS, "MAX_GRAD_NORM": 40},
    "`ENTROPY_BETA = 0`": {"ENTROPY_BETA": 0.0},
    "`FALL_REWARD = None`": {"FALL_REWARD": None},
    "`N_WORKERS = 1`": {"N_WORKERS": 1},
    "`N_WORKERS = 4`": {"N_WORKERS": 4},
    "`N_WORKERS = 8`": {"N_WORKERS": 8},
}
LINES = {"`LR` not annealed": NOT_ANNEALED}  # rows of which lines are other ones
SEEDS = dict.fromkeys(ROWS, range(10))
SEEDS["as shipped, 2 workers"] = SEEDS["the three tips"] = range(20)


def play(constants, seed, changes=(), script="discrete_A3C.py"):
    """Run `script` with other `constants`; return what it printed, read and timed.

    That is the return of each episode, the seconds from the start of the workers to each, the
    seconds of the whole run and the returns of GREEDY_EPISODES of the greedy policy. `changes`:
    texts of the copy that are other ones, as (file, old, new).
    """
    returns = []
    times = []
    other = []
    with tempfile.TemporaryDirectory(prefix="knobs-") as folder:
        copy = Copy(folder)
        copy.set_constants(script, {**constants, "SEED": seed})
        for change in changes:
            copy.change(*change)
        # The return itself beside the moving average, which is rounded.
        copy.change("utils.py", "{global_ep_r.value:.2f}", "{global_ep_r.value:.2f} | {ep_r}")
        begin = "    begin = time.perf_counter()\n"
        copy.change(script, begin, f'{begin}    print("The workers start", flush=True)\n')
        greedy = f"[float(evaluate(gnet, env, seed, 1)) for seed in range({GREEDY_EPISODES})]"
        end = "    print_greedy("
        copy.change(script, end, f"    print('Greedy:', {greedy})\n{end}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        module = script.removesuffix(".py").replace("/", ".")
        with copy.start("-m", module, **pipes) as process:
            for line in process.stdout:
                now = time.perf_counter()
                episode = re.match(r"w\d\d Ep: \d+ \| Ep_r: \S+ \| (\S+)$", line)
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
    greedy = json.loads(re.search(r"^Greedy: (.*)$", text, re.MULTILINE)[1])
    return np.array(returns), np.array(times), seconds, np.array(greedy)


def solving_episode(returns, solved=SOLVED):
    """Return the number of the episode at which 100 in a row average `solved`, or None."""
    sums = np.convolve(returns, np.ones(100), "valid")  # the first one is of episodes 1 to 100
    reached = np.flatnonzero(sums >= 100 * solved)
    return int(reached[0]) + 100 if len(reached) else None


def train(constants, seed, changes=()):
    """Train with other `constants` than the shipped ones; return what table and figure need."""
    constants = {**SHIPPED, **constants}
    returns, times, seconds, greedy = play(constants, seed, changes)
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
        "greedy": round(float(greedy.mean()), 1),
        "greedy, standard error": round(float(greedy.std(ddof=1) / len(greedy) ** 0.5), 1),
        "curve": blocks.mean(axis=1).round(1).tolist(),
    }


def expected(row):
    """Return the constants with which `row` is run, as they are kept in the data."""
    constants = {**SHIPPED, **ROWS[row]}
    if row in LINES:
        constants["lines"] = [list(line) for line in LINES[row]]
    return constants


def train_row(row, seed):
    changes = [("discrete_A3C.py", old, new) for old, new in LINES.get(row, [])]
    return {**train(ROWS[row], seed, changes), "constants": expected(row)}


def interval(k, n):
    """Return the 95% interval of a share of which k of n were seen (Wilson's score interval)."""
    z = 1.96
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (k * (n - k) / n + z**2 / 4) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def spread(values):
    """Return "median (low to high)": of 20 values or more from the 10% to the 90% quantile."""
    ends = [10, 90] if len(values) >= 20 else [0, 100]
    low, high = np.percentile(values, ends)
    return f"{np.median(values):.0f} ({low:.0f} to {high:.0f})"


def greedy_cell(runs):
    """Return the greedy scores of `runs`; behind ±, the median of their standard errors."""
    error = np.median([run["greedy, standard error"] for run in runs])
    return f"{spread([run['greedy'] for run in runs])} ± {error:.1f}"


def runs_of(data, row, seeds):
    """Return those results of `row` that are in the data."""
    found = data.get(row, {})
    return [found[str(seed)] for seed in seeds if str(seed) in found]


def table(data):
    """Return the table in Markdown; episodes and seconds are medians of those that solved it."""
    header = "| changed | solved (95% interval) | episodes to solve | seconds"
    lines = [
        f"{header} | final moving average | greedy ± standard error |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = runs_of(data, row, SEEDS[row])
        if not runs:
            continue
        solved = [run for run in runs if run["solved"]]
        low, high = interval(len(solved), len(runs))
        cells = [row, f"{len(solved)} of {len(runs)} ({low:.0%} to {high:.0%})"]
        for key in ("solved", "seconds"):
            cells.append(f"{np.median([run[key] for run in solved]):.0f}" if solved else "-")
        cells.append(spread([run["moving average"] for run in runs]))
        cells.append(greedy_cell(runs))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def highest(curve):
    """Return the highest mean of 100 episodes that begin at a point of the curve."""
    points = 100 // BLOCK
    return max(np.convolve(curve, np.ones(points) / points, "valid"))


def fell_again(run, limit):
    """Return whether a mean of BLOCK episodes was below `limit` after the run was solved."""
    if run["solved"] is None:
        return False
    later = run["curve"][math.ceil(run["solved"] / BLOCK) :]
    return bool(later) and min(later) < limit


def steadiness(data):
    """Return a table in Markdown of how steady the runs of each row are."""
    lines = [
        "| changed | episodes to solve | highest mean of 100, seen every 25"
        " | fell below 150 after it was solved | below 150 after episode 2000"
        f" | means of {BLOCK} below 190 after episode 1500 | greedy below 195 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = runs_of(data, row, SEEDS[row])
        if not runs:
            continue
        solved = [run["solved"] for run in runs if run["solved"]]
        fell = sum(fell_again(run, 150) for run in runs)
        low = sum(min(run["curve"][2000 // BLOCK :]) < 150 for run in runs)
        late = np.array([run["curve"][1500 // BLOCK :] for run in runs])
        failing = sum(run["greedy"] < SOLVED for run in runs)
        cells = [row, spread(solved) if solved else "-"]
        cells.append(spread([highest(run["curve"]) for run in runs]))
        cells += [f"{fell} of {len(solved)}", f"{low} of {len(runs)}", f"{(late < 190).mean():.0%}"]
        cells.append(f"{failing} of {len(runs)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def unsolved(data, row="as shipped, 2 workers"):
    """Return a table in Markdown of the seeds of `row` that did not solve CartPole."""
    lines = [
        "| `SEED` | highest mean of 100, seen every 25"
        f" | means of {BLOCK} after episode 2000 | greedy |",
        "|---|---|---|---|",
    ]
    for seed in SEEDS[row]:
        run = data.get(row, {}).get(str(seed))
        if run is not None and run["solved"] is None:
            late = run["curve"][2000 // BLOCK :]
            cells = [f"{seed}", f"{highest(run['curve']):.0f}"]
            cells += [f"{min(late):.0f} to {max(late):.0f}", f"{run['greedy']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(data, seeds, shipped, figure, solved=None):
    """Draw median and quartiles of the curves of each row, those of the row `shipped` behind.

    `seeds` holds the seeds of each row; those without data are left out. A dashed line shows the
    return `solved`.
    """
    curves = {}
    for row in seeds:
        runs = runs_of(data, row, seeds[row])
        if runs:
            curves[row] = np.array([run["curve"] for run in runs])
    n_columns = 4
    n_rows = math.ceil(len(curves) / n_columns)
    size = (13, 0.5 + 2.4 * n_rows)
    fig = plt.figure(figsize=size, layout="constrained")
    axes = fig.subplots(n_rows, n_columns, sharex=True, sharey=True).flat
    for ax, row in zip(axes, curves):
        episodes = np.arange(1, 1 + curves[row].shape[1]) * BLOCK
        if shipped in curves:
            ax.plot(episodes, np.median(curves[shipped], axis=0), color="silver")
        low, median, high = np.percentile(curves[row], [25, 50, 75], axis=0)
        ax.fill_between(episodes, low, high, alpha=0.3, linewidth=0)
        ax.plot(episodes, median)
        if solved is not None:
            ax.axhline(solved, color="gray", linestyle="--", linewidth=0.8)
        ax.set_title(row.replace("`", ""), size=10)
    for ax in axes[max(0, len(curves) - n_columns) : len(curves)]:
        ax.tick_params(labelbottom=True)  # the lowest of each column
    for ax in axes[len(curves) :]:
        ax.remove()
    dashed = "" if solved is None else "; dashed: solved"
    fig.supxlabel(f"Episode (gray: as shipped{dashed})")
    fig.supylabel(f"Return, mean of {BLOCK} episodes:\nmedian and quartiles of the seeds")
    fig.savefig(figure, dpi=80)


def keep(path, data):
    """Write `data` as JSON to `path`, whole or not at all: a run may be stopped at any time."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    part.replace(path)


def fill(path, seeds, train_row, constants_of, script_of=lambda row: "discrete_A3C.py"):
    """Train what is missing in the data file `path`, and return all of it.

    The data are {row: {seed: result}}, and `seeds` holds the seeds of each row. What was trained
    with other constants than `constants_of(row)`, or with other code of `script_of(row)`, is
    missing too.
    """
    data = json.loads(path.read_text()) if path.exists() else {}
    codes = {row: code_of(script_of(row)) for row in seeds}
    missing = []
    # All rows of a seed before the next seed: what else the machine does then hits all rows.
    for seed in range(max(max(row_seeds) for row_seeds in seeds.values()) + 1):
        for row in seeds:
            kept = data.get(row, {}).get(str(seed), {})
            today = {"constants": constants_of(row), "code": codes[row]}
            if seed in seeds[row] and any(kept.get(key) != today[key] for key in today):
                missing.append((row, seed))
    begin = time.perf_counter()
    for number, (row, seed) in enumerate(missing, 1):
        code = code_of(script_of(row))  # now: you may edit it while others run
        result = {**train_row(row, seed), "code": code}
        data.setdefault(row, {})[str(seed)] = result
        keep(path, data)
        left = (time.perf_counter() - begin) / number * (len(missing) - number) / 60
        shown = {key: value for key, value in result.items() if key not in ("curve", "returns")}
        print({"row": row, "seed": seed, **shown})
        print(f"run {number} of {len(missing)}, {left:.0f} minutes left", flush=True)
    return data


def main():
    data = fill(DATA, SEEDS, train_row, expected)
    print(table(data), steadiness(data), unsolved(data), sep="\n\n")
    draw(data, SEEDS, "as shipped, 2 workers", FIGURE, SOLVED)


if __name__ == "__main__":
    main()
