"""examples/cluster.py: its server alone, and short runs on Ray in which something dies."""

import os
import re
import signal
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster

from examples import cluster
from utils import push_and_pull, seed_all

SCRIPT, RUN = "examples/cluster.py", "CartPole-v0-1"


@pytest.fixture
def server(monkeypatch):
    """A server in this process."""
    monkeypatch.setattr(ray, "get", lambda result: result)
    seed_all(0)
    return cluster.Server(cluster.get_weights(cluster.Net(4, 2)))


def three_updates(gnet, opt):
    """Return the weights, one vector, after three updates of gnet."""
    lnet = cluster.Net(4, 2)
    lnet.load_state_dict(gnet.state_dict())
    rng = np.random.default_rng(0)
    for _ in range(3):
        bs = list(rng.normal(size=(4, 4)).astype(np.float32))
        push_and_pull(opt, lnet, gnet, False, bs[0], bs, [0, 1, 1, 0], [1.0] * 4, 0.9)
    return torch.cat([p.detach().flatten() for p in lnet.parameters()])


def test_the_server_updates_as_shared_memory_does(server):
    mirror, shared = cluster.Net(4, 2), cluster.Net(4, 2)
    for net in (mirror, shared):
        cluster.set_weights(net, server.weights())
    before = torch.cat([p.detach().flatten() for p in shared.parameters()])
    called = SimpleNamespace(update=SimpleNamespace(remote=server.update))
    by_server = three_updates(mirror, cluster.RemoteAdam(called, mirror))
    opt = cluster.SharedAdam(shared.parameters(), lr=cluster.LR, betas=cluster.BETAS)
    assert torch.equal(by_server, three_updates(shared, opt))
    assert not torch.equal(by_server, before)


def test_the_server_counts_averages_and_anneals(server, monkeypatch):
    monkeypatch.setattr(cluster, "MAX_EP", 4)
    counts = [server.record(f"w0{i}", r) for i, r in enumerate([10.0, np.array([20.0]), 0.0])]
    assert counts == [1, 2, 3]
    episodes, weights = server.news(1)
    assert [f"{name} {average:.3f}" for name, average in episodes] == ["w01 10.100", "w02 9.999"]
    server.update([np.zeros_like(weight) for weight in weights])
    assert server.opt.param_groups[0]["lr"] == pytest.approx(cluster.LR / 4)


@pytest.fixture
def start(copy):
    """Start the copy, with two workers and no end."""
    processes = []

    def start_copy(**constants):
        copy.set(SCRIPT, **{"N_WORKERS": 2, "MAX_EP": 10**6, **constants})
        processes.append(copy.start("-m", "examples.cluster"))
        return processes[-1]

    yield start_copy
    for process in processes:
        process.kill()  # Ray's own processes follow


def wait_for(process, pattern):
    """Read the lines of a run until one matches; return the match."""
    for line in process.stdout:
        if match := re.match(pattern, line):
            return match
    pytest.fail(f"no line {pattern}: {process.stderr.read()}")


def test_a_run_prints_and_saves(copy, start):
    status, stdout, stderr = copy.end(start(MAX_EP=20))
    assert status == 0, stderr
    episodes = re.findall(r"^w0[01] Ep: (\d+) \| Ep_r: (\d+\.\d\d)$", stdout, re.MULTILINE)
    averages = list(accumulate(copy.saved(RUN), lambda average, r: 0.99 * average + 0.01 * r))
    assert len(averages) >= 20
    assert [int(number) for number, _ in episodes] == list(range(1, len(averages) + 1))
    assert [float(average) for _, average in episodes] == pytest.approx(averages, abs=0.01)
    assert stdout.count(" training, the greedy policy returns ") == 2
    assert '"ENTROPY_BETA": 0.01' in (copy.folder / "results" / RUN / "constants.json").read_text()


def test_a_killed_worker_starts_again_and_ctrl_c_saves(copy, start):
    killed = copy.folder / "killed"
    condition = f'self.name == "w00" and not os.path.exists({str(killed)!r})'
    kill = f"os.mkdir({str(killed)!r}), os.kill(os.getpid(), 9)"
    count = "n_episodes = ray.get("
    copy.change(SCRIPT, count, f"{condition} and ({kill}); {count}")
    process = start()
    wait_for(process, "w00 Ep: ")  # it died before it could count its first episode
    assert killed.exists()
    wait_for(process, "w01 Ep: ")
    os.killpg(process.pid, signal.SIGINT)
    status, stdout, _ = copy.end(process)
    assert status == 130 and "Saving ...\n" in stdout
    assert len(copy.saved(RUN)) >= 2


def test_the_last_weights_of_a_dead_server_are_saved(copy, start):
    news = "return self.episodes[n:]"
    copy.change(SCRIPT, news, f"len(self.episodes) > 20 and signal.alarm(1); {news}")
    # When it asks the dead server for news, the workers have ended with errors.
    copy.change(SCRIPT, "timeout=0.2", "timeout=0.2 if len(res) <= 20 else 60")
    status, _, stderr = copy.end(start())
    assert status == 1 and "The server died" in stderr and "Traceback" not in stderr
    assert len(copy.saved(RUN)) > 20
    weights = torch.load(copy.folder / "results" / RUN / "weights.pt", weights_only=True)
    seed_all(cluster.SEED)
    for name, untrained in cluster.Net(4, 2).state_dict().items():
        assert not torch.equal(weights[name], untrained)


def test_an_error_in_a_worker_is_shown_and_ends_the_run(copy, start):
    copy.change(SCRIPT, "ep_r += r\n", "ep_r += r; 1 / (n_episodes < 20)\n")
    status, _, stderr = copy.end(start())
    assert status == 1 and "ZeroDivisionError: division by zero" in stderr
    assert len(copy.saved(RUN)) >= 20


def test_a_node_dies_and_learning_goes_on_until_sigterm(copy, start):
    copy.change(SCRIPT, "w{name:02d}", "w{name:02d} {ray.get_runtime_context().get_node_id()}")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        second = nodes.add_node(num_cpus=2)
        nodes.wait_for_nodes()
        there = f'NodeAffinitySchedulingStrategy("{second.node_id}", soft=True)'
        copy.change(SCRIPT, 'scheduling_strategy="SPREAD"', f"scheduling_strategy={there}")
        process = start(ADDRESS=nodes.address)
        name = wait_for(process, rf"(w0\d) {second.node_id} Ep: ")[1]
        for file in ("utils.py", "shared_adam.py", "discrete_A3C.py"):
            (copy.folder / file).unlink()  # other machines don't have them
        nodes.remove_node(second, allow_graceful=False)
        wait_for(process, rf"{name} {nodes.head_node.node_id} Ep: ")
        process.terminate()
        status, stdout, _ = copy.end(process)
        assert status == 143 and "Saving ...\n" in stdout
        assert len(copy.saved(RUN)) >= 2
    finally:
        nodes.shutdown()
