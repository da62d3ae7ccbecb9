"""What a server costs: steps/s and time of an update. Run: python -m experiments.cluster

Runs examples/cluster.py with 1, 2 and 4 workers in turn, and times one update of CartPole's network
and of Atari's: in this process, through Ray, and many at once, which is all that a server can do.
Prints the tables of experiments/README.md (a minute or two on 2 cores). What was measured is kept
in cluster.json, and measured again only with other code. Needs ray, gymnasium and ale-py.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import ray

from examples import atari, cluster
from experiments.lab import OLDER, Copy, code_of, keep, load, table
from shared_adam import SharedAdam

DATA = Path(__file__).with_name("cluster.json")
CODE = code_of("examples/cluster.py")
WORKERS = (1, 2, 4)
EPISODES = UPDATES = 100
NETS = {"CartPole": cluster, "Atari": atari}


class Server(cluster.Server):
    """The server of the example, for any network."""

    def __init__(self, net):
        self.gnet, self.episodes, self.n_steps = net, [], 0
        self.opt = SharedAdam(net.parameters(), lr=1e-3)


def steps_per_second(n_workers):
    """Run the example with `n_workers`; return the steps/s from its first episode to its last."""
    told = []  # (time, steps so far), one an episode
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        copy = Copy(folder)
        copy.set_constants("examples/cluster.py", {"N_WORKERS": n_workers, "MAX_EP": EPISODES})
        copy.change("examples/cluster.py", "{average:.2f}", "{average:.2f} | {n_steps}")
        with copy.start("-m", "examples.cluster", stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                if " Ep: " in line:
                    told.append((time.perf_counter(), int(line.rpartition(" ")[2])))
    (begin, first), (end, last) = told[0], told[-1]
    return (last - first) / (end - begin)


def seconds(work):
    """Return the median of the seconds that `work` takes, of UPDATES calls."""
    times = []
    for _ in range(UPDATES):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def time_update(module):
    """Return the MB of a gradient, and the seconds of an update of `module`'s network."""
    net = module.Net(module.N_S, module.N_A)
    gradients = [p.detach().numpy() * 0 for p in net.parameters()]
    here, there = Server(net), ray.remote(Server).remote(net)
    result = {
        "MB": sum(gradient.nbytes for gradient in gradients) / 1e6,
        "here": seconds(lambda: here.update(gradients)),
        "Ray": seconds(lambda: ray.get(there.update.remote(gradients))),
    }
    begin = time.perf_counter()
    for update in [there.update.remote(gradients) for _ in range(UPDATES)]:
        ray.get(update)
    result["busy"] = (time.perf_counter() - begin) / UPDATES
    return result


def tables(data):
    """Return the two tables in Markdown."""
    older = "" if data["code"] == CODE else OLDER
    rates = [[workers, f"{rate:.0f}"] for workers, rate in data["steps/s"].items()]
    lines = []
    for name, result in data["updates"].items():
        cells = [name, f"{result['MB']:.3g}", f"{1000 * result['here']:.2f}"]
        cells += [f"{1000 * result['Ray']:.2f}", f"{1 / result['busy']:.0f}"]
        lines.append([*cells, f"{NETS[name].UPDATE_GLOBAL_ITER / result['busy']:.0f}"])
    heads = ["network", "MB of a gradient", "ms of an update, in one process", "ms through Ray"]
    heads += ["updates/s, at most", "full at steps/s of all workers"]
    return table([f"workers{older}", "env steps/s"], rates) + "\n\n" + table(heads, lines)


def main():
    data = load(DATA)
    if data.get("code") != CODE:
        data = {"code": CODE}
        data["steps/s"] = {str(workers): steps_per_second(workers) for workers in WORKERS}
        ray.init("local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        data["updates"] = {name: time_update(module) for name, module in NETS.items()}
        keep(DATA, data)
    print(tables(data))


if __name__ == "__main__":
    main()
