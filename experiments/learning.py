"""Measure what is learned: constants, mistakes, examples. Run: python -m experiments.learning

Each row below is trained with its seeds, in a copy of the collection with other constants and a
patch, as you would change it. Results are kept in learning.json; only what is missing is measured.
Prints tables, and draws forest.png, knobs.png, mistakes.png and pendulum.png. Some rows only:
python -m experiments.learning quick. Without measuring: python -m experiments.learning tables
Needs pip install scipy; for the last rows also pip install "gymnasium[box2d,mujoco]" ray.
"""

import json
import shutil
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
RISEN = 150  # most of CartPole is learned: for the same mean
FIVE, TEN = range(5), range(10)

QUICK = {"UPDATE_GLOBAL_ITER": 20, "GAMMA": 0.99, "LR": 2e-3, "REWARD_SCALE": 10.0, "MAX_EP": 1000}
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
    "quick, a time limit counts as terminal": Row(TEN, QUICK, "mistakes/limit.patch"),
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
EMPTIED = "variants/emptied_memory.patch"
GYMNASIUM = "variants/gymnasium.patch"
CATCH = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "MAX_EP": 10000, "LR": 1e-3, "ENTROPY_BETA": 0.1}
OTHERS = {
    "catch": Row(TEN, {"ENV_NAME": "examples.catch:Catch-v0", **CATCH}),
    "catch_pixels": Row(FIVE, script="examples/catch_pixels.py"),
    "memory": Row(TEN, script="examples/memory.py"),
    "memory, emptied at each step": Row(FIVE, {}, EMPTIED, "examples/memory.py"),
    "cluster, CartPole-v0": Row(FIVE, script="examples/cluster.py"),
}
for name, constants in {
    "CartPole-v1, quick": QUICK,
    "Acrobot-v1, quick, `MAX_EP = 600`": {**QUICK, "MAX_EP": 600},
    "LunarLander-v3, quick, `REWARD_SCALE = 100.0`": {**QUICK, "REWARD_SCALE": 100.0},
}.items():
    OTHERS[name] = Row(range(2), {"ENV_NAME": name.partition(",")[0], **constants}, GYMNASIUM)
ONE_SIGMA = "variants/one_sigma.patch"
LANDER = {"GAMMA": 0.99, "MAX_EP": 3000, "REWARD_SCALE": 100.0, "ENTROPY_BETA": 0.0}
INVERTED = {"GAMMA": 0.99, "MAX_EP": 1500, "LR": 1e-3, "REWARD_SCALE": 10.0}
HOPPER = {"GAMMA": 0.99, "MAX_EP": 3000, "REWARD_SCALE": 10.0, "ENTROPY_BETA": 0.0}
CHEETAH = {"GAMMA": 0.99, "MAX_EP": 800, "REWARD_SCALE": 1.0, "ENTROPY_BETA": 0.0}
for name, constants, patch in (
    ("LunarLanderContinuous-v3", LANDER, GYMNASIUM),
    ("LunarLanderContinuous-v3, with the bonus", {**LANDER, "ENTROPY_BETA": 0.01}, GYMNASIUM),
    ("InvertedPendulum-v5", INVERTED, GYMNASIUM),
    ("InvertedPendulum-v5, without the bonus", {**INVERTED, "ENTROPY_BETA": 0.0}, GYMNASIUM),
    ("InvertedPendulum-v5, one sigma, no tanh", {**INVERTED, "ENTROPY_BETA": 0.0}, ONE_SIGMA),
    ("Hopper-v5", HOPPER, GYMNASIUM),
    ("HalfCheetah-v5", CHEETAH, GYMNASIUM),
    ("HalfCheetah-v5, one sigma, no tanh", CHEETAH, ONE_SIGMA),
):
    constants = {"ENV_NAME": name.partition(",")[0], **constants}
    OTHERS[name] = Row(range(3), constants, patch, SCRIPT)
ROWS = {**CARTPOLE, **MISTAKES, **PENDULUM, **OTHERS}


def solving_episode(returns, level):
    """Return the number of the episode at which 100 in a row average `level`, or None."""
    sums = np.convolve(returns, np.ones(100), "valid")  # the first one is of episodes 1 to 100
    reached = np.flatnonzero(sums >= 100 * level)
    return int(reached[0]) + 100 if len(reached) else None


def measure(name, seed):
    """Train a row with a seed; return what the tables and figures need."""
    with ROWS[name].run(seed) as run:
        constants = json.loads((run.folder / "constants.json").read_text(encoding="utf-8"))
        returns = lab.returns_of(run)[: constants["MAX_EP"]]  # without what others had under way
        seen = {key: lab.column_of(run, key) for key in ("entropy", "value error")}
        weights = torch.load(run.folder / "weights.pt")
        if name == "LunarLanderContinuous-v3" and seed == 0:  # for pictures.py
            lander = lab.ROOT / "results" / "experiment-lander"
            shutil.copytree(run.folder, lander, dirs_exist_ok=True)
    env_name = constants["ENV_NAME"]
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
    for key, numbers in seen.items():
        result[key] = float(f"{np.median(numbers[len(numbers) * 2 // 3 :]):.4g}")
    if env_name == "CartPole-v0":
        net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
        net.load_state_dict(weights)
        endless = discrete_A3C.make_env().unwrapped  # without its limit of 200 steps
        result["upright"] = float((evaluate(net, endless, 0, episodes=20) == 1000).mean())
    return result


def rise(run, level=RISEN):
    """Return the episode by which 100 returns first average `level`; the last one if never.

    A curve has means of 25 returns, so this is a multiple of 25.
    """
    means = np.convolve(run["curve"], np.ones(4) / 4, "valid")
    reached = np.flatnonzero(means >= level)
    return lab.BLOCK * (reached[0] + 4 if len(reached) else len(run["curve"]))


def last_third(run):
    """Return the mean of the returns of the last third of the episodes."""
    return np.mean(run["curve"][len(run["curve"]) * 2 // 3 :])


# The columns of the tables: a title, and what it says of the results of a row.
def solved(runs):
    return stats.share(sum(run["solved"] is not None for run in runs), len(runs))


def half(runs):
    """Return the episode by which half of all seeds had solved it, if they had."""
    episode = sorted(run["solved"] or np.inf for run in runs)[(len(runs) - 1) // 2]
    return f"{episode:.0f}" if np.isfinite(episode) else "-"


def spread(of, digits=0, ends=(25, 75)):
    """Return a column that tells `of`, a key of the results or a function, of all seeds."""
    tell = of if callable(of) else lambda run: run[of]
    return lambda runs: stats.spread([tell(run) for run in runs], digits, ends)


def last(key):
    """Return a column that tells the median, over seeds, of medians over the last third."""

    def column(runs):
        values = [run[key] for run in runs if key in run]
        return f"{np.median(values):.2g}" if values else "-"

    return column


LEARNED = {
    f"{RISEN} by episode": spread(rise),
    "mean of the last third": spread(last_third),
    "first solved": solved,
    "half by episode": half,
    "upright after 1000 steps": spread("upright", 2),
}
SEEN = {
    "150 by episode": LEARNED["150 by episode"],
    "mean of the last third": LEARNED["mean of the last third"],
    "first solved": solved,
    "greedy": spread("greedy", 0, (0, 100)),
    "entropy": last("entropy"),
    "value error": last("value error"),
}
SWUNG = {
    f"{LEVELS['Pendulum-v1']} by episode": spread(lambda run: rise(run, LEVELS["Pendulum-v1"])),
    "mean of the last third": spread(last_third),
    "greedy": spread("greedy", 0, (0, 100)),
}
TRIED = {
    "seconds": spread("seconds"),
    "first 25 returns": spread(lambda run: run["curve"][0], 1, (0, 100)),
    "last 100 returns": spread("last 100", 1, (0, 100)),
    "greedy": spread("greedy", 1, (0, 100)),
}


def reference(name):
    """Return the row that a row is compared with; itself if there is none."""
    if name.startswith("Pendulum"):
        return "Pendulum, as shipped"
    for right in ("quick, n = 5, 300 episodes", "quick"):
        if name.startswith(f"{right},"):
            return right if name != "quick, n = 5, 300 episodes" else name
    return "as shipped"


def effects(data, rows, level):
    """Return {(row, outcome): effect}, what each row changes; p is corrected for all of them."""
    found, results = {}, lab.results(data, rows)
    for name, runs in results.items():
        others = results.get(reference(name), runs)
        # The buffers' row has 1000 episodes, the reference 3000.
        if others is runs or name.startswith("buffers"):
            continue
        batches = [[run["batch"] for run in group] for group in (runs, others)]
        rises = [[rise(run, level) for run in group] for group in (runs, others)]
        lasts = [[last_third(run) for run in group] for group in (runs, others)]
        for outcome, (a, b) in (("rise", rises), ("last third", lasts)):
            effect = dict(zip(("difference", "low", "high"), stats.difference(a, b)))
            p = stats.permutation(a, b, *batches)
            found[name, outcome] = {**effect, "scatter": np.std(b, ddof=1), "p": p}
    corrected = stats.holm([effect["p"] for effect in found.values()])
    for effect, p in zip(found.values(), corrected):
        effect["holm"] = p
    return found


def tables(data):
    """Return the tables in Markdown: a line a row, with the number of its seeds."""
    parts = []
    for title, rows, columns in (
        ("CartPole-v0", CARTPOLE, LEARNED),
        ("mistake", MISTAKES, SEEN),
        ("Pendulum-v1", PENDULUM, SWUNG),
        ("environment", OTHERS, TRIED),
    ):
        lines = []
        for name, runs in lab.results(data, rows).items():
            shown = name.removeprefix("Pendulum, ").partition(", quick")[0]
            cells = [shown, str(len(runs))]
            if rows is OTHERS:
                constants = [f"`{key} = {value}`" for key, value in rows[name].constants.items()]
                cells.insert(1, ", ".join(constants[1:]) or "its own")  # without ENV_NAME
            lines.append(cells + [column(runs) for column in columns.values()])
        heads = [title, "constants", "seeds"] if rows is OTHERS else [title, "seeds"]
        parts.append(lab.table([*heads, *columns], lines))
    return "\n\n".join(parts)


def draw_forest(found):
    """Draw the effects: a row of panels for all rows of a kind with one reference."""
    groups = {}
    for name in dict.fromkeys(name for name, _ in found):
        kind = "Mistakes" if name in MISTAKES or "log pi" in name else "Knobs"
        groups.setdefault(f"{kind}, compared with {reference(name)}", []).append(name)
    heights = [1 + len(names) for names in groups.values()]
    fig = plt.figure(figsize=(11, 1 + 0.24 * sum(heights)), layout="constrained")
    axes = fig.subplots(len(groups), 2, squeeze=False, height_ratios=heights)
    for line, (title, names) in zip(axes, groups.items()):
        for ax, outcome in zip(line, ("rise", "last third")):
            for y, name in enumerate(names):
                e = found[name, outcome]
                fill = "tab:blue" if e["holm"] < 0.05 else "white"
                ax.plot([e["low"], e["high"]], [y, y], color="tab:blue")
                ax.plot(e["difference"], y, "o", color="tab:blue", markerfacecolor=fill)
            ax.axvspan(-e["scatter"], e["scatter"], color="0.9")
            ax.axvline(0, color="black", linewidth=0.8)
            labels = [name.replace("`", "") for name in names] if ax is line[0] else []
            ax.set_yticks(range(len(labels)), labels, size=8)
            ax.set_ylim(len(names) - 0.5, -0.5)
        line[0].set_title(title, size=9, loc="left", weight="bold")
    told = f"Episodes until 100 returns average {RISEN} (Pendulum: {LEVELS['Pendulum-v1']})"
    axes[-1, 0].set_xlabel(f"{told}.\nLeft: sooner")
    axes[-1, 1].set_xlabel("Mean return of the last third of the episodes.\nRight: higher")
    fig.savefig(FOLDER / "forest.png", dpi=75)


def draw(data):
    results = lab.results(data, ROWS)
    curves = {name: np.array([run["curve"] for run in results[name]]) for name in results}
    for figure, rows, level in (
        ("knobs.png", CARTPOLE, LEVELS["CartPole-v0"]),
        ("mistakes.png", MISTAKES, LEVELS["CartPole-v0"]),
        ("pendulum.png", PENDULUM, LEVELS["Pendulum-v1"]),
    ):
        drawn = {name: curves[name] for name in rows if name in curves}
        behind = {name: curves.get(reference(name), curves[name]) for name in drawn}
        lab.draw_curves(drawn, behind, FOLDER / figure, level, sharex=rows is not MISTAKES)


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    print(tables(data))
    found = effects(data, {**CARTPOLE, **MISTAKES}, RISEN)
    found.update(effects(data, PENDULUM, LEVELS["Pendulum-v1"]))
    for (name, outcome), e in found.items():
        interval = f"{e['difference']:+.0f} ({e['low']:+.0f} to {e['high']:+.0f})"
        print(f"{name}, {outcome}: {interval}, p {e['p']:.5f}, Holm {e['holm']:.4f}")
    draw(data)
    draw_forest(found)


if __name__ == "__main__":
    main()
