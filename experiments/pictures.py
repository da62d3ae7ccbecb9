"""Train both scripts once, and keep what they print and draw. Run: python -m experiments.pictures

The learning curves become CartPole-v0.png and Pendulum-v1.png; the first lines of each run and
those from its last episode on are kept in pictures.json and printed. The runs themselves are copied
to results/experiment-CartPole-v0 and -Pendulum-v1, for examples/watch.py. Both are trained again
only if code or constants have changed.
"""

import shutil
from pathlib import Path

from examples.sweep import train
from experiments.lab import ROOT, Row, copy, keep, load, machine

DATA = Path(__file__).with_name("pictures.json")
SCRIPTS = {"CartPole-v0": "discrete_A3C.py", "Pendulum-v1": "continuous_A3C.py"}


def measure(name):
    """Train with 2 workers; return the first and the last lines."""
    with copy() as folder:
        run = train(SCRIPTS[name], {"N_WORKERS": 2}, folder)
        if run.code != 0:
            raise SystemExit(run.errors)
        shutil.copy(run.folder / "returns.png", DATA.with_name(f"{name}.png"))
        shutil.copytree(run.folder, ROOT / "results" / f"experiment-{name}", dirs_exist_ok=True)
    episodes = [number for number, line in enumerate(run.lines) if " Ep: " in line]
    shown = [*run.lines[: episodes[1] + 1], *run.lines[episodes[-1] :]]
    return [line.replace(f"{run.folder.parent}", ".../results") for line in shown]


def main():
    data = load(DATA)
    for name, script in SCRIPTS.items():
        setting = Row(range(1), script=script).setting()
        if not setting.items() <= data.get(script, {}).items():
            data[script] = {"lines": measure(name), **setting, "machine": machine()}
            keep(DATA, data)
        print("\n".join(data[script]["lines"]))


if __name__ == "__main__":
    main()
