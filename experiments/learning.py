"""Measure what is learned: knobs, mistakes, Pendulum, examples. Run: python -m experiments.learning

Each row below is trained with its seeds, in a copy of the collection with other constants and a
patch, as you would change it. Each result is kept in learning.json, and trained again only where
constants, patch or code are other ones. Prints the tables of experiments/README.md and draws
knobs.png, mistakes.png and pendulum.png. From nothing it takes four hours or more on two cores. The
last rows need more packages: pip install "gymnasium[box2d]"
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import discrete_A3C
from experiments import lab
from experiments.lab import Row
from utils import v_wrap

FOLDER = Path(__file__).parent
DATA = FOLDER / "learning.json"
GREEDY_EPISODES = 100
LEVELS = {"discrete_A3C.py": 195, "continuous_A3C.py": -250}  # for a mean of 100 returns
GOOD = -170  # the aim of Pendulum's greedy policy
TEN, FIVE, TWO = range(10), range(5), range(2)

QUICK = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
NOT_ANNEALED = "variants/not_annealed.patch"
CARTPOLE = {
    "as shipped": Row(range(40)),
    "quick": Row(range(40), QUICK),
    "quick, `LR = 1e-4`": Row(FIVE, {**QUICK, "LR": 1e-4}),
    "quick, `BETAS = (0.9, 0.99)`": Row(FIVE, {**QUICK, "BETAS": (0.9, 0.99)}),
    "`FALL_REWARD = None`": Row(FIVE, {"FALL_REWARD": None}),
    "`LR` not annealed": Row(FIVE, patch=NOT_ANNEALED),
    "`LR = 1e-4`, not annealed": Row(FIVE, {"LR": 1e-4}, NOT_ANNEALED),
    "`UPDATE_GLOBAL_ITER = 10`": Row(FIVE, {"UPDATE_GLOBAL_ITER": 10}),
    "`GAMMA = 0.99`": Row(FIVE, {"GAMMA": 0.99}),
    "`LR = 1e-3`": Row(FIVE, {"LR": 1e-3}),
    "`BETAS = (0.9, 0.99)`": Row(FIVE, {"BETAS": (0.9, 0.99)}),
    "`ENTROPY_BETA = 0`": Row(FIVE, {"ENTROPY_BETA": 0.0}),
    "`MAX_GRAD_NORM = 40`": Row(FIVE, {"MAX_GRAD_NORM": 40}),
    "`N_WORKERS = 1`": Row(FIVE, {"N_WORKERS": 1}),
    "`N_WORKERS = 8`": Row(FIVE, {"N_WORKERS": 8}),
}
CLIPPED = {**QUICK, "MAX_GRAD_NORM": 40}
CLIPPING = {
    "quick, clipped together": Row(FIVE, CLIPPED),
    "quick, actor clipped": Row(FIVE, CLIPPED, "variants/clip_actor.patch"),
    "quick, critic clipped": Row(FIVE, CLIPPED, "variants/clip_critic.patch"),
    "quick, clipped separately": Row(FIVE, CLIPPED, "variants/clip_separately.patch"),
}
MISTAKES = {
    "gradients are not cleared": Row(FIVE, patch="mistakes/gradients.patch"),
    # Fewer episodes: an update at every step takes time.
    "buffers are not emptied, 1000 episodes": Row(FIVE, {"MAX_EP": 1000}, "mistakes/buffers.patch"),
    "Adam's `step` is private": Row(FIVE, patch="mistakes/step.patch"),
    "quick, a time limit passes for terminal": Row(FIVE, QUICK, "mistakes/limit.patch"),
}
SCRIPT = "continuous_A3C.py"
PENDULUM = {
    "as shipped": Row(FIVE, script=SCRIPT),
    "`LR` not annealed": Row(FIVE, {}, "variants/pendulum_not_annealed.patch", SCRIPT),
    "`UPDATE_GLOBAL_ITER = 5`": Row(FIVE, {"UPDATE_GLOBAL_ITER": 5}, script=SCRIPT),
    "`GAMMA = 0.9`": Row(FIVE, {"GAMMA": 0.9}, script=SCRIPT),
    "`GAMMA = 0.99`": Row(FIVE, {"GAMMA": 0.99}, script=SCRIPT),
    "`ENTROPY_BETA = 0.001`": Row(FIVE, {"ENTROPY_BETA": 0.001}, script=SCRIPT),
    "`MAX_GRAD_NORM = 40`": Row(FIVE, {"MAX_GRAD_NORM": 40}, script=SCRIPT),
}
PENDULUM = {f"Pendulum, {name}": row for name, row in PENDULUM.items()}
CATCH = {
    "catch": Row(TEN, script="examples/catch.py"),
    "catch_pixels": Row(FIVE, script="examples/catch_pixels.py"),
    "memory": Row(TEN, script="examples/memory.py"),
    "memory, emptied at each step": Row(
        FIVE, {}, "variants/emptied_memory.patch", "examples/memory.py"
    ),
}
ENVIRONMENTS = {
    "CartPole-v1": {**QUICK, "MAX_EP": 1000},
    "Acrobot-v1": {**QUICK, "REWARD_SCALE": 10.0, "MAX_EP": 600},
    "LunarLander-v3": {**QUICK, "REWARD_SCALE": 100.0, "MAX_EP": 1000},
    "MountainCar-v0": {**QUICK, "MAX_EP": 300},
    "MountainCarContinuous-v0": {"REWARD_SCALE": 1.0, "MAX_EP": 100},
}
OTHERS = {}
for name, constants in ENVIRONMENTS.items():
    script = SCRIPT if "Continuous" in name else "discrete_A3C.py"
    told = [name] + ["quick"] * ("LR" in constants)
    told += [f"`{key} = {value}`" for key, value in constants.items() if key not in QUICK]
    row = Row(TWO, {**constants, "ENV_NAME": name}, "variants/gymnasium.patch", script)
    OTHERS[", ".join(told)] = row
ROWS = {**CARTPOLE, **CLIPPING, **MISTAKES, **PENDULUM, **CATCH, **OTHERS}


def solving_episode(returns, level):
    """Return the number of the episode at which 100 in a row average `level`, or None."""
    sums = np.convolve(returns, np.ones(100), "valid")  # the first one is of episodes 1 to 100
    reached = np.flatnonzero(sums >= 100 * level)
    return int(reached[0]) + 100 if len(reached) else None


def train(row, seed):
    """Train `row`, a lab.Row, with `seed`; return what the tables and figures need."""
    constants = row.setting()["constants"]
    run = row.run(seed, greedy=GREEDY_EPISODES)
    returns = run.returns[: constants["MAX_EP"]]  # without what other workers had under way
    average = returns[0]
    for r in returns[1:]:
        average = 0.99 * average + 0.01 * r
    blocks = returns[: len(returns) // lab.BLOCK * lab.BLOCK].reshape(-1, lab.BLOCK)
    solved = None
    if row.script in LEVELS and len(returns) >= 100:
        solved = solving_episode(returns, LEVELS[row.script])
    result = {
        "solved": solved,
        "seconds": None if solved is None else run.times[solved - 1],
        "of all": run.times[-1],
        "average": round(float(average), 1),
        "last 100": round(float(returns[-100:].mean()), 1),
        "greedy": round(float(np.mean(run.greedy)), 2),
        "curve": blocks.mean(axis=1).round(1).tolist(),
    }
    if constants.get("ENV_NAME") == "CartPole-v0":
        net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
        net.load_state_dict(run.weights)
        result.update(play_on(net))
    return result


def play_on(net, episodes=20, steps=1000):
    """Play CartPole greedily without its limit of 200; return in what share each end comes."""
    env = discrete_A3C.make_env().unwrapped
    ends = {"upright": 0, "left the track": 0, "fell": 0}
    for seed in range(episodes):
        s, _ = env.reset(seed=seed)
        end = "upright"
        for _ in range(steps):
            s, _, terminated, _, _ = env.step(net.choose_action(v_wrap(s[None]), True))
            if terminated:
                end = "left the track" if abs(s[0]) > env.x_threshold else "fell"
                break
        ends[end] += 1
    return {end: number / episodes for end, number in ends.items()}


def values(runs, key):
    return [run[key] for run in runs if key in run]


# The columns of the tables: a title, and what it says of the results of a row.
def solved(runs):
    return lab.share(sum(run["solved"] is not None for run in runs), len(runs))


def half(runs):
    """Return the episode by which half of all seeds had solved it, if they had."""
    episode = sorted(run["solved"] or np.inf for run in runs)[(len(runs) - 1) // 2]
    return f"{episode:.0f}" if np.isfinite(episode) else "-"


def fell(runs):
    low = [min(run["curve"][2000 // lab.BLOCK :]) < 150 for run in runs if len(run["curve"]) > 80]
    return f"{sum(low)} of {len(low)}" if low else "-"


def late(runs):
    """Return the mean of the returns from episode 1001 on, of each run."""
    means = [np.mean(run["curve"][1000 // lab.BLOCK :]) for run in runs if len(run["curve"]) > 40]
    return lab.spread(means) if means else "-"


def upright(runs):
    seeds = Counter(sorted(values(runs, "upright")))
    return ", ".join(f"{number} x {share:.0%}" for share, number in seeds.items())


def good(runs):
    return lab.share(sum(run["greedy"] >= GOOD for run in runs), len(runs))


def each(key):
    return lambda runs: ", ".join(f"{np.round(value) + 0.0:.0f}" for value in values(runs, key))


def spread(key, digits=0):
    return lambda runs: lab.spread(values(runs, key), digits) if values(runs, key) else "-"


LEARNED = {
    "solved (95% interval)": solved,
    "half of all seeds solved it by episode": half,
    "returns from episode 1001 on": late,
    "average at the end": spread("average"),
    "below 150 after episode 2000": fell,
    "greedy": spread("greedy"),
}
DRIFTED = {"upright after 1000 steps (seeds x share of the episodes)": upright}
SWUNG = {
    "seeds that reached -250": solved,
    "half of all seeds by episode": half,
    "last 100 returns": spread("last 100"),
    "greedy": spread("greedy"),
    f"greedy at least {GOOD}": good,
}
CAUGHT = {"seconds": spread("of all"), "greedy": spread("greedy", 2)}
TRIED = {"last 100 returns": each("last 100"), "greedy": each("greedy")}


def table(title, results, columns):
    """Return a table in Markdown of {row: results}: a line a row, with the number of its seeds."""
    lines = []
    for name, runs in results.items():
        cells = [column(runs) for column in columns.values()]
        lines.append([name.removeprefix("Pendulum, "), str(len(runs)), *cells])
    return lab.table([title, "seeds", *columns], lines)


def tables(data):
    """Return the tables in Markdown."""
    parts = []
    for title, rows, columns in (
        ("CartPole-v0, 3000 episodes", {**CARTPOLE, **CLIPPING, **MISTAKES}, LEARNED),
        ("CartPole-v0", CARTPOLE, DRIFTED),
        ("Pendulum-v1, 5000 episodes", PENDULUM, SWUNG),
        ("example", CATCH, CAUGHT),
        ("environment", OTHERS, TRIED),
    ):
        results = lab.results(data, rows)
        if columns is DRIFTED:
            played = {name: [r for r in runs if "upright" in r] for name, runs in results.items()}
            results = {name: runs for name, runs in played.items() if runs}
        parts.append(table(title, results, columns))
    return "\n\n".join(parts)


def draw(data):
    shipped = {"as shipped": CARTPOLE["as shipped"], "quick": CARTPOLE["quick"]}
    for figure, rows, level in (
        ("knobs.png", {**CARTPOLE, **CLIPPING}, LEVELS["discrete_A3C.py"]),
        ("mistakes.png", {**shipped, **MISTAKES}, LEVELS["discrete_A3C.py"]),
        ("pendulum.png", PENDULUM, LEVELS["continuous_A3C.py"]),
    ):
        results = lab.results(data, rows)
        curves = {name: np.array(values(runs, "curve")) for name, runs in results.items()}
        behind = {}
        for name in curves:
            right = "quick" if name.startswith("quick") else "as shipped"
            right = "Pendulum, " * (rows is PENDULUM) + right
            behind[name] = right + lab.OLDER * (lab.OLDER in name)
        lab.draw(curves, behind, FOLDER / figure, level)


def main():
    rows = {name: ROWS[name] for name in sys.argv[1:] or ROWS}
    data = lab.fill(DATA, rows, lambda name, seed: train(ROWS[name], seed))
    print(tables(data))
    draw(data)


if __name__ == "__main__":
    main()
