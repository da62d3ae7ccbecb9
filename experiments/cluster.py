"""What a server costs: steps/s and time of an update. Run: python -m experiments.cluster

Runs examples/cluster.py with 1, 2 and 4 workers in turn, and times one update of CartPole's network
and of Atari's: in this process, through Ray, and many at once, which is all that a server can do.
Prints the tables of experiments/README.md. Results are kept in cluster.json: remove it to measure
all of them again. Needs ray, gymnasium and ale-py.
"""

import statistics
import time
from pathlib import Path

import ray

from examples import atari, cluster
from experiments import lab
from experiments.lab import Row
from shared_adam import SharedAdam

DATA = Path(__file__).with_name("cluster.json")
SCRIPT = "examples/cluster.py"
UPDATES = 100
NETS = {"CartPole": cluster, "Atari": atari}
RATES = {f"{n}": Row(range(1), {"N_WORKERS": n}, script=SCRIPT) for n in (1, 2, 4)}
TIMES = {
    "CartPole": Row(range(1), script=SCRIPT),
    "Atari": Row(range(1), script="examples/atari.py"),
}
ROWS = {**RATES, **TIMES}


class Server(cluster.Server):
    """The server of the example, for any network."""

    def __init__(self, net):
        self.gnet, self.episodes = net, []
        self.opt = SharedAdam(net.parameters(), lr=1e-3)


def seconds(work):
    """Return the median of the seconds that `work` takes, of UPDATES calls."""
    times = []
    for _ in range(UPDATES):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(name, seed):
    """Return the steps/s of a run, or the MB of a gradient and the seconds of an update."""
    if name in RATES:
        with ROWS[name].run(seed) as run:
            return {"steps/s": lab.steps_per_second(run)}
    ray.init(
        "local", log_to_driver=False, logging_level="ERROR", include_dashboard=False,
        ignore_reinit_error=True,
    )  # fmt: skip
    net = NETS[name].Net(NETS[name].N_S, NETS[name].N_A)
    gradients = [p.detach().numpy() * 0 for p in net.parameters()]
    here, there = Server(net), ray.remote(Server).remote(net)
    result = {
        "MB": sum(gradient.nbytes for gradient in gradients) / 1e6,
        "here": seconds(lambda: here.update(gradients)),
        "Ray": seconds(lambda: ray.get(there.update.remote(gradients))),
    }
    begin = time.perf_counter()
    ray.get([there.update.remote(gradients) for _ in range(UPDATES)])
    result["busy"] = (time.perf_counter() - begin) / UPDATES
    return result


def tables(data):
    """Return the two tables in Markdown."""
    rates, times = [], []
    for name, [result] in lab.results(data, RATES).items():
        rates.append([name, f"{result['steps/s']}"])
    for name, [result] in lab.results(data, TIMES).items():
        cells = [name, f"{result['MB']:.3g}", f"{1000 * result['here']:.2f}"]
        cells += [f"{1000 * result['Ray']:.2f}", f"{1 / result['busy']:.0f}"]
        n = result["constants"]["UPDATE_GLOBAL_ITER"]
        times.append([*cells, f"{n / result['busy']:.0f}"])
    heads = ["network", "MB of a gradient", "ms of an update, in one process", "ms through Ray"]
    heads += ["updates/s, at most", "full at steps/s of all workers"]
    return lab.table(["workers", "env steps/s"], rates) + "\n\n" + lab.table(heads, times)


def main():
    print(tables(lab.fill(DATA, ROWS, measure)))


if __name__ == "__main__":
    main()
