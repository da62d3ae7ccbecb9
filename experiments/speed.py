"""Measure speed, and the time to solve CartPole. Run: python -m experiments.speed

Compares the two scripts with a bare environment, with stock parts and with Stable-Baselines3 if it
is installed. Each contestant is a process of its own, and all take turns, round after round: what
else the machine does hits all alike. To compare lines of your own, make them a patch in variants/
and a row below. Results are kept in speed.json: remove it to measure all of them again. Prints the
tables of experiments/README.md.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from experiments import lab, learning
from experiments.lab import ROOT, Row

DATA = Path(__file__).with_name("speed.json")
ROUNDS = range(15)
SEEDS = range(10)  # of the runs until CartPole is solved
SECONDS = 3  # of a bare environment
# Episodes of a run, some seconds each. Nothing is learned, so that all of CartPole's are short.
SCRIPTS = {
    "CartPole": ("discrete_A3C.py", {"LR": 1e-9, "MAX_EP": 600}),
    "Pendulum": ("continuous_A3C.py", {"LR": 1e-9, "MAX_EP": 100}),
}
STOCK = "variants/stock_parts.patch"
ROWS = {}
PEERS = {}  # {row: arguments of speed_peers.py}
for env, (script, short) in SCRIPTS.items():
    one = {**short, "N_WORKERS": 1}
    PEERS[f"{env}, environment alone"] = ("environment", script.removesuffix(".py"), SECONDS)
    ROWS[f"{env}, environment alone"] = Row(ROUNDS, script=script)
    ROWS[f"{env}, 1 worker of stock parts"] = Row(ROUNDS, one, STOCK, script)
    ROWS[f"{env}, 1 worker"] = Row(ROUNDS, one, script=script)
    ROWS[f"{env}, 2 workers"] = Row(ROUNDS, short, script=script)
# Who solves CartPole first.
SOLVING = {
    "as shipped": Row(SEEDS),
    "quick": Row(SEEDS, learning.QUICK),
    "the tutorial's tips": Row(SEEDS, learning.TIPS),
}
for algorithm in ("A2C", "PPO"):
    name = f"Stable-Baselines3 {algorithm}, 8 environments, 1 process"
    PEERS[name] = (algorithm,)
    SOLVING[name] = Row(SEEDS)


def measure(name, number):
    """Return the steps/s of a row of ROWS, or when one of SOLVING has solved CartPole."""
    if name in PEERS:
        return run_peer(*PEERS[name], number)
    with {**ROWS, **SOLVING}[name].run(number) as run:
        if name in ROWS:
            return {"steps/s": lab.steps_per_second(run)}
        solved = learning.solving_episode(lab.returns_of(run), learning.LEVELS["CartPole-v0"])
    seconds = None if solved is None else round(run.times[solved - 1] - run.times[0], 1)
    return {"solved": solved, "seconds": seconds}


def run_peer(*arguments):
    """Run speed_peers.py; return what it prints."""
    command = [sys.executable, "-m", "experiments.speed_peers", *map(str, arguments)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def tables(data):
    """Return the tables of steps/s and of the time to solve CartPole, with ratios between them."""
    results = lab.results(data, ROWS)
    rate = learning.spread("steps/s")
    rates = [[name, str(len(runs)), rate(runs)] for name, runs in results.items()]
    ratios = []
    for env in SCRIPTS:
        one, two = f"{env}, 1 worker", f"{env}, 2 workers"
        for ours, other in ((one, f"{one} of stock parts"), (two, one)):
            pairs = zip(results.get(ours, []), results.get(other, []))  # of the same round
            if found := [a["steps/s"] / b["steps/s"] for a, b in pairs]:
                what = f"times the steps/s of {other.removeprefix(env)[2:]}"
                ratios.append(f"- {ours}: {lab.spread(found, 2)} {what}")
    times = []
    for name, runs in lab.results(data, SOLVING).items():
        solved = sum(run["solved"] is not None for run in runs)
        # Who did not solve it counts as later than all others.
        seconds = sorted(run["seconds"] or np.inf for run in runs)[(len(runs) - 1) // 2]
        cells = [f"{solved} of {len(runs)}", learning.half(runs)]
        times.append([name, *cells, f"{seconds:.1f}" if np.isfinite(seconds) else "-"])
    heads = ["contestant", "solved", "half of all seeds by episode", "and by second"]
    parts = [lab.table(["contestant", "rounds", "env steps/s"], rates), "\n".join(ratios)]
    return "\n\n".join([*parts, lab.table(heads, times)])


def main():
    rows = dict(ROWS)
    if importlib.util.find_spec("stable_baselines3") is not None:
        rows.update(SOLVING)
    data = lab.fill(DATA, rows, measure)
    print(tables(data))


if __name__ == "__main__":
    main()
