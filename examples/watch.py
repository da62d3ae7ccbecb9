"""Watch a trained agent: the game, the actor and the critic. Run: python -m examples.watch

Needs pygame-ce for the pictures of gym: pip install pygame-ce. With SHOW = None nothing is drawn:
it plays EPISODES and prints their returns. The last outputs of the network's forward are logits, or
mean and standard deviation, and V(s), as in both scripts.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch

import json
import sys
import types
from itertools import count
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter

import utils
from examples.train import ROOT, change, find_constants
from utils import v_wrap

WEIGHTS = "examples/weights/CartPole-v0"  # folder of a run, such as "results/CartPole-v0-1"
SHOW = "window"  # or "gif", which is written to results/; None: don't draw
STEPS = 400  # in the gif; a window stays open
EVERY = 2  # steps between two pictures
EPISODES = 100  # to play with SHOW = None
MAX_STEPS = 10_000  # of each of these episodes
SEED = 1  # of the first episode
SEEN = 200  # steps of V(s) in the plot


def find_program(folder):
    """Return the path of a run's program: its copy in the folder, or PROGRAM of constants.json.

    Exits with a sentence if there is neither, or no run.
    """
    if not (folder / "weights.pt").exists():
        sys.exit(f"WEIGHTS: {folder} is not a run's folder: it has no weights.pt.")
    for copy in folder.glob("*.py"):
        return copy
    path = folder / "constants.json"
    constants = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "PROGRAM" not in constants:
        sys.exit(f"WEIGHTS: {folder} has no copy of the program, nor PROGRAM in constants.json.")
    return ROOT / constants["PROGRAM"]


def set_constants(text, constants):
    """Return the text of a program with the constants of a run."""
    known = {}
    for name, node in find_constants(text).items():
        # A text stands for anything that constants.json can't hold; then the program's own stays.
        is_text = isinstance(getattr(node.value, "value", None), str)
        if name in constants and (is_text or not isinstance(constants[name], str)):
            known[name] = constants[name]
    return change(text, known)


def load(program, folder):
    """Return `program`, a path, as a module, and its network with the weights in `folder`.

    The copy in the folder has the run's constants; another program gets those in constants.json.
    """
    path, folder = Path(program).absolute(), Path(folder).absolute()
    text = path.read_text(encoding="utf-8")
    module = types.ModuleType("program")
    module.__file__ = str(path)
    if path.parent == folder:
        for original in (ROOT / "examples" / path.name, ROOT / path.name):
            if original.exists():
                module.__file__ = str(original)  # where the files are that it opens
    else:
        constants = json.loads((folder / "constants.json").read_text(encoding="utf-8"))
        text = set_constants(text, constants)
    sys.modules["program"] = module  # where dataclasses look
    exec(compile(text, path, "exec"), module.__dict__)
    net = module.Net(module.N_S, module.N_A)
    net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return module, net.eval()


def play(net, env):
    """Yield each step of the greedy policy: picture, outputs of the policy, V(s) and reward."""
    for episode in count():
        s, _ = env.reset(seed=SEED + episode)
        if hasattr(net, "forget"):
            net.forget()
        terminated = truncated = False
        while not (terminated or truncated):
            s = v_wrap(s)[None]
            with torch.no_grad():
                *outputs, value = net(s)
            frame = env.render()
            s, r, terminated, truncated, _ = env.step(net.choose_action(s, greedy=True))
            yield frame, outputs, value.item(), np.asarray(r).item()


class Picture:
    """The game at the left; at the right what the actor and the critic think of it."""

    def __init__(self, net, env, reward_scale):
        self.reward_scale = reward_scale  # V(s) is of scaled rewards
        self.steps, self.values, self.rewards = play(net, env), [], []
        frame, outputs, *_ = next(play(net, env))  # sizes, before anything is shown
        self.fig, axes = plt.subplot_mosaic(
            [["game", "actor"], ["game", "critic"]], figsize=(6, 2.4), layout="constrained"
        )
        axes["game"].axis("off")
        self.game = axes["game"].imshow(frame)
        scaled = "" if reward_scale == 1 else f" / {reward_scale:g}"
        axes["critic"].set_title(f"critic: V(s); gray: reward{scaled}", size=8)
        self.discrete = hasattr(env.action_space, "n")
        if self.discrete:
            axes["actor"].set_title("actor: probability of each action", size=8)
            actions = range(outputs[-1].shape[1])
            self.bars = axes["actor"].bar(actions, 1.0, color="tab:orange")
            axes["actor"].set(ylim=(0, 1), xticks=actions)
        else:
            axes["actor"].set_title("actor: mean and standard deviation of the action", size=8)
            low, high, n = env.action_space.low, env.action_space.high, env.action_space.shape[0]
            (self.mu,) = axes["actor"].plot(np.zeros(n), range(n), "o", color="tab:orange")
            self.sigma = axes["actor"].hlines(range(n), 0, 0, color="tab:orange")
            axes["actor"].set(xlim=(low.min(), high.max()), ylim=(-1, n), yticks=range(n))
        (self.reward,) = axes["critic"].plot([], [], color="silver")
        (self.value,) = axes["critic"].plot([], [])
        for ax in axes.values():
            ax.tick_params(labelsize=6)

    def draw(self, _):
        for _ in range(EVERY):
            frame, outputs, value, r = next(self.steps)
            self.values.append(value)
            self.rewards.append(r / self.reward_scale)
        self.game.set_data(frame)
        if self.discrete:
            for bar, p in zip(self.bars, torch.softmax(outputs[-1], dim=1)[0].tolist()):
                bar.set_height(p)
        else:
            mu, sigma = (output[0].numpy() for output in outputs[-2:])
            self.mu.set_xdata(mu)
            ends = np.stack([mu - sigma, mu + sigma], axis=1)
            self.sigma.set_segments([[(x, i) for x in xs] for i, xs in enumerate(ends)])
        first = max(0, len(self.values) - SEEN)
        steps = range(first, len(self.values))
        self.value.set_data(steps, self.values[first:])
        self.reward.set_data(steps, self.rewards[first:])
        self.value.axes.set_xlim(first, first + SEEN)
        self.value.axes.relim()
        self.value.axes.autoscale_view(scalex=False)


def show(net, env, reward_scale):
    """Show the picture in a window, or write it to results/NAME.gif."""
    picture = Picture(net, env, reward_scale)
    frames = STEPS // EVERY
    animation = FuncAnimation(picture.fig, picture.draw, frames, lambda: None, interval=40)
    if SHOW == "gif":
        path = Path("results", f"{Path(WEIGHTS).name}.gif")
        path.parent.mkdir(exist_ok=True)
        animation.save(path, PillowWriter(fps=25), dpi=80, progress_callback=print_progress)
        print(f"Saved {path}")
    else:
        plt.show()


def print_progress(frame, frames):
    if frame % 20 == 0:
        print(f"Frame {frame} of {frames}", flush=True)


def open_env(program):
    """Return an environment that draws, or None after a sentence on why it can't."""
    try:
        env = program.make_env(render_mode="rgb_array")
        env.reset(seed=SEED)
        shape = np.shape(env.render())
        if len(shape) == 3 and shape[2] in (3, 4):
            return env
        error = f"render() returns {shape}, not (height, width, 3)"
    except Exception as caught:  # each game says it in another way
        error = repr(caught)
    print(f"{program.ENV_NAME} can't be drawn: {error}. Playing without pictures.")


def main():
    program, net = load(find_program(Path(WEIGHTS)), WEIGHTS)
    has_window = plt.figure().canvas.required_interactive_framework is not None
    plt.close()
    if SHOW == "window" and not has_window:
        print('No window here; SHOW = "gif" writes an animation. Playing without pictures.')
    elif SHOW is not None:
        env = open_env(program)
        if env is not None:
            show(net, env, getattr(program, "REWARD_SCALE", 1.0))
            env.close()
            return
    env = program.make_env()
    evaluate = getattr(program, "evaluate", utils.evaluate)
    returns = evaluate(net, env, SEED, EPISODES, MAX_STEPS)
    env.close()
    numbers = returns.mean(), returns.std(), returns.min(), returns.max()
    told = "{} episodes: mean {:.2f}, standard deviation {:.2f}, lowest {:.2f}, highest {:.2f}"
    print(told.format(EPISODES, *numbers))


if __name__ == "__main__":
    main()
