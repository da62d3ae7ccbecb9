"""Train both scripts once, and keep what they print and draw. Run: python -m experiments.pictures

The learning curves become CartPole-v0.png and Pendulum-v1.png; the first lines of each run and
those from its last episode on are kept in pictures.json and printed. Weights and constants are
copied to examples/weights/, and examples/watch.py draws the animations. Pong's and the
lander's need gymnasium (ale-py, box2d), and results/experiment-Pong and results/experiment-lander,
which experiments/atari.py and experiments/learning.py leave when they measure the first run. To
train again, remove pictures.json.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

import discrete_A3C
from examples import watch
from examples.train import train
from experiments import lab
from experiments.lab import ROOT, Row
from utils import seed_all

DATA = Path(__file__).with_name("pictures.json")
WEIGHTS = ROOT / "examples" / "weights"
RESULTS = ROOT / "results"
SEED = range(2, 3)  # the scripts' own
ROWS = {"CartPole-v0": Row(SEED), "Pendulum-v1": Row(SEED, script="continuous_A3C.py")}


def measure(name, seed):
    """Train with 2 workers; return the first and the last lines."""
    with lab.copy() as folder:
        run = train(ROWS[name].script, {"N_WORKERS": 2, "SEED": seed}, folder)
        if run.code != 0:
            raise SystemExit(run.errors)
        shutil.copy(run.folder / "curves.png", DATA.with_name(f"{name}.png"))
        shutil.copy(run.folder / "weights.pt", WEIGHTS / name)
        constants = json.loads((run.folder / "constants.json").read_text(encoding="utf-8"))
    del constants["EXIT_CODE"]
    constants["PROGRAM"] = ROWS[name].script  # for examples/watch.py
    path = WEIGHTS / name / "constants.json"
    path.write_text(json.dumps(constants, indent=2) + "\n", encoding="utf-8")
    episodes = [number for number, line in enumerate(run.lines) if " Ep: " in line]
    shown = [*run.lines[: episodes[1] + 1], *run.lines[episodes[-1] :]]
    return {"lines": [line.replace(f"{run.folder.parent}", ".../results") for line in shown]}


def untrained():
    """Make a run of CartPole as it is before training; return its folder."""
    folder = RESULTS / "experiment-untrained"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(WEIGHTS / "CartPole-v0" / "constants.json", folder)
    seed_all(discrete_A3C.SEED)
    net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
    torch.save(net.state_dict(), folder / "weights.pt")
    return folder


def animate(name, weights, seed=1, steps=200, every=2):
    watch.WEIGHTS, watch.SEED = weights, seed
    watch.STEPS, watch.EVERY, watch.SHOW = steps, every, "gif"
    watch.main()
    shutil.move(RESULTS / f"{weights.name}.gif", DATA.with_name(f"{name}.gif"))


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    for [run] in lab.results(data, ROWS).values():
        print("\n".join(run["lines"]))
    animate("untrained", untrained(), steps=180)
    animate("CartPole-v0", WEIGHTS / "CartPole-v0")
    animate("Pendulum-v1", WEIGHTS / "Pendulum-v1", seed=0)
    animate("pong", RESULTS / "experiment-Pong")
    animate("lander", RESULTS / "experiment-lander", steps=250, every=5)


if __name__ == "__main__":
    main()
