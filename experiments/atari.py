"""Learn Atari games. Run: python -m experiments.atari

Results of examples/atari.py are kept in atari.json; only what is missing is measured. A run is
stopped after MINUTES. Pong's first run is copied to results/experiment-Pong, for examples/watch.py.
Some rows only: python -m experiments.atari Pong. Without measuring: ... experiments.atari tables
"""

import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from experiments import lab
from experiments.lab import ROOT, Row

DATA = Path(__file__).with_name("atari.json")
GAMES = 100  # averaged
MINUTES = 45  # then a run is stopped
AIMS = {"Pong": 15, "Breakout": 31}  # Breakout: a human's (Mnih et al. 2013)
SCRIPT = "examples/atari.py"
BREAKOUT = {
    "ENV_NAME": "ALE/Breakout-v5",
    "MAX_EP": 5000,
    "BETAS": (0.98, 0.999),  # averages over 50 gradients, not 12
    "ENTROPY_BETA": 0.001,
    "OWN_INIT": True,
    "NO_OPS": 30,
}
ROWS = {
    "Pong": Row(range(3), script=SCRIPT),
    "Pong, `OWN_INIT = True`": Row(range(1), {"OWN_INIT": True}, script=SCRIPT),
    "Breakout": Row(range(2), BREAKOUT, script=SCRIPT),
}


def measure(name, seed):
    """Return the games of a run (seconds, return), and its millions of steps."""
    stopped = []

    def stop(*_):
        stopped.append(True)
        raise KeyboardInterrupt  # which train passes on to the run

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(60 * MINUTES)
    with ROWS[name].run(seed, may_fail=True) as run:
        signal.alarm(0)
        if run.code != 0 and not stopped:  # a fault, or your own Ctrl-C: no result
            raise SystemExit(run.errors)
        returns = lab.returns_of(run)
        if name == "Pong" and seed == 0:
            shutil.copytree(run.folder, ROOT / "results" / "experiment-Pong", dirs_exist_ok=True)
    games = [[round(time, 1), int(r)] for time, r in zip(run.times, returns)]
    rates = re.findall(r"(\d+) steps/s", "\n".join(run.lines))  # printed every few minutes
    return {"seed": seed, "games": games, "steps": round(int(rates[-1]) * games[-1][0] / 1e6, 2)}


def tables(data):
    """Return the table in Markdown: a line a run."""
    lines = []
    for name, runs in lab.results(data, ROWS).items():
        for run in runs:
            seconds, returns = np.array(run["games"]).T
            seconds = seconds[GAMES - 1 :]
            averages = np.convolve(returns, np.ones(GAMES), "valid") / GAMES
            aim = next((AIMS[game] for game in AIMS if name.startswith(game)), np.inf)
            reached = np.flatnonzero(averages >= aim)
            aimed = "-"
            if len(reached):
                aimed = f"{run['steps'] * seconds[reached[0]] / seconds[-1]:.2f}"
            cells = [f"{name}, seed {run['seed']}", f"{run['steps']:.2f}", aimed]
            lines.append([*cells, f"{averages.max():.1f}", f"{averages[-1]:.1f}"])
    heads = ["run", "million steps", "million steps to the aim", "highest mean", "last mean"]
    return lab.table(heads, lines)


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    print(tables(data))


if __name__ == "__main__":
    main()
