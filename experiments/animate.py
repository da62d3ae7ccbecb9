"""Draw the README's animations from saved weights. Run: python -m experiments.animate

Run both scripts first: it needs what they leave in results/, the weights and pictures of
CartPole-v0 and Pendulum-v1, and copies the pictures too. Needs pygame.
"""

import shutil
from pathlib import Path

import gym
import torch
from PIL import Image

import continuous_A3C
import discrete_A3C
from experiments.copies import ROOT
from utils import v_wrap

FOLDER = Path(__file__).resolve().parent


def animate(script, steps=200, every=2):
    """Draw `steps` steps of the greedy policy of `script`'s saved weights, one frame in `every`."""
    weights = ROOT / "results" / f"{script.ENV_NAME}.pt"
    if not weights.exists():
        raise SystemExit(f"{weights} is missing: run {Path(script.__file__).name} first.")
    net = script.Net(script.N_S, script.N_A)
    net.load_state_dict(torch.load(weights, weights_only=True))
    env = gym.make(script.ENV_NAME, disable_env_checker=True, render_mode="rgb_array")
    s, _ = env.reset(seed=0)
    frames = []
    for step in range(steps):
        a = net.choose_action(v_wrap(s[None, :]), greedy=True)
        if script is continuous_A3C:
            a = a.astype(float)  # gym's Pendulum can't draw a float32
        s, _, terminated, _, _ = env.step(a)
        if step % every == 0:
            frame = Image.fromarray(env.render())
            frames.append(frame.resize((frame.width // 2, frame.height // 2)).quantize(32))
        if terminated:
            break
    path = FOLDER / f"{script.ENV_NAME}.gif"
    milliseconds = 1000 * every // env.metadata["render_fps"]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    print(f"Saved {path}, {path.stat().st_size // 1000} kB")
    print(f"Saved {shutil.copy(weights.with_suffix('.png'), FOLDER)}")


if __name__ == "__main__":
    animate(discrete_A3C)
    animate(continuous_A3C)
