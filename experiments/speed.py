"""Measure the steps/s of the scripts, stock parts and the cluster. Run: python -m experiments.speed

All take turns, round after round: what else the machine does hits all alike. To compare lines of
your own, make them a patch in variants/ and a row below. Results are kept in speed.json: remove it
to measure all of them again. Some rows only: python -m experiments.speed "CartPole, 1 worker".
Without measuring: python -m experiments.speed tables. Needs pip install scipy ray.
"""

import sys
import time
from pathlib import Path

import numpy as np

from experiments import lab, stats
from experiments.lab import Row

DATA = Path(__file__).with_name("speed.json")
ROUNDS = range(10)
# Episodes of a run, some seconds each. Nothing is learned, so that all of CartPole's are short.
SCRIPTS = {
    "CartPole": ("discrete_A3C.py", {"LR": 1e-9, "MAX_EP": 600}),
    "Pendulum": ("continuous_A3C.py", {"LR": 1e-9, "MAX_EP": 100}),
}
STOCK = "variants/stock_parts.patch"
RATES = {}
for env, (script, short) in SCRIPTS.items():
    one = {**short, "N_WORKERS": 1}
    RATES[f"{env}, 1 worker of stock parts"] = Row(ROUNDS, one, STOCK, script)
    RATES[f"{env}, 1 worker"] = Row(ROUNDS, one, script=script)
    RATES[f"{env}, 2 workers"] = Row(ROUNDS, short, script=script)
# What the numbers of episodes.csv cost: n is 5 here, so updates are frequent.
short = {**SCRIPTS["CartPole"][1], "N_WORKERS": 1}
RATES["CartPole again, 1 worker without the log"] = Row(ROUNDS, short, "variants/no_log.patch")
RATES["CartPole again, 1 worker"] = Row(ROUNDS, short)
# More episodes, as its workers begin seconds apart.
short = {"LR": 1e-9, "MAX_EP": 2000, "N_WORKERS": 2}
RATES["Cluster, `N_WORKERS = 2`"] = Row(range(5), short, script="examples/cluster.py")
# The cluster's server, with so many workers that do nothing but send gradients.
SENDERS = {f"Server, senders: {n}": Row(range(5), {"N_WORKERS": n}, script=None) for n in (1, 2, 4)}
ROWS = {**RATES, **SENDERS}


def measure(name, number):
    if name in SENDERS:
        return {"updates/s": updates_per_second(SENDERS[name].constants["N_WORKERS"])}
    with ROWS[name].run(number) as run:
        return {"steps/s": steps_per_second(run)}


def updates_per_second(n_workers, seconds=10):
    import ray

    from examples import cluster

    @ray.remote
    class Sender:
        def send(self, server, gradients, end):
            updates = 0
            while time.time() < end:
                ray.get(server.update.remote(gradients))
                updates += 1
            return updates

    weights = cluster.get_weights(cluster.Net(cluster.N_S, cluster.N_A))
    ray.init("local", num_cpus=n_workers, log_to_driver=False, logging_level="ERROR")
    server = ray.remote(cluster.Server).options(num_cpus=0).remote(weights)
    senders = [Sender.remote() for _ in range(n_workers)]
    ray.get([server.weights.remote(), *(s.send.remote(server, weights, 0) for s in senders)])  # up
    end = time.time() + seconds
    updates = ray.get([sender.send.remote(server, weights, end) for sender in senders])
    ray.shutdown()
    return round(sum(updates) / seconds)


def steps_per_second(run):
    """Return the environment steps/s of a run of CartPole or Pendulum, from its first episode on.

    A step of CartPole pays 1, and an episode of Pendulum has 200 steps.
    """
    returns = lab.returns_of(run)[1:]
    steps = returns.sum() if "CartPole" in run.folder.name else 200 * len(returns)
    return round(steps / (run.times[-1] - run.times[0]))


def tables(data):
    """Return the tables in Markdown: a line a row."""
    results = lab.results(data, RATES)
    rates, above, before = [], "", []
    for name, runs in results.items():
        rate = [run["steps/s"] for run in runs]
        ratio = "-"
        if name.partition(",")[0] == above.partition(",")[0]:  # the same environment, in turn
            ratio = stats.spread(np.divide(rate, before), 2)
        rates.append([name, str(len(runs)), stats.spread(rate), ratio])
        above, before = name, rate
    heads = ["contestant", "rounds", "env steps/s", "times the row above"]
    sent = []
    for name, runs in lab.results(data, SENDERS).items():
        sent.append([name, stats.spread([run["updates/s"] for run in runs])])
    return "\n\n".join([lab.table(heads, rates), lab.table(["contestant", "updates/s"], sent)])


def main():
    print(tables(lab.fill(DATA, ROWS, measure, sys.argv[1:])))


if __name__ == "__main__":
    main()
