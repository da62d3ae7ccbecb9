"""Measure speed and memory, and the time to solve CartPole. Run: python -m experiments.speed

Compares the two scripts with a bare environment, with stock parts and with Stable-Baselines3 where
it is installed. Each contestant is a process of its own, and all take turns, round after round:
what a machine does besides hits all alike. To compare with lines of your own, make them a patch in
variants/ and a row below. What was measured is kept in speed.json, and measured again only with
other code. Prints the tables of experiments/README.md (half an hour on 2 cores).
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
SECONDS = 3  # of a round, from the first episode on: the start of the workers is a small share
SCRIPTS = {"CartPole": "discrete_A3C.py", "Pendulum": "continuous_A3C.py"}
STOCK = "variants/stock_parts.patch"
ROWS = {}
PEERS = {}  # {row: arguments of speed_peers.py}
for env, script in SCRIPTS.items():
    PEERS[f"{env}, environment alone"] = ("environment", script.removesuffix(".py"), SECONDS)
    ROWS[f"{env}, environment alone"] = Row(ROUNDS, script=script)
    ROWS[f"{env}, 1 worker of stock parts"] = Row(ROUNDS, {"N_WORKERS": 1}, STOCK, script)
    ROWS[f"{env}, 1 worker"] = Row(ROUNDS, {"N_WORKERS": 1}, script=script)
    ROWS[f"{env}, 2 workers"] = Row(ROUNDS, script=script)
# Who solves CartPole first: measured where Stable-Baselines3 is installed.
SOLVING = {"as shipped": Row(SEEDS), "quick": Row(SEEDS, learning.QUICK)}
for algorithm in ("A2C", "PPO"):
    name = f"Stable-Baselines3 {algorithm}, 8 environments, 1 process"
    PEERS[name] = (algorithm,)
    SOLVING[name] = Row(SEEDS)


def measure(name, number):
    """Return the steps/s and MB of a row of ROWS, or when one of SOLVING has solved CartPole."""
    if name in PEERS:
        return run_peer(*PEERS[name], number)
    if name in ROWS:
        run = ROWS[name].run(number, seconds=SECONDS)
        return {"steps/s": run.rate, "MB": round(run.memory)}
    run = SOLVING[name].run(number)
    solved = learning.solving_episode(run.returns, learning.LEVELS["discrete_A3C.py"])
    return {"solved": solved, "seconds": None if solved is None else run.times[solved - 1]}


def run_peer(*arguments):
    """Run speed_peers.py; return what it prints."""
    command = [sys.executable, "-m", "experiments.speed_peers", *map(str, arguments)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def rates(data):
    """Return the table of steps/s and memory, and round by round the ratios, as text."""
    results = lab.results(data, ROWS)
    rate, megabytes = learning.spread("steps/s"), learning.spread("MB")
    lines = [[name, rate(runs), megabytes(runs)] for name, runs in results.items()]
    ratios = []
    for env in SCRIPTS:
        one, two = f"{env}, 1 worker", f"{env}, 2 workers"
        for ours, other in ((one, f"{one} of stock parts"), (two, one)):
            for older in ("", lab.OLDER):
                pairs = zip(results.get(ours + older, []), results.get(other + older, []))
                if found := [a["steps/s"] / b["steps/s"] for a, b in pairs]:
                    what = f"times the steps/s of {other.removeprefix(env)[2:]}"
                    ratios.append(f"- {ours}{older}: {lab.spread(found, 2)} {what}")
    rounds = max(map(len, results.values()))
    head = f"contestant, medians of {rounds} rounds"
    return lab.table([head, "env steps/s", "MB"], lines) + "\n\n" + "\n".join(ratios)


def times(data):
    """Return the table of the time to solve CartPole; who did not counts as later than all."""
    lines = []
    for name, runs in lab.results(data, SOLVING).items():
        solved = sum(run["solved"] is not None for run in runs)
        seconds = sorted(run["seconds"] or np.inf for run in runs)[(len(runs) - 1) // 2]
        cells = [f"{solved} of {len(runs)}", learning.half(runs)]
        lines.append([name, *cells, f"{seconds:.1f}" if np.isfinite(seconds) else "-"])
    heads = ["contestant", "solved", "half of all seeds by episode", "and by second"]
    return lab.table(heads, lines)


def main():
    data = lab.fill(DATA, ROWS, measure)
    if importlib.util.find_spec("stable_baselines3") is not None:
        data = lab.fill(DATA, SOLVING, measure)
    print(rates(data), times(data), sep="\n\n")


if __name__ == "__main__":
    main()
