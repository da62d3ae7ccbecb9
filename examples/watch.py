"""Watch a trained agent. Train one first, then: pip install pygame && python -m examples.watch

Put the file that the run printed into WEIGHTS: any of discrete_A3C.py, continuous_A3C.py (for the
ENV_NAME at their tops) or examples/pong.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from utils import v_wrap

WEIGHTS = "results/CartPole-v0.pt"  # as the run printed it
EPISODES = 3
MAX_STEPS = 10_000  # of an episode
SEED = 1  # of the environment


def find_program(stem):
    """Return the script that saves its weights under the name `stem`, and its environment."""
    if "Pong" in stem:
        from examples import pong

        return pong, pong.make_env(render=True)
    if find_spec("pygame") is None:
        sys.exit("The window needs one more package: pip install pygame")
    import continuous_A3C
    import discrete_A3C

    for script, space in ((discrete_A3C, "Discrete"), (continuous_A3C, "Box")):
        if stem == script.ENV_NAME.replace("/", "-").replace(":", "-"):
            make, spaces = script.gym.make, script.gym.spaces
            env = script.make_env(make, script.ENV_NAME, getattr(spaces, space), render=True)
            return script, env
    sys.exit(f"WEIGHTS = {WEIGHTS!r}: set ENV_NAME in the script that saved it to its environment.")


def load(net, path):
    """Load the weights at `path` into `net`, or exit with a sentence on what to change."""
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except FileNotFoundError:
        sys.exit(f"WEIGHTS = {WEIGHTS!r}: there is no such file; train first, or change the name.")
    except Exception as error:
        made = f"no weights of {type(net).__module__}.Net ({type(error).__name__})"
        sys.exit(f"WEIGHTS = {WEIGHTS!r}: {made}; train again, or change the name.")


def play(net, env, seed=None):
    """Play one episode with the greedy policy of `net`; return the sum of its rewards."""
    total = 0.0
    s, _ = env.reset(seed=seed)
    for _ in range(MAX_STEPS):
        a = net.choose_action(v_wrap(s[None]), greedy=True)
        if isinstance(a, np.ndarray):
            a = a.astype("float64")  # gym's Pendulum can't draw a float32
        s, r, terminated, truncated, _ = env.step(a)
        total += r
        if terminated or truncated:
            break
    return total


if __name__ == "__main__":
    program, env = find_program(Path(WEIGHTS).stem)
    net = program.Net(program.N_S, program.N_A)
    load(net, WEIGHTS)
    for episode in range(EPISODES):
        print(f"Episode {episode + 1}: return {play(net, env, SEED + episode):.0f}", flush=True)
    env.close()
