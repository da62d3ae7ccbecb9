"""Train both scripts once, and draw what they learned. Run: python -m experiments.animate

The first two lines of each run and those from its last episode on are kept in animate.json and
printed at the end.
Its learning curve and an animation of its greedy policy are CartPole-v0.png and .gif, and
Pendulum-v1.png and .gif. Other code is trained anew, and so are both without animate.json (two
minutes on 2 cores). Needs pygame-ce.
"""

import json
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

import continuous_A3C
import discrete_A3C
from experiments import knobs
from experiments.copies import Copy, code_of
from utils import v_wrap

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "animate.json"
CONSTANTS = {"N_WORKERS": 2}
SCRIPTS = {"discrete_A3C.py": discrete_A3C, "continuous_A3C.py": continuous_A3C}


def train(name, folder):
    """Run the script `name`, in `folder`; return its first and its last lines."""
    copy = Copy(folder)
    copy.set_constants(name, CONSTANTS)
    max_ep = SCRIPTS[name].MAX_EP
    lines = []
    begin = time.perf_counter()
    with copy.start(name, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            lines.append(line.rstrip())
            if len(lines) % 500 == 0 and len(lines) < max_ep:
                left = (time.perf_counter() - begin) / len(lines) * (max_ep - len(lines))
                print(f"{name}: {lines[-1]}, {left:.0f} s left", flush=True)
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with status {process.returncode}.")
    # The last episode, three saved files, the speed and the greedy policy.
    last = max(number for number, line in enumerate(lines) if " Ep: " in line)
    end = [line.replace(str(copy.folder.resolve()), "...") for line in lines[last:]]
    return [*lines[:2], *end]


def animate(script, net, path, steps=200, every=2):
    """Draw `steps` steps of the greedy policy of `net` to `path`, one frame in `every`."""
    env = script.make_env("rgb_array")
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
    milliseconds = 1000 * every // env.metadata["render_fps"]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def main():
    if find_spec("pygame") is None:
        raise SystemExit("The animations need pygame: `pip install pygame-ce`.")
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    codes = data.setdefault("code", {})
    for name, script in SCRIPTS.items():
        code = code_of(name)
        if codes.get(name) != code:
            with tempfile.TemporaryDirectory(prefix="animate-") as folder:
                lines = train(name, folder)
                results = Path(folder) / "results"
                net = script.Net(script.N_S, script.N_A)
                weights = torch.load(results / f"{script.ENV_NAME}-1.pt", weights_only=True)
                net.load_state_dict(weights)
                animate(script, net, FOLDER / f"{script.ENV_NAME}.gif")
                shutil.copy(results / f"{script.ENV_NAME}-1.png", FOLDER / f"{script.ENV_NAME}.png")
            data[name] = lines
            codes[name] = code
            knobs.keep(DATA, data)
        print("\n".join(data[name]))


if __name__ == "__main__":
    main()
