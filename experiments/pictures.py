"""Train both scripts once, and keep what they print and draw. Run: python -m experiments.pictures

The learning curves become CartPole-v0.png and Pendulum-v1.png; the first lines of each run and
those from its last episode on are kept in pictures.json and printed. Both are trained again only if
code or constants have changed. Weights and constants are copied to examples/weights/, and
examples/watch.py draws the animations; Pong's run is that of experiments/atari.py.
"""

import shutil
from pathlib import Path

import torch

import discrete_A3C
from examples import watch
from examples.sweep import train
from experiments.lab import ROOT, Row, copy, keep, load, machine
from utils import seed_all

DATA = Path(__file__).with_name("pictures.json")
SCRIPTS = {"CartPole-v0": "discrete_A3C.py", "Pendulum-v1": "continuous_A3C.py"}


def measure(name):
    """Train with 2 workers; return the first and the last lines."""
    with copy() as folder:
        run = train(SCRIPTS[name], {"N_WORKERS": 2}, folder)
        if run.code != 0:
            raise SystemExit(run.errors)
        shutil.copy(run.folder / "returns.png", DATA.with_name(f"{name}.png"))
        for file in ("weights.pt", "constants.json"):
            shutil.copy(run.folder / file, ROOT / "examples" / "weights" / name)
    episodes = [number for number, line in enumerate(run.lines) if " Ep: " in line]
    shown = [*run.lines[: episodes[1] + 1], *run.lines[episodes[-1] :]]
    return [line.replace(f"{run.folder.parent}", ".../results") for line in shown]


def untrained():
    """Make the run of CartPole as it is before training; return its folder."""
    folder = ROOT / "results" / "experiment-untrained"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "examples" / "weights" / "CartPole-v0" / "constants.json", folder)
    seed_all(discrete_A3C.SEED)
    net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder


def animate(name, program, weights, seed=1, steps=200):
    watch.PROGRAM, watch.WEIGHTS, watch.SEED = program, weights, seed
    watch.STEPS, watch.SHOW = steps, "gif"
    watch.main()
    shutil.move(ROOT / "results" / f"{weights.name}.gif", DATA.with_name(f"{name}.gif"))


def main():
    data = load(DATA)
    for name, script in SCRIPTS.items():
        setting = Row(range(1), script=script).setting()
        if not setting.items() <= data.get(script, {}).items():
            data[script] = {"lines": measure(name), **setting, "machine": machine()}
            keep(DATA, data)
        print("\n".join(data[script]["lines"]))
    animate("untrained", "discrete_A3C.py", untrained(), steps=180)
    weights = ROOT / "examples" / "weights"
    animate("CartPole-v0", "discrete_A3C.py", weights / "CartPole-v0")
    animate("Pendulum-v1", "continuous_A3C.py", weights / "Pendulum-v1", seed=0)
    animate("pong", "examples/atari.py", ROOT / "results" / "experiment-Pong")


if __name__ == "__main__":
    main()
