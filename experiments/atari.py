"""Learn Atari games, and draw the curves. Run: python -m experiments.atari

Each run is examples/atari.py in a copy of its own, with other constants or lines. What it prints is
kept in atari.json with the time, its weights in results/; a run that is there already is not run
again. Pong takes 20 to 40 minutes on 2 cores, other games an hour, and seconds count only with
nothing beside: Ctrl-Z pauses the runs, and their clock. At the end it prints the table of
experiments/README.md and draws pong.png and pong.gif. Needs Linux, gymnasium and ale-py.
"""

import json
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from examples import atari
from experiments.copies import ROOT, Copy, code_of
from experiments.knobs import keep
from experiments.speed import memory
from utils import v_wrap

DATA = Path(__file__).with_name("atari.json")
FIGURE = Path(__file__).with_name("pong.png")
ANIMATION = Path(__file__).with_name("pong.gif")
GAMES = 100  # averaged
GREEDY_GAMES = 20
RANDOM = 0.01  # share of random actions in a greedy game: without them all games are the same one

# What matters: each row leaves one thing out, by lines of examples/atari.py that change (old, new).
BRIGHT = [
    (
        "(screen[ROWS][::2, ::2].astype(np.float32) - self.background) / 128",
        "screen[ROWS][::2, ::2].astype(np.float32) / 255",
    )
]
POLICY = [
    (
        "        nn.init.zeros_(self.pi.weight)  # so the first policy is uniform\n",
        "",
    )
]
DEFAULT = [
    (
        "        set_init([self.conv1, self.conv2, self.fc, self.pi, self.v])\n"
        "        nn.init.zeros_(self.pi.weight)  # so the first policy is uniform\n",
        "        nn.init.normal_(self.pi.weight, std=0.01)\n        nn.init.zeros_(self.pi.bias)\n",
    ),
    ("seed_all, set_init\n", "seed_all\n"),
]
TWO_TRUNKS = [
    (
        "        self.pi = nn.Linear(256, a_dim)\n",
        "        self.pi = nn.Linear(256, a_dim)\n"
        "        self.conv3 = nn.Conv2d(s_dim[0], 16, 8, stride=4)\n"
        "        self.conv4 = nn.Conv2d(16, 32, 4, stride=2)\n"
        "        self.fc2 = nn.Linear(size, 256)\n",
    ),
    ("set_init([self.conv1", "set_init([self.conv3, self.conv4, self.fc2, self.conv1"),
    (
        "        x = F.relu(self.conv1(x))\n",
        "        y = F.relu(self.conv4(F.relu(self.conv3(x))))\n"
        "        y = F.relu(self.fc2(y.flatten(1)))\n"
        "        x = F.relu(self.conv1(x))\n",
    ),
    ("self.v(x)", "self.v(y)"),
]
SHIPPED = [f"as shipped, seed {seed}" for seed in range(3)]
RUNS = {name: ({"SEED": seed}, []) for seed, name in enumerate(SHIPPED)}  # constants, lines
RUNS["Breakout"] = ({"ENV_NAME": "ALE/Breakout-v5", "MAX_EP": 6000}, [])
RUNS["not centred: from 0 to 1"] = ({"MAX_EP": 2000}, BRIGHT)
RUNS["two trunks"] = ({}, TWO_TRUNKS)
RUNS["the policy from N(0, 0.1) too"] = ({}, POLICY)
for seed in range(3):
    RUNS[f"PyTorch's initialisation, seed {seed}"] = ({"MAX_EP": 1500, "SEED": seed}, DEFAULT)


class Clock:
    """Seconds since the start, without those in which the process was stopped."""

    def __init__(self):
        self.seconds = 0.0
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        before = time.monotonic()
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            self.seconds += min(now - before, 1.0)
            before = now


def weights_file(name):
    return ROOT / "results" / f"{name}.pt"


def games_of(name):
    constants, _ = RUNS[name]
    return constants.get("MAX_EP", atari.MAX_EP)


def run(name, later=0):
    """Run examples/atari.py as `name` says; return its games, with times.

    After it, `later` more games are to be played: they count in the minutes left.
    """
    constants, lines = RUNS[name]
    copy = Copy(tempfile.mkdtemp(prefix="atari-"))
    copy.set_constants("examples/atari.py", constants)
    for old, new in lines:
        copy.change("examples/atari.py", old, new)
    # The return itself beside the moving average.
    copy.change("utils.py", "{global_ep_r.value:.2f}", "{global_ep_r.value:.2f} | {ep_r:.0f}")
    process = copy.start("-m", "examples.atari", stdout=subprocess.PIPE)
    clock = Clock()
    games = []
    steps = []
    peak = 0.0
    for line in process.stdout:
        game = re.match(r"w\d\d Ep: \d+ \| Ep_r: \S+ \| (-?\d+)$", line)
        progress = re.match(r"(\d+) env steps in", line)
        if game:
            games.append([round(clock.seconds, 1), int(game[1])])
        if progress:
            steps.append([round(clock.seconds, 1), int(progress[1])])
            peak = max(peak, memory(process.pid))
            mean = np.mean([r for _, r in games[-GAMES:]])
            line = f"mean of {GAMES} games: {mean:.1f}, {line}"
            to_play = max(0, games_of(name) - len(games)) + later
            left = clock.seconds / max(1, len(games)) * to_play / 60
            line = f"{left:.0f} minutes left for all runs, {line}"
            print(f"{name}: game {len(games)}, {line}", end="", flush=True)
    if process.wait() != 0:
        raise SystemExit(f"{name} failed, see {copy.folder}")
    weights_file(name).parent.mkdir(exist_ok=True)
    [weights] = (copy.folder / "results").glob("*.pt")
    weights_file(name).write_bytes(weights.read_bytes())
    code = code_of("examples/atari.py")
    result = {"constants": constants, "games": games, "steps": steps, "memory": round(peak)}
    return {**result, "code": code}


def load(name):
    net = atari.Net(atari.N_S, atari.N_A)
    net.load_state_dict(torch.load(weights_file(name), weights_only=True))
    return net


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


def means(games):
    """Return the minute of each game from the hundredth on, and the mean of the last hundred."""
    seconds, returns = np.array(games).T
    return seconds[GAMES - 1 :] / 60, np.convolve(returns, np.ones(GAMES) / GAMES, "valid")


def table(data):
    """Return the table in Markdown."""
    heads = ["run", f"minutes to a mean of 15 over {GAMES} games", "minutes", "games"]
    heads += ["env steps, million", f"mean of the last {GAMES}", f"greedy, {GREEDY_GAMES} games"]
    heads += ["env steps/s", "MB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, result in data.items():
        minutes, averages = means(result["games"])
        reached = np.flatnonzero(averages >= 15)
        first = f"{minutes[reached[0]]:.1f}" if len(reached) else "-"
        seconds, steps = result["steps"][-1]
        scores = result.get("greedy")
        greedy = f"{np.mean(scores):.1f} ({min(scores)} to {max(scores)})" if scores else "-"
        cells = [name, first, f"{minutes[-1]:.1f}", str(len(result["games"]))]
        cells += [f"{steps / 1e6:.2f}", f"{averages[-1]:.1f}"]
        cells += [greedy, f"{steps / seconds:.0f}", str(result["memory"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(data):
    """Draw the mean of the last hundred games over the minutes: as shipped, and what matters."""
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True, sharey=True, layout="constrained")
    colors = {}
    for name, result in data.items():
        if name in SHIPPED:
            axes[0].plot(*means(result["games"]), label=name)
        kind = name.split(", seed")[0]
        label = None if kind in colors else kind
        color = colors.setdefault(kind, f"C{len(colors)}")
        axes[1].plot(*means(result["games"]), color=color, label=label)
    for ax in axes:
        ax.axhline(15, color="gray", linestyle="--", linewidth=0.8)
        ax.set(xlabel="Minutes on 2 cores", ylim=(-21.5, 21.5))
        ax.legend()
    axes[0].set_ylabel(f"Mean return of {GAMES} games")
    fig.savefig(FIGURE, dpi=80)


def animate(net, every=2):
    """Save the last rally of the first point that the greedy policy wins, one frame in `every`."""
    env = atari.make_env(render="rgb_array")
    s, _ = env.reset(seed=0)
    frames = []
    r = 0.0
    while r <= 0:
        s, r, _, _, _ = env.step(net.choose_action(v_wrap(s[None]), greedy=True))
        frames.append(Image.fromarray(env.render()).quantize(16))
        if r < 0:
            frames = []
    shown = frames[-150::every]
    milliseconds = 1000 * 4 * every // 60  # a step is four frames, 60 of them a second
    shown[0].save(ANIMATION, save_all=True, append_images=shown[1:], duration=milliseconds, loop=0)
    print(f"Saved {ANIMATION}, {ANIMATION.stat().st_size // 1000} kB")


def main():
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    missing = [name for name in RUNS if name not in data]
    for name in RUNS:
        if name in missing:
            missing.remove(name)
            data[name] = run(name, later=sum(games_of(other) for other in missing))
        if name in SHIPPED and "greedy" not in data[name]:
            net = load(name)
            env = atari.make_env()
            data[name]["greedy"] = [int(greedy_game(net, env, i)) for i in range(GREEDY_GAMES)]
        keep(DATA, data)
    print(table(data))
    draw(data)
    weights = weights_file(SHIPPED[0])
    if weights.exists():
        animate(load(SHIPPED[0]))
    else:
        print(f"{ANIMATION.name} stays as it is: {weights} is missing.", end=" ")
        print(f"Delete {DATA} to train anew.")


if __name__ == "__main__":
    main()
