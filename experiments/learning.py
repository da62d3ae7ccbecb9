"""Measure what is learned: constants, mistakes, examples. Run: python -m experiments.learning

Each row below is trained with its seeds, in a copy of the collection with other constants and a
patch, as you would change it. Each result is kept in learning.json, and measured again only if
constants, patch or what they learn have changed. Prints the tables of experiments/README.md and
draws knobs.png, mistakes.png and pendulum.png. Some rows: python -m experiments.learning quick
The last rows need more packages: pip install "gymnasium[box2d]"
"""

import sys
from pathlib import Path

import numpy as np
import torch

import discrete_A3C
from experiments import lab
from experiments.lab import Row
from utils import evaluate

FOLDER = Path(__file__).parent
DATA = FOLDER / "learning.json"
LEVELS = {"CartPole-v0": 195, "Pendulum-v1": -250}  # for the mean of 100 returns
LOW = 150  # for the mean of lab.BLOCK returns of CartPole
GOOD = -170  # for the greedy policy of Pendulum
FIVE, TEN = range(5), range(10)

QUICK = {
    "UPDATE_GLOBAL_ITER": 20,
    "GAMMA": 0.99,
    "LR": 2e-3,
    "REWARD_SCALE": 10.0,
    "MAX_EP": 1000,
}
TIPS = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
NOT_ANNEALED = "variants/not_annealed.patch"
CARTPOLE = {
    "as shipped": Row(range(40)),
    "quick": Row(range(45), QUICK),
    "quick, `GAMMA = 0.9`": Row(TEN, {**QUICK, "GAMMA": 0.9}),
    "quick, `REWARD_SCALE = 1.0`": Row(TEN, {**QUICK, "REWARD_SCALE": 1.0}),
    "the tutorial's tips": Row(TEN, TIPS),
    "`LR` not annealed": Row(TEN, patch=NOT_ANNEALED),
    "`LR = 1e-4`, not annealed": Row(TEN, {"LR": 1e-4}, NOT_ANNEALED),
    "`UPDATE_GLOBAL_ITER = 10`": Row(TEN, {"UPDATE_GLOBAL_ITER": 10}),
    "`GAMMA = 0.99`": Row(TEN, {"GAMMA": 0.99}),
    "`BETAS = (0.9, 0.99)`": Row(TEN, {"BETAS": (0.9, 0.99)}),
    "`MAX_GRAD_NORM = 40`": Row(TEN, {"MAX_GRAD_NORM": 40}),
    "`ENTROPY_BETA = 0`": Row(TEN, {"ENTROPY_BETA": 0.0}),
    "`REWARD_SCALE = 10.0`": Row(TEN, {"REWARD_SCALE": 10.0}),
    "`N_WORKERS = 1`": Row(TEN, {"N_WORKERS": 1}),
    "`N_WORKERS = 8`": Row(TEN, {"N_WORKERS": 8}),
}
MISTAKES = {
    "gradients are not cleared": Row(FIVE, patch="mistakes/gradients.patch"),
    # Fewer episodes: an update at every step takes time.
    "buffers are not emptied, 1000 episodes": Row(FIVE, {"MAX_EP": 1000}, "mistakes/buffers.patch"),
    "Adam's `step` is private": Row(FIVE, patch="mistakes/step.patch"),
    "quick, a time limit counts as terminal": Row(FIVE, QUICK, "mistakes/limit.patch"),
}
SCRIPT = "continuous_A3C.py"
PENDULUM = {
    "Pendulum, as shipped": Row(FIVE, script=SCRIPT),
    "Pendulum, `LR` not annealed": Row(FIVE, {}, "variants/pendulum_not_annealed.patch", SCRIPT),
    "Pendulum, `REWARD_SCALE = 1.0`": Row(FIVE, {"REWARD_SCALE": 1.0}, script=SCRIPT),
    "Pendulum, `ENTROPY_BETA = 0.001`": Row(FIVE, {"ENTROPY_BETA": 0.001}, script=SCRIPT),
}
CATCH = {  # as examples/catch.py names them
    "ENV_NAME": "examples.catch:Catch-v0",
    "UPDATE_GLOBAL_ITER": 10,
    "GAMMA": 0.99,
    "MAX_EP": 10000,
    "LR": 1e-3,
    "ENTROPY_BETA": 0.1,
}
EMPTIED = "variants/emptied_memory.patch"
EXAMPLES = {
    "catch": Row(TEN, CATCH),
    "catch_pixels": Row(FIVE, script="examples/catch_pixels.py"),
    "memory": Row(TEN, script="examples/memory.py"),
    "memory, emptied at each step": Row(FIVE, {}, EMPTIED, "examples/memory.py"),
}
CAR = {"REWARD_SCALE": 1.0, "MAX_EP": 100}
ENVIRONMENTS = {
    "CartPole-v1, quick": QUICK,
    "Acrobot-v1, quick, `MAX_EP = 600`": {**QUICK, "MAX_EP": 600},
    "LunarLander-v3, quick, `REWARD_SCALE = 100.0`": {**QUICK, "REWARD_SCALE": 100.0},
    "MountainCar-v0, quick, `MAX_EP = 300`": {**QUICK, "MAX_EP": 300},
    "MountainCarContinuous-v0, `REWARD_SCALE = 1.0`, `MAX_EP = 100`": CAR,
}
OTHERS = {}
for name, constants in ENVIRONMENTS.items():
    script = SCRIPT if "Continuous" in name else "discrete_A3C.py"
    constants = {**constants, "ENV_NAME": name.partition(",")[0]}
    OTHERS[name] = Row(range(2), constants, "variants/gymnasium.patch", script)
ROWS = {**CARTPOLE, **MISTAKES, **PENDULUM, **EXAMPLES, **OTHERS}


def solving_episode(returns, level):
    """Return the number of the episode at which 100 in a row average `level`, or None."""
    sums = np.convolve(returns, np.ones(100), "valid")  # the first one is of episodes 1 to 100
    reached = np.flatnonzero(sums >= 100 * level)
    return int(reached[0]) + 100 if len(reached) else None


def measure(name, seed):
    """Train a row with a seed; return what the tables and figures need."""
    row = ROWS[name]
    constants = row.setting()["constants"]
    env_name = constants["ENV_NAME"]
    with row.run(seed) as run:
        returns = lab.returns_of(run)[: constants["MAX_EP"]]  # without what others had under way
        weights = torch.load(run.folder / "weights.pt")
    solved = solving_episode(returns, LEVELS[env_name]) if env_name in LEVELS else None
    blocks = returns[: len(returns) // lab.BLOCK * lab.BLOCK].reshape(-1, lab.BLOCK)
    result = {
        "solved": solved,
        "seconds": round(run.seconds, 1),
        "average": run.average,
        "last 100": round(returns[-100:].mean(), 1),
        "greedy": run.greedy,
        "curve": blocks.mean(axis=1).round(1).tolist(),
    }
    if env_name == "CartPole-v0":
        net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
        net.load_state_dict(weights)
        endless = discrete_A3C.make_env().unwrapped  # without its limit of 200 steps
        result["upright"] = float((evaluate(net, endless, 0, episodes=20) == 1000).mean())
    return result


# The columns of the tables: a title, and what it says of the results of a row.
def solved(runs):
    return lab.share(sum(run["solved"] is not None for run in runs), len(runs))


def half(runs):
    """Return the episode by which half of all seeds had solved it, if they had."""
    episode = sorted(run["solved"] or np.inf for run in runs)[(len(runs) - 1) // 2]
    return f"{episode:.0f}" if np.isfinite(episode) else "-"


def late(runs):
    """Return the mean of the returns after the first third of the episodes, of each run."""
    return lab.spread([np.mean(run["curve"][len(run["curve"]) // 3 :]) for run in runs])


def fell(runs):
    return f"{sum(dips(run) for run in runs):.0f} of {len(runs)}"


def good(runs):
    return lab.share(sum(run["greedy"] >= GOOD for run in runs), len(runs))


def each(key):
    return lambda runs: ", ".join(f"{np.round(run[key]) + 0.0:.0f}" for run in runs)


def spread(key, digits=0):
    return lambda runs: lab.spread([run[key] for run in runs], digits)


LEARNED = {
    "solved (95% interval)": solved,
    "half of all seeds solved it by episode": half,
    "returns after the first third": late,
    "average at the end": spread("average"),
    f"below {LOW} in the last third": fell,
    "greedy": spread("greedy"),
    "upright after 1000 steps": spread("upright", 2),
}
SWUNG = {
    f"seeds that reached {LEVELS['Pendulum-v1']}": solved,
    "half of all seeds by episode": half,
    "last 100 returns": spread("last 100"),
    "greedy": spread("greedy"),
    f"greedy at least {GOOD}": good,
}
CAUGHT = {"seconds": spread("seconds"), "greedy": spread("greedy", 2)}
TRIED = {"last 100 returns": each("last 100"), "greedy": each("greedy")}


def solved_by(run):
    """Return the episode at which a run was solved; the last one if it never was."""
    return run["solved"] or run["constants"]["MAX_EP"]


def dips(run):
    return float(min(run["curve"][len(run["curve"]) * 2 // 3 :]) < LOW)


OUTCOMES = {"solved by episode": solved_by, "dips": dips}
SWUNG_OUTCOMES = {"solved by episode": solved_by, "last 100 returns": lambda run: run["last 100"]}


def effects(results, shipped, outcomes):
    """Return a table in Markdown: what each row changes, beside the seeds of its own batch."""
    lines, chances = [], []
    for name, runs in results.items():
        reference = "quick" if name.startswith("quick") else shipped
        batches = {run["batch"] for run in runs}
        others = [run for run in results.get(reference, []) if run["batch"] in batches]
        if name != reference and others:
            for title, outcome in outcomes.items():
                values = [np.array([outcome(run) for run in group]) for group in (runs, others)]
                difference, (low, high), p = lab.difference(*values)
                digits = 2 if title == "dips" else 0
                cells = [f"{values[0].mean():.{digits}f}", f"{difference:+.{digits}f}"]
                cells.append(f"{low:+.{digits}f} to {high:+.{digits}f}")
                row, beside = name.removeprefix("Pendulum, "), reference.removeprefix("Pendulum, ")
                lines.append([row, beside, title, *cells])
                chances.append(p)
    for line, p, holm in zip(lines, chances, lab.holm(chances)):
        line += [f"{p:.4f}", f"{holm:.3f}"]
    heads = ["row", "compared with", "outcome", "mean", "difference", "95% interval"]
    return lab.table([*heads, "p", "p (Holm)"], lines)


def tables(data):
    """Return the tables in Markdown: a line a row, with the number of its seeds."""
    parts = []
    for title, rows, columns in (
        ("CartPole-v0", {**CARTPOLE, **MISTAKES}, LEARNED),
        ("Pendulum-v1", PENDULUM, SWUNG),
        ("example", EXAMPLES, CAUGHT),
        ("environment", OTHERS, TRIED),
    ):
        lines = []
        for name, runs in lab.results(data, rows).items():
            cells = [column(runs) for column in columns.values()]
            lines.append([name.removeprefix("Pendulum, "), str(len(runs)), *cells])
        parts.append(lab.table([title, "seeds", *columns], lines))
    parts.append(effects(lab.results(data, CARTPOLE), "as shipped", OUTCOMES))
    swung = lab.results(data, PENDULUM)
    parts.append(effects(swung, "Pendulum, as shipped", SWUNG_OUTCOMES))
    return "\n\n".join(parts)


def draw(data):
    shipped = {name: CARTPOLE[name] for name in ("as shipped", "quick")}
    for figure, rows, level in (
        ("knobs.png", CARTPOLE, LEVELS["CartPole-v0"]),
        ("mistakes.png", {**shipped, **MISTAKES}, LEVELS["CartPole-v0"]),
        ("pendulum.png", PENDULUM, LEVELS["Pendulum-v1"]),
    ):
        results = lab.results(data, rows)
        curves = {name: np.array([run["curve"] for run in results[name]]) for name in results}
        behind = {}
        for name in curves:
            right = "Pendulum, as shipped" if rows is PENDULUM else "as shipped"
            behind[name] = "quick" if name.startswith("quick") else right
        if curves:
            lab.draw(curves, behind, FOLDER / figure, level)


def main():
    data = lab.fill(DATA, {name: ROWS[name] for name in sys.argv[1:] or ROWS}, measure)
    print(tables(data))
    draw(data)


if __name__ == "__main__":
    main()
