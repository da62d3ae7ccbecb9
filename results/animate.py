"""Remake the README's animations from saved weights. Run: python results/animate.py

Run both scripts first: it needs results/CartPole-v0.pt and results/Pendulum-v1.pt. Needs pygame.
"""

import sys
from pathlib import Path

import gym
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import continuous_A3C
import discrete_A3C
from utils import v_wrap

RESULTS = Path(__file__).resolve().parent


def animate(script, steps=200, every=2):
    """Draw `steps` steps of the greedy policy of `script`'s saved weights, one frame in `every`."""
    net = script.Net(script.N_S, script.N_A)
    net.load_state_dict(torch.load(RESULTS / f"{script.ENV_NAME}.pt", weights_only=True))
    env = gym.make(script.ENV_NAME, disable_env_checker=True, render_mode="rgb_array")
    s, _ = env.reset(seed=0)
    frames = []
    for step in range(steps):
        a = net.choose_action(v_wrap(s[None, :]), greedy=True)
        s, _, terminated, _, _ = env.step(a if isinstance(a, int) else a.astype(float))
        if step % every == 0:
            frame = Image.fromarray(env.render())
            frames.append(frame.resize((frame.width // 2, frame.height // 2)).quantize(32))
        if terminated:
            break
    path = RESULTS / f"readme_{script.ENV_NAME}.gif"
    milliseconds = 1000 * every // env.metadata["render_fps"]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    print(f"Saved {path}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    animate(discrete_A3C)
    animate(continuous_A3C)
