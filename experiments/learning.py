"""Measure what is learned: constants, mistakes, examples. Run: python -m experiments.learning

Each row below is trained with its seeds, in a copy of the collection with other constants and a
patch, as you would change it. Results are kept in learning.json; only what is missing is measured.
Prints tables, and draws forest.png, knobs.png, mistakes.png and pendulum.png. Some rows only:
python -m experiments.learning quick. Without measuring: python -m experiments.learning tables
Needs pip install scipy; for the last rows also pip install "gymnasium[box2d]".
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import discrete_A3C
from experiments import lab, stats
from experiments.lab import Row
from utils import evaluate

FOLDER = Path(__file__).parent
DATA = FOLDER / "learning.json"
LEVELS = {"CartPole-v0": 195, "Pendulum-v1": -250}  # solved: for the mean of 100 returns
RISEN = {"CartPole-v0": 150, "Pendulum-v1": -250}  # learned mostly: for the same mean
GOOD = -170  # for the greedy policy of Pendulum
FIVE, TEN = range(5), range(10)

QUICK = {
    "UPDATE_GLOBAL_ITER": 20,
    "GAMMA": 0.99,
    "LR": 2e-3,
    "REWARD_SCALE": 10.0,
    "MAX_EP": 1000,
}
BRIEF = {**QUICK, "UPDATE_GLOBAL_ITER": 5, "MAX_EP": 300}
LARGE_LR = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
TIPS = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-4}
NOT_ANNEALED = "variants/not_annealed.patch"
CARTPOLE = {
    "as shipped": Row(range(50)),
    "quick": Row(range(55), QUICK),
    "quick, `GAMMA = 0.9`": Row(TEN, {**QUICK, "GAMMA": 0.9}),
    "quick, `REWARD_SCALE = 1.0`": Row(TEN, {**QUICK, "REWARD_SCALE": 1.0}),
    "n = 10, 0.99, 1e-3": Row(TEN, LARGE_LR),
    "the tutorial's tips, annealed": Row(TEN, TIPS),
    "the tutorial's tips, not annealed": Row(TEN, TIPS, NOT_ANNEALED),
    "`LR` not annealed": Row(TEN, patch=NOT_ANNEALED),
    "`LR = 1e-4`": Row(TEN, {"LR": 1e-4}),
    "`LR = 1e-4`, not annealed": Row(TEN, {"LR": 1e-4}, NOT_ANNEALED),
    "`UPDATE_GLOBAL_ITER = 10`": Row(TEN, {"UPDATE_GLOBAL_ITER": 10}),
    "`UPDATE_GLOBAL_ITER = 10`, not annealed": Row(TEN, {"UPDATE_GLOBAL_ITER": 10}, NOT_ANNEALED),
    "`GAMMA = 0.99`": Row(TEN, {"GAMMA": 0.99}),
    "`GAMMA = 0.99`, not annealed": Row(TEN, {"GAMMA": 0.99}, NOT_ANNEALED),
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
    "quick, n = 5, 300 episodes": Row(TEN, BRIEF),  # without a mistake
}
PATCHES = {
    "advantage not detached": "not_detached",
    "never bootstraps": "never_bootstraps",
    "no baseline": "no_baseline",
    "bootstraps from the state before": "wrong_state",
    "entropy is punished": "punished_entropy",
    "log pi broadcasts": "broadcast",
}
for name, patch in PATCHES.items():
    MISTAKES[f"quick, {name}"] = Row(TEN, QUICK, f"mistakes/{patch}.patch")
for name in ("advantage not detached", "never bootstraps", "no baseline"):
    patch = f"mistakes/{PATCHES[name]}.patch"
    MISTAKES[f"quick, n = 5, 300 episodes, {name}"] = Row(TEN, BRIEF, patch)
SCRIPT = "continuous_A3C.py"
CLIPPED = "mistakes/clipped_log_prob.patch"
PENDULUM = {
    "Pendulum, as shipped": Row(TEN, script=SCRIPT),
    "Pendulum, `REWARD_SCALE = 1.0`": Row(FIVE, {"REWARD_SCALE": 1.0}, script=SCRIPT),
    "Pendulum, `ENTROPY_BETA = 0.001`": Row(FIVE, {"ENTROPY_BETA": 0.001}, script=SCRIPT),
    "Pendulum, clipped action in log pi": Row(FIVE, patch=CLIPPED, script=SCRIPT),
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
OTHERS = {
    "catch": Row(TEN, CATCH),
    "catch_pixels": Row(FIVE, script="examples/catch_pixels.py"),
    "memory": Row(TEN, script="examples/memory.py"),
    "memory, emptied at each step": Row(FIVE, {}, EMPTIED, "examples/memory.py"),
}
GYMNASIUM = "variants/gymnasium.patch"
for name, constants in {
    "CartPole-v1, quick": QUICK,
    "Acrobot-v1, quick, `MAX_EP = 600`": {**QUICK, "MAX_EP": 600},
    "LunarLander-v3, quick, `REWARD_SCALE = 100.0`": {**QUICK, "REWARD_SCALE": 100.0},
}.items():
    OTHERS[name] = Row(range(2), {**constants, "ENV_NAME": name.partition(",")[0]}, GYMNASIUM)
CAR = {**QUICK, "ENV_NAME": "MountainCar-v0", "MAX_EP": 300}
FREE_CAR = {"ENV_NAME": "MountainCarContinuous-v0", "REWARD_SCALE": 1.0, "MAX_EP": 100}
UNTOLD = {  # in no table
    "MountainCar-v0, quick, `MAX_EP = 300`": Row(range(2), CAR, GYMNASIUM),
    "MountainCarContinuous-v0, `REWARD_SCALE = 1.0`, `MAX_EP = 100`": Row(
        range(2), FREE_CAR, GYMNASIUM, SCRIPT
    ),
    "Pendulum, `LR` not annealed": Row(FIVE, {}, "variants/pendulum_not_annealed.patch", SCRIPT),
}
ROWS = {**CARTPOLE, **MISTAKES, **PENDULUM, **OTHERS, **UNTOLD}


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


def rise(run):
    """Return the episode by which 100 returns first average RISEN; the last one if they never do.

    A curve has means of 25 returns, so this is a multiple of 25.
    """
    constants = run["constants"]
    means = np.convolve(run["curve"], np.ones(4) / 4, "valid")
    reached = np.flatnonzero(means >= RISEN[constants["ENV_NAME"]])
    return int(reached[0] + 4) * lab.BLOCK if len(reached) else constants["MAX_EP"]


def last_third(run):
    """Return the mean of the returns of the last third of the episodes."""
    return np.mean(run["curve"][len(run["curve"]) * 2 // 3 :])


OUTCOMES = {"episodes until 100 returns average": rise, "mean return of the last third": last_third}


# The columns of the tables: a title, and what it says of the results of a row.
def solved(runs):
    return stats.share(sum(run["solved"] is not None for run in runs), len(runs))


def half(runs):
    """Return the episode by which half of all seeds had solved it, if they had."""
    episode = sorted(run["solved"] or np.inf for run in runs)[(len(runs) - 1) // 2]
    return f"{episode:.0f}" if np.isfinite(episode) else "-"


def good(runs):
    return stats.share(sum(run["greedy"] >= GOOD for run in runs), len(runs))


def spread(of, digits=0, ends=(25, 75)):
    """Return a column that tells `of`, a key of the results or a function, of all seeds."""

    def column(runs):
        values = [of(run) if callable(of) else run[of] for run in runs]
        return stats.spread(values, digits, ends)

    return column


LEARNED = {
    "150 by episode": spread(rise),
    "mean of the last third": spread(last_third),
    "first solved": solved,
    "half by episode": half,
    "upright after 1000 steps": spread("upright", 2),
}
SWUNG = {
    "-250 by episode": spread(rise),
    "mean of the last third": spread(last_third),
    "greedy": spread("greedy"),
    f"greedy at least {GOOD}": good,
}
TRIED = {
    "seconds": spread("seconds"),
    "last 100 returns": spread("last 100", 1, (0, 100)),
    "greedy": spread("greedy", 1, (0, 100)),
}


def reference(name):
    """Return the row that a row is compared with, or None."""
    for right in ("quick, n = 5, 300 episodes", "quick", "Pendulum"):
        if name.startswith(f"{right},") and "as shipped" not in name:
            return "Pendulum, as shipped" if right == "Pendulum" else right
    alone = ("as shipped", "quick, n = 5, 300 episodes", "buffers are not emptied, 1000 episodes")
    return None if name in alone or "as shipped" in name else "as shipped"


def effects(results):
    """Return what each row changes: a list of dicts, a row and an outcome each, p corrected."""
    found = []
    for name, runs in results.items():
        others = results.get(reference(name), [])
        batches = [[run["batch"] for run in group] for group in (runs, others)]
        for title, outcome in OUTCOMES.items() if others else ():
            a, b = ([outcome(run) for run in group] for group in (runs, others))
            difference, low, high = stats.difference(a, b)
            effect = {"row": name, "reference": reference(name), "outcome": title}
            effect.update(difference=difference, low=low, high=high, scatter=np.std(b, ddof=1))
            effect.update(p=stats.permutation(a, b, *batches))
            effect.update(within=set(batches[0]) <= set(batches[1]))
            found.append(effect)
    for effect, p in zip(found, stats.holm([effect["p"] for effect in found])):
        effect["holm"] = p
    return found


def tell(found):
    """Return a table of effects in Markdown."""
    lines = []
    for e in found:
        cells = [e["row"], e["reference"], e["outcome"], f"{e['difference']:+.0f}"]
        cells += [f"{e['low']:+.0f} to {e['high']:+.0f}", f"{e['p']:.5f}", f"{e['holm']:.4f}"]
        lines.append([*cells, "yes" if e["within"] else "no"])
    heads = ["row", "compared with", "outcome", "difference", "95% interval", "p", "p (Holm)"]
    return lab.table([*heads, "within batches"], lines)


def tables(data):
    """Return the tables in Markdown: a line a row, with the number of its seeds."""
    parts = []
    for title, rows, columns in (
        ("CartPole-v0", {**CARTPOLE, **MISTAKES}, LEARNED),
        ("Pendulum-v1", PENDULUM, SWUNG),
    ):
        lines = []
        for name, runs in lab.results(data, rows).items():
            cells = [column(runs) for column in columns.values()]
            lines.append([name.removeprefix("Pendulum, "), str(len(runs)), *cells])
        parts.append(lab.table([title, "seeds", *columns], lines))
    lines = []
    for name, runs in lab.results(data, OTHERS).items():
        own = [f"`{key} = {value}`" for key, value in OTHERS[name].constants.items()]
        constants = ", ".join(text for text in own if "ENV_NAME" not in text) or "its own"
        name = name if name.startswith("memory") else name.partition(",")[0]
        lines.append([name, constants, str(len(runs)), *(tell(runs) for tell in TRIED.values())])
    parts.append(lab.table(["environment", "constants", "seeds", *TRIED], lines))
    return "\n\n".join(parts)


def draw_forest(groups):
    """Draw the effects {title: [effect, ...]}: a panel a group and outcome, a line a row."""
    heights = [len(found) for found in groups.values()]
    fig = plt.figure(figsize=(11, 1.5 + 0.13 * sum(heights)), layout="constrained")
    axes = fig.subplots(len(groups), 2, sharey="row", squeeze=False, height_ratios=heights)
    for line, (title, found) in zip(axes, groups.items()):
        for ax, outcome in zip(line, OUTCOMES):
            chosen = [effect for effect in found if effect["outcome"] == outcome]
            for y, e in enumerate(chosen):
                ax.barh(y, 2 * e["scatter"], 1.0, -e["scatter"], color="0.9")
                ax.plot([e["low"], e["high"]], [y, y], color="tab:blue")
                fill = "tab:blue" if e["holm"] < 0.05 else "white"
                ax.plot(e["difference"], y, "o", color="tab:blue", markerfacecolor=fill)
            names = [effect["row"].replace("`", "") for effect in chosen]
            ax.set_yticks(range(len(chosen)), names, size=8)
            ax.axvline(0, color="black", linewidth=0.8)
            ax.set_title(f"{title}: {outcome}", size=8)
        line[0].invert_yaxis()
    fig.savefig(FOLDER / "forest.png", dpi=80)


def draw(data):
    right = ("as shipped", "quick")
    for figure, rows, level in (
        ("knobs.png", CARTPOLE, LEVELS["CartPole-v0"]),
        ("mistakes.png", {**{n: CARTPOLE[n] for n in right}, **MISTAKES}, LEVELS["CartPole-v0"]),
        ("pendulum.png", PENDULUM, LEVELS["Pendulum-v1"]),
    ):
        results = lab.results(data, rows)
        curves = {name: np.array([run["curve"] for run in results[name]]) for name in results}
        behind = {name: reference(name) or name for name in curves}
        lab.draw_curves(curves, behind, FOLDER / figure, level, sharex=rows is not MISTAKES)


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    print(tables(data))
    cartpole = effects(lab.results(data, {**CARTPOLE, **MISTAKES}))
    pendulum = effects(lab.results(data, PENDULUM))
    print(f"\n{tell(cartpole)}\n\n{tell(pendulum)}")
    draw(data)
    groups = {"Knobs, beside as shipped": [], "Knobs, beside quick": [], "Mistakes": []}
    for e in cartpole:
        group = "Mistakes" if e["row"] in MISTAKES else f"Knobs, beside {e['reference']}"
        groups[group].append(e)
    draw_forest({**groups, "Pendulum": pendulum})


if __name__ == "__main__":
    main()
