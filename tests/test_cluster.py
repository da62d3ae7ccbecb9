"""examples/cluster.py: its server alone, and short runs on Ray in which something dies."""

import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("ray")

import ray.cluster_utils
from conftest import wait_for

from examples import cluster

SCRIPT, RUN = "examples/cluster.py", "CartPole-v0-1"


def test_the_server_updates_as_shared_memory_does(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda result: result)  # a server in this process
    mirror, shared = cluster.Net(4, 2), cluster.Net(4, 2)
    shared.load_state_dict(mirror.state_dict())
    server = cluster.Server(cluster.get_weights(mirror))
    remote = SimpleNamespace(update=SimpleNamespace(remote=server.update))
    opt = cluster.SharedAdam(shared.parameters(), lr=cluster.LR, betas=cluster.BETAS)
    for _ in range(3):
        for p, q in zip(mirror.parameters(), shared.parameters()):
            p.grad = q.grad = torch.randn_like(q)
        cluster.RemoteAdam(remote, mirror).step()
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(mirror.parameters(), shared.parameters()))


def test_the_server_records_and_anneals(monkeypatch):
    monkeypatch.setattr(cluster, "MAX_EP", 4)
    server, log = cluster.Server(cluster.get_weights(cluster.Net(4, 2))), [{"entropy": 0.5}]
    counts = [server.record(f"w0{i}", r, log) for i, r in enumerate([10.0, np.array([20.0]), 0.0])]
    episodes, weights = server.news(1)
    third = {"return": 0.0, "average": pytest.approx(9.999), "entropy": 0.5}
    assert counts == [1, 2, 3] and len(episodes) == 2 and episodes[1] == ("w02", third)
    server.update([np.zeros_like(weight) for weight in weights])
    assert server.opt.param_groups[0]["lr"] == pytest.approx(cluster.LR / 4)


def start(copy, **constants):
    """Start a run of two workers, which takes longer than a test."""
    copy.set(SCRIPT, **{"N_WORKERS": 2, "MAX_EP": 3000, **constants})
    return copy.start("-m", "examples.cluster")


@pytest.mark.slow
def test_a_run_prints_and_saves_what_the_scripts_do(copy):
    status, stdout, stderr = copy.end(start(copy, MAX_EP=20))
    printed = re.findall(r"^w0[01] Ep: \d+ \| Ep_r: (\d+\.\d\d)$", stdout, re.MULTILINE)
    assert status == 0 and "After training" in stdout and len(printed) >= 20, stderr
    assert copy.saved(RUN, "average") == pytest.approx([float(r) for r in printed], abs=0.01)
    for column in ("return", "entropy", "value error"):
        assert np.isfinite(copy.saved(RUN, column)).all()
    folder = copy.folder / "results" / RUN
    assert '"ENTROPY_BETA": 0.01' in (folder / "constants.json").read_text(encoding="utf-8")
    assert (folder / "cluster.py").read_bytes() == (copy.folder / SCRIPT).read_bytes()


@pytest.mark.slow
def test_ctrl_c_saves(copy):
    process = start(copy)
    wait_for(process, "w01 Ep: ")
    os.killpg(process.pid, signal.SIGINT)
    assert copy.end(process)[0] == 130 and len(copy.saved(RUN)) >= 1


@pytest.mark.slow
def test_an_error_in_a_worker_is_shown_and_ends_the_run(copy):
    copy.change(SCRIPT, "ep_r += r\n", "ep_r += r; 1 / (n_episodes < 20)\n")
    status, _, stderr = copy.end(start(copy))
    assert status == 1 and "ZeroDivisionError" in stderr and len(copy.saved(RUN)) >= 20


@pytest.mark.slow
def test_a_node_dies_and_learning_goes_on_until_sigterm(copy):
    copy.change(SCRIPT, "w{name:02d}", "w{name:02d} {ray.get_runtime_context().get_node_id()}")
    nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        second = nodes.add_node(num_cpus=2)
        there = f'NodeAffinitySchedulingStrategy("{second.node_id}", soft=True)'
        copy.change(SCRIPT, 'scheduling_strategy="SPREAD"', f"scheduling_strategy={there}")
        process = start(copy, ADDRESS=nodes.address)
        name = wait_for(process, f"{second.node_id} Ep: ").splitlines()[-1].split()[0]
        for file in ("utils.py", "shared_adam.py", "discrete_A3C.py"):
            (copy.folder / file).unlink()  # other machines don't have them
        nodes.remove_node(second, allow_graceful=False)
        wait_for(process, f"{name} {nodes.head_node.node_id} Ep: ")
        process.terminate()
        assert copy.end(process)[0] == 143 and len(copy.saved(RUN)) >= 2
    finally:
        nodes.shutdown()
