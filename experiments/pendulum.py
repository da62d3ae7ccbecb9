"""Measure the knobs of Pendulum: a table and a figure. Run: python -m experiments.pendulum

Trains Pendulum-v1 with each row of ROWS and the seeds of that row, prints the table of
experiments/README.md and draws pendulum.png. Each run is continuous_A3C.py with other constants or
lines, in a copy of its own. What it gave is kept in pendulum.json, and it is run again only with
other constants, lines or code: delete that file to measure again (an hour and a quarter on 2
cores).
"""

from pathlib import Path

import numpy as np

import continuous_A3C
from experiments import knobs

SCRIPT = "continuous_A3C.py"
DATA = Path(__file__).with_name("pendulum.json")
FIGURE = Path(__file__).with_name("pendulum.png")
GOOD = -170  # the aim of the greedy policy
GOOD_ON_THE_WAY = -250  # the aim of 100 returns in a row, with noise on the actions
SHIPPED = {
    "UPDATE_GLOBAL_ITER": continuous_A3C.UPDATE_GLOBAL_ITER,
    "GAMMA": continuous_A3C.GAMMA,
    "LR": continuous_A3C.LR,
    "BETAS": list(continuous_A3C.BETAS),
    "MAX_GRAD_NORM": continuous_A3C.MAX_GRAD_NORM,
    "ENTROPY_BETA": continuous_A3C.ENTROPY_BETA,
    "REWARD_SCALE": continuous_A3C.REWARD_SCALE,
    "MAX_EP": continuous_A3C.MAX_EP,
    "N_WORKERS": 2,
}
# Lines that rows change, as (old, new).
LOWER_SIGMA = [("(F.softplus(sigma) + 1e-3)", "(F.softplus(sigma) + 1e-6)")]
OTHER_SEEDS = "as shipped, ten other seeds"  # with which nothing was chosen
ROWS = {  # {row: (constants, lines)}
    "as shipped, 2 workers": ({}, []),
    OTHER_SEEDS: ({}, []),
    "`LR` not annealed": ({}, knobs.NOT_ANNEALED),
    "`LR = 1e-3`": ({"LR": 1e-3}, []),
    "`UPDATE_GLOBAL_ITER = 5`": ({"UPDATE_GLOBAL_ITER": 5}, []),
    "`UPDATE_GLOBAL_ITER = 10`": ({"UPDATE_GLOBAL_ITER": 10}, []),
    "`GAMMA = 0.9`": ({"GAMMA": 0.9}, []),
    "`GAMMA = 0.99`": ({"GAMMA": 0.99}, []),
    "`ENTROPY_BETA = 0.001`": ({"ENTROPY_BETA": 0.001}, []),
    "`MAX_GRAD_NORM = 40`": ({"MAX_GRAD_NORM": 40}, []),
    "`N_WORKERS = 4`": ({"N_WORKERS": 4}, []),
    "sigma's floor 1e-6, not 1e-3": ({}, LOWER_SIGMA),
}
SEEDS = dict.fromkeys(ROWS, range(5))
SEEDS["as shipped, 2 workers"] = range(10)
SEEDS[OTHER_SEEDS] = range(10, 20)


def expected(row):
    """Return the constants and lines with which `row` is run, as they are kept in the data."""
    constants, lines = ROWS[row]
    return {**SHIPPED, **constants, "lines": [list(line) for line in lines]}


def train(row, seed):
    """Train with the constants and lines of `row`; return what table and figure need."""
    constants, lines = ROWS[row]
    constants = {**SHIPPED, **constants}
    changes = [(SCRIPT, old, new) for old, new in lines]
    returns, times, seconds, greedy = knobs.play(constants, seed, changes, SCRIPT)
    returns = returns[: constants["MAX_EP"]]  # without what other workers had under way
    solved = knobs.solving_episode(returns, GOOD_ON_THE_WAY)
    blocks = returns[: len(returns) // knobs.BLOCK * knobs.BLOCK].reshape(-1, knobs.BLOCK)
    return {
        "constants": expected(row),
        "solved": solved,
        "seconds": None if solved is None else round(float(times[solved - 1]), 1),
        "of all": seconds,
        "last 100": round(float(returns[-100:].mean()), 1),
        "greedy": round(float(greedy.mean()), 1),
        "greedy, standard error": round(float(greedy.std(ddof=1) / len(greedy) ** 0.5), 1),
        "curve": blocks.mean(axis=1).round(1).tolist(),
    }


def table(data):
    """Return the table in Markdown: medians of the seeds of each row, and their ranges."""
    lines = [
        f"| changed | until {GOOD_ON_THE_WAY}: seeds | episodes | seconds | last 100 returns"
        f" | greedy ± standard error | greedy at least {GOOD} | seconds of all |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = knobs.runs_of(data, row, SEEDS[row])
        if not runs:
            continue
        solved = [run for run in runs if run["solved"]]
        good = sum(run["greedy"] >= GOOD for run in runs)
        low, high = knobs.interval(good, len(runs))
        cells = [row, f"{len(solved)} of {len(runs)}"]
        for key in ("solved", "seconds"):
            cells.append(f"{np.median([run[key] for run in solved]):.0f}" if solved else "-")
        cells.append(knobs.spread([run["last 100"] for run in runs]))
        cells.append(knobs.greedy_cell(runs))
        cells.append(f"{good} of {len(runs)} ({low:.0%} to {high:.0%})")
        cells.append(f"{np.median([run['of all'] for run in runs]):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    data = knobs.fill(DATA, SEEDS, train, expected, lambda row: SCRIPT)
    print(table(data))
    drawn = {row: seeds for row, seeds in SEEDS.items() if row != OTHER_SEEDS}
    knobs.draw(data, drawn, "as shipped, 2 workers", FIGURE)


if __name__ == "__main__":
    main()
