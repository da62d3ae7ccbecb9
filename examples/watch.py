"""Watch a trained agent. Train one first, then: pip install pygame-ce && python -m examples.watch

PROGRAM trained it: discrete_A3C, continuous_A3C, examples.catch, examples.atari, or a program of
your own that has Net, N_S, N_A and make_env. Without a display it writes an animation.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image  # it comes with matplotlib

from utils import evaluate, load_weights

PROGRAM = "discrete_A3C"  # as it is imported: with a dot for the folder, without .py
WEIGHTS = "results/CartPole-v0-1.pt"  # as the run printed it
GIF = None  # a name, such as "results/CartPole-v0-1.gif": write this animation, open no window
EPISODES = 3
MAX_STEPS = 10_000  # of an episode
SEED = 1  # of the environment
EVERY = 2  # steps from one picture of an animation to the next


class Shown:
    """An environment to play in; its pictures are kept in `frames` where it makes some."""

    def __init__(self, env, net):
        self.env, self.net, self.frames, self.steps = env, net, [], 0

    def reset(self, seed=None):
        if hasattr(self.net, "forget"):  # it has a memory of the last episode
            self.net.forget()
        return self.env.reset(seed=seed)

    def step(self, a):
        if isinstance(a, np.ndarray) and a.dtype == np.float32:
            a = a.astype("float64")  # gym's Pendulum can't draw a float32
        if self.env.render_mode == "rgb_array" and self.steps % EVERY == 0:
            frame = Image.fromarray(self.env.render())
            half = frame.resize((frame.width // 2, frame.height // 2))
            self.frames.append(half.quantize(32))
        self.steps += 1
        return self.env.step(a)

    def write(self, path):
        """Write the pictures to `path`, at the speed that the environment names."""
        Path(path).parent.mkdir(exist_ok=True)
        milliseconds = 1000 * EVERY // self.env.metadata.get("render_fps", 30)
        first, *others = self.frames
        first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
        print(f"Saved {path}")


def find_program(name, weights=""):
    """Return the module `name`, set to the game that `weights` name, or exit with a sentence."""
    try:
        program = import_module(name)
    except ModuleNotFoundError as error:
        sys.exit(f"PROGRAM = {name!r}: {error}; change it, or install what it needs.")
    if hasattr(program, "game_of") and program.game_of(weights):  # examples.atari plays many
        program.ENV_NAME = program.game_of(weights)
        program.N_S, program.N_A = program.shapes()
    if program.N_S is None:
        sys.exit(f"PROGRAM = {name!r}: its ENV_NAME = {program.ENV_NAME!r} does not fit; run it.")
    return program


def has_display():
    """Return whether a window can open: on Linux a variable tells."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in names)


def open_env(program, gif, net):
    """Return an environment of `program` for `net`, in a window or for the animation `gif`."""
    try:
        env = Shown(program.make_env(render="rgb_array" if gif else True), net)
        env.reset(seed=SEED)
        if gif:
            env.env.render()
        return env
    except Exception as error:
        told = " ".join(str(error).split())
        sys.exit(f"PROGRAM = {PROGRAM!r}: not to be shown: {told} (`pip install pygame-ce`?)")


if __name__ == "__main__":
    program = find_program(PROGRAM, WEIGHTS)
    net = program.Net(program.N_S, program.N_A)
    load_weights(net, WEIGHTS)
    gif = GIF
    windows = "human" in program.make_env().metadata["render_modes"]
    if gif is None and not (windows and has_display()):
        gif = str(Path(WEIGHTS).with_suffix(".gif"))
        print("There is no window for it: it becomes an animation.")
    env = open_env(program, gif, net)
    for episode in range(EPISODES):
        score = evaluate(net, env, SEED + episode, episodes=1, max_steps=MAX_STEPS)
        print(f"Episode {episode + 1}: return {score:.2f}", flush=True)
    if gif is not None:
        env.write(gif)
    env.env.close()
