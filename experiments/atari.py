"""Learn Atari games, and draw the curves. Run: python -m experiments.atari

What a run of examples/atari.py gave is kept in atari.json, and run again only with other constants
or code. A run takes 20 minutes to an hour on 2 cores, nothing beside it: Ctrl-Z pauses it and its
clock. Some rows alone: python -m experiments.atari Pong
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from examples import atari
from experiments import lab
from experiments.lab import ROOT, Row
from utils import v_wrap

DATA = Path(__file__).with_name("atari.json")
FIGURE = Path(__file__).with_name("pong.png")
ANIMATION = Path(__file__).with_name("pong.gif")
WEIGHTS = ROOT / "results" / "experiment-Pong.pt"  # of the first seed
GAMES = 100  # averaged
GREEDY_GAMES = 20
RANDOM = 0.01  # share of random actions in a greedy game: without them all games are the same one
AIMS = {"Pong": 15, "Breakout": 31}  # Breakout: a human's (Mnih et al. 2013)
SCRIPT = "examples/atari.py"
BREAKOUT = {"ENV_NAME": "ALE/Breakout-v5", "MAX_EP": 5000, "ENTROPY_BETA": 0.001}
AVERAGED = {**BREAKOUT, "BETAS": (0.98, 0.999)}  # over 50 gradients, not 12
WHOLE_BONUS = {**BREAKOUT, "MAX_EP": 6000, "ENTROPY_BETA": 0.01}
INVADERS = {"ENV_NAME": "ALE/SpaceInvaders-v5", "MAX_EP": 8000}
OWN_INIT = "variants/own_init.patch"
OWN_INIT_NO_OPS = "variants/own_init_no_ops.patch"
ORTHOGONAL = "variants/orthogonal_no_ops.patch"
ROWS = {
    "Pong": Row(range(3), script=SCRIPT),
    "Pong, not centred": Row(range(1), {"MAX_EP": 2000}, "variants/not_centred.patch", SCRIPT),
    "Breakout": Row(range(2), BREAKOUT, script=SCRIPT),
    "Breakout, `ENTROPY_BETA = 0.01`": Row(range(1), WHOLE_BONUS, script=SCRIPT),
    "Breakout, no `set_init`": Row(range(3), {**BREAKOUT, "MAX_EP": 4000}, OWN_INIT, SCRIPT),
    "Breakout, no `set_init`, no-op starts": Row(range(3), BREAKOUT, OWN_INIT_NO_OPS, SCRIPT),
    "Breakout, no `set_init`, no-op starts, 0.98": Row(range(3), AVERAGED, OWN_INIT_NO_OPS, SCRIPT),
    "Breakout, orthogonal, no-op starts, 0.98": Row(range(3), AVERAGED, ORTHOGONAL, SCRIPT),
    "Space Invaders": Row(range(1), INVADERS, script=SCRIPT),
    "Space Invaders, all shots": Row(range(1), {**INVADERS, "FRAME_SKIP": 3}, script=SCRIPT),
}


def measure(name, seed):
    """Return the games of a run (seconds, return), its millions of steps, and greedy games."""
    run = ROWS[name].run(seed)
    result = {
        "seed": seed,
        "games": [[time, int(r)] for time, r in zip(run.times, run.returns)],
        "steps": round(run.steps / 1e6, 3),
    }
    if name == "Pong":
        net = atari.Net(atari.N_S, atari.N_A)
        net.load_state_dict(run.weights)
        env = atari.make_env()
        result["greedy"] = [int(greedy_game(net, env, i)) for i in range(GREEDY_GAMES)]
        if seed == 0:
            WEIGHTS.parent.mkdir(exist_ok=True)
            torch.save(run.weights, WEIGHTS)
    return result


def greedy_game(net, env, seed):
    """Return the return of a game of the likeliest actions, but for one in a hundred at random."""
    rng = np.random.default_rng(seed)
    s, _ = env.reset(seed=0)
    total = 0.0
    terminated = truncated = False
    while not (terminated or truncated):
        a = net.choose_action(v_wrap(s[None]), greedy=True)
        if rng.random() < RANDOM:
            a = int(rng.integers(atari.N_A))
        s, r, terminated, truncated, _ = env.step(a)
        total += r
    return total


def means(run):
    """Return the minute of each game from the hundredth on, and the mean of the last hundred."""
    seconds, returns = np.array(run["games"]).T
    return seconds[GAMES - 1 :] / 60, np.convolve(returns, np.ones(GAMES) / GAMES, "valid")


def table(data):
    """Return the table in Markdown: a line a run."""
    heads = ["run", "minutes", "million steps", "the aim after", "highest mean", "last mean"]
    heads += ["greedy", "env steps/s"]
    lines = []
    for name, runs in lab.results(data, ROWS).items():
        for run in runs:
            minutes, averages = means(run)
            aim = next((AIMS[game] for game in AIMS if name.startswith(game)), np.inf)
            reached = np.flatnonzero(averages >= aim)
            first = f"{minutes[reached[0]]:.1f} min" if len(reached) else "-"
            cells = [f"{name}, seed {run['seed']}", f"{minutes[-1]:.1f}", f"{run['steps']:.2f}"]
            cells += [first, f"{averages.max():.1f}", f"{averages[-1]:.1f}"]
            cells.append(lab.spread(run["greedy"]) if "greedy" in run else "-")
            cells.append(f"{run['steps'] * 1e6 / minutes[-1] / 60:.0f}")
            lines.append(cells)
    return lab.table(heads, lines)


def draw(data):
    """Draw the mean of the last hundred games of Pong over the minutes."""
    fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, runs in lab.results(data, ROWS).items():
        for run in runs if name.startswith("Pong") else []:
            ax.plot(*means(run), label=f"{name}, seed {run['seed']}")
    ax.axhline(AIMS["Pong"], color="gray", linestyle="--", linewidth=0.8)
    ax.set(xlabel="Minutes on 2 cores", ylabel=f"Mean return of {GAMES} games")
    ax.legend()
    fig.savefig(FIGURE, dpi=80)


def animate(net, every=2):
    """Save the last rally of the first point that the greedy policy wins, one frame in `every`."""
    env = atari.make_env(render="rgb_array")
    s, _ = env.reset(seed=0)
    frames = []
    r = 0.0
    terminated = truncated = False
    while r <= 0 and not (terminated or truncated):
        a = net.choose_action(v_wrap(s[None]), greedy=True)
        s, r, terminated, truncated, _ = env.step(a)
        frames.append(Image.fromarray(env.render()).quantize(16))
        if r < 0:
            frames = []
    shown = frames[-150::every]
    milliseconds = 1000 * atari.FRAME_SKIP * every // 60  # 60 frames a second
    shown[0].save(ANIMATION, save_all=True, append_images=shown[1:], duration=milliseconds, loop=0)


def main():
    data = lab.fill(DATA, {name: ROWS[name] for name in sys.argv[1:] or ROWS}, measure)
    print(table(data))
    draw(data)
    if WEIGHTS.exists():
        net = atari.Net(atari.N_S, atari.N_A)
        net.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        animate(net)


if __name__ == "__main__":
    main()
