"""Train both scripts once, and draw what they learned. Run: python -m experiments.pictures

The first two lines of each run and those from its last episode on are kept in pictures.json and
printed at the end. Its learning curve and the animation that examples/watch.py makes of it are
CartPole-v0.png and .gif, and Pendulum-v1.png and .gif. Other code or constants are trained
anew, and so are both without pictures.json (two minutes on 2 cores). Needs pygame-ce.
"""

import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import continuous_A3C
import discrete_A3C
from experiments.lab import Copy, Row, keep, load, machine

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER / "pictures.json"
SCRIPTS = {"discrete_A3C.py": discrete_A3C, "continuous_A3C.py": continuous_A3C}
SEEDS = {"discrete_A3C.py": 1, "continuous_A3C.py": 4}  # of the animations: a pendulum that hangs


def train(name, copy):
    """Run the script `name` of `copy`; return its first and its last lines."""
    copy.set_constants(name, {"N_WORKERS": 2})
    with copy.start(name, stdout=subprocess.PIPE) as process:
        lines = process.stdout.read().splitlines()
    if process.returncode != 0:
        raise SystemExit(f"{name} ended with status {process.returncode}.")
    # The last episode, three saved files, the speed and the greedy policy.
    last = max(number for number, line in enumerate(lines) if " Ep: " in line)
    end = [line.replace(str(copy.folder.resolve()), "...") for line in lines[last:]]
    return [*lines[:2], *end]


def watch(name, copy):
    """Let examples/watch.py make an animation of what the script `name` has learned in `copy`."""
    run = f"results/{SCRIPTS[name].ENV_NAME}-1"
    told = {"PROGRAM": name.removesuffix(".py"), "WEIGHTS": f"{run}.pt", "GIF": f"{run}.gif"}
    copy.set_constants("examples/watch.py", {**told, "EPISODES": 1, "SEED": SEEDS[name]})
    with copy.start("-m", "examples.watch") as process:
        pass
    if process.returncode != 0:
        raise SystemExit(f"examples/watch.py ended with status {process.returncode}.")


def main():
    if find_spec("pygame") is None:
        raise SystemExit("The animations need pygame: `pip install pygame-ce`.")
    data = load(DATA)
    for name, script in SCRIPTS.items():
        setting = Row(range(1), script=name).setting()
        kept = data.get(name, {})
        if any(kept.get(key) != setting[key] for key in setting):
            with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
                copy = Copy(folder)
                lines = train(name, copy)
                watch(name, copy)
                for ending in (".png", ".gif"):
                    made = copy.folder / "results" / f"{script.ENV_NAME}-1{ending}"
                    shutil.copy(made, FOLDER / f"{script.ENV_NAME}{ending}")
            data[name] = {"lines": lines, **setting, "machine": machine()}
            keep(DATA, data)
        print("\n".join(data[name]["lines"]))


if __name__ == "__main__":
    main()
