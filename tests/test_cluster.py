"""examples/cluster.py: the server alone, and short runs on Ray in which something dies."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("ray", reason="The cluster needs Ray: pip install ray")

import ray
from conftest import episodes, kill_session
from ray.cluster_utils import Cluster

from examples import cluster
from utils import push_and_pull, seed_all

pytestmark = pytest.mark.timeout(200)
FILES = ["CartPole-v0-1.csv", "CartPole-v0-1.png", "CartPole-v0-1.pt"]


class Near:
    """The server as a worker sees it, in this process: server.name.remote() is server.name()."""

    def __init__(self, server):
        self.server = server

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.server, name))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda given: given)
    seed_all(0)
    return cluster.Server(cluster.arrays_of(cluster.Net(4, 2)))


def updates(gnet, opt, n=3):
    """Make `n` updates of `gnet` by a local network; return its weights."""
    lnet = cluster.Net(4, 2)
    lnet.load_state_dict(gnet.state_dict())
    rng = np.random.default_rng(0)
    for _ in range(n):
        bs = list(rng.normal(size=(4, 4)).astype(np.float32))
        push_and_pull(opt, lnet, gnet, False, bs[0], bs, [0, 1, 1, 0], [1.0] * 4, 0.9)
    return torch.cat([p.flatten() for p in lnet.parameters()]).detach()


def test_updates_by_the_server_are_those_of_shared_memory(server):
    mirror, shared = cluster.Net(4, 2), cluster.Net(4, 2)
    for net in (mirror, shared):
        net.load_state_dict(server.gnet.state_dict())
    opt = cluster.SharedAdam(shared.parameters(), lr=cluster.LR, betas=cluster.BETAS)
    near = updates(mirror, cluster.RemoteAdam(Near(server), mirror))
    assert torch.equal(near, updates(shared, opt))
    assert torch.equal(near, torch.cat([p.flatten() for p in server.gnet.parameters()]))


def test_a_weight_without_a_gradient_is_left_alone(server):
    mirror = cluster.Net(4, 2)
    cluster.load_arrays(mirror, server.weights())
    opt = cluster.RemoteAdam(Near(server), mirror)
    before = [p.detach().clone() for p in mirror.parameters()]
    unused = mirror.v1.bias
    for step in range(2):  # the first one gives all weights gradients, and Adam's averages
        for p in mirror.parameters():
            p.grad = None if p is unused and step else torch.ones_like(p)
        opt.step()
        changed = [not torch.equal(p, q) for p, q in zip(mirror.parameters(), before)]
        assert changed == [not (p is unused and step) for p in mirror.parameters()]
        before = [p.detach().clone() for p in mirror.parameters()]


def test_the_server_counts_averages_and_anneals(server, monkeypatch):
    monkeypatch.setattr(cluster, "MAX_EP", 4)
    assert [server.record(f"w0{i}", r, 7) for i, r in enumerate([10.0, 20.0, 0.0])] == [1, 2, 3]
    news, n_steps, weights = server.news(1)
    assert [name for name, _ in news] == ["w01", "w02"] and n_steps == 21
    assert [average for _, average in news] == pytest.approx([10.1, 9.999])
    assert set(weights) == set(server.gnet.state_dict())
    server.update([np.zeros(p.shape, np.float32) for p in server.gnet.parameters()])
    assert server.opt.param_groups[0]["lr"] == pytest.approx(cluster.LR / 4)


def test_a_gradient_is_laid_out_as_its_weight(server):
    weight = server.gnet.pi1.weight
    weight.data = weight.data.t().contiguous().t()  # columns first, as channels_last does
    server.opt = cluster.SharedAdam(server.gnet.parameters())
    before = weight.detach().clone()
    gradients = [np.zeros(p.shape, np.float32) for p in server.gnet.parameters()]
    gradients[0] = np.random.default_rng(0).normal(size=weight.shape).astype(np.float32)
    server.update(gradients)
    assert torch.equal((before - weight).sign(), torch.tensor(gradients[0]).sign())


class Run:
    """A run of the copy on Ray, whose lines are read as they come."""

    def __init__(self, copy, **constants):
        copy.set_constants("cluster.py", {"N_WORKERS": 2, **constants})
        self.mark = {"A3C_RUN": str(copy.folder)}  # in the environment of all its processes
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "environ": self.mark}
        self.process = copy.start("cluster.py", start_new_session=True, **options)
        self.lines = []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def wait_for_episode(self, number):
        begin = time.monotonic()
        while not any(f" Ep: {number} " in line for line in list(self.lines)):
            assert time.monotonic() - begin < 120 and self.process.poll() is None, self.lines[-5:]
            time.sleep(0.1)

    def actors(self, title):
        """Return the numbers of its processes that run methods of the class `title`."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                ours = (
                    f"A3C_RUN={self.mark['A3C_RUN']}\0".encode() in (path / "environ").read_bytes()
                )
                if ours and (path / "cmdline").read_bytes().startswith(f"ray::{title}".encode()):
                    found.append(int(path.name))
            except OSError:
                pass  # it has ended meanwhile
        return found

    def end(self, timeout=120):
        """Return the status, what was printed and the errors, once it has ended."""
        status = self.process.wait(timeout)
        self.reader.join()
        stderr = self.process.stderr.read().splitlines()
        gyms = ("Gym has been", "Please upgrade", "Users of this", "See the migration")
        return status, "".join(self.lines), [line for line in stderr if not line.startswith(gyms)]


@pytest.fixture
def start(copy):
    runs = []
    # Beside the two files that it needs, and nothing else.
    (copy.folder / "examples" / "cluster.py").rename(copy.folder / "cluster.py")
    shutil.rmtree(copy.folder / "examples")
    for script in ("discrete_A3C.py", "continuous_A3C.py"):
        (copy.folder / script).unlink()

    def start_run(**constants):
        runs.append(Run(copy, **constants))
        return runs[-1]

    yield start_run
    for run in runs:
        kill_session(run.process.pid)
        run.process.wait()


def test_a_run_prints_as_the_scripts_do_and_saves(copy, start):
    status, stdout, stderr = start(MAX_EP=20).end()
    assert (status, stderr) == (0, [])
    assert len(episodes(stdout)) >= 20
    assert {"w00", "w01"} == set(re.findall(r"^(w\d\d) Ep: ", stdout, re.MULTILINE))
    assert re.search(r"^\d+ episodes in \d+\.\d s, \d+ env steps/s$", stdout, re.MULTILINE)
    assert re.search(r"^Greedy policy: mean return \S+ before, \S+ after", stdout, re.MULTILINE)
    others = [
        line for line in stdout.splitlines() if not re.match("w0|Saved|Greedy|It is|[0-9]", line)
    ]
    assert not others
    assert copy.saved() == FILES


def test_a_worker_that_dies_starts_again_and_ctrl_c_saves(copy, start):
    run = start(MAX_EP=10**6)
    run.wait_for_episode(10)
    victims = run.actors("Worker")
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    begin = time.monotonic()
    while len(set(run.actors("Worker")) - set(victims)) == 0:
        assert time.monotonic() - begin < 60
        time.sleep(0.1)
    now = len(run.lines)
    run.wait_for_episode(now + 20)
    os.killpg(run.process.pid, signal.SIGINT)
    status, stdout, stderr = run.end()
    assert status == 130 and "Saving ..." in stdout
    # Ctrl-C reaches Ray's processes too: one that ends first may leave this line, now and then.
    assert not [line for line in stderr if "Failed to push error to driver" not in line]
    assert copy.saved() == FILES


def test_a_dead_server_ends_the_run_with_a_sentence_and_its_weights(copy, start):
    run = start(MAX_EP=10**6)
    run.wait_for_episode(10)
    [server] = run.actors("Server")
    os.kill(server, signal.SIGKILL)
    status, _, stderr = run.end()
    assert status == 1
    assert stderr == ["The server died, or its machine; its last weights are saved."]
    assert copy.saved() == FILES
    weights = torch.load(copy.folder / "results" / FILES[-1], weights_only=True)
    torch.manual_seed(cluster.SEED)
    untrained = cluster.Net(4, 2).state_dict()
    assert not all(torch.equal(weights[name], untrained[name]) for name in untrained)


@pytest.mark.parametrize(
    "line",
    [
        "                ep_r += r\n",
        '        self.name, self.seed = f"w{name:02d}", seed\n',
    ],
    ids=["in run", "at the start"],
)
def test_an_error_in_a_worker_is_shown(copy, start, line):
    space = line[: len(line) - len(line.lstrip())]
    copy.change("cluster.py", line, f"{line}{space}1 / 0\n")
    status, stdout, stderr = start().end()
    assert status == 1 and any("ZeroDivisionError" in line for line in stderr)
    assert stderr[-1] == "A worker died: its error stands above."
    assert "Nothing to save" in stdout


def test_an_address_without_a_cluster_gets_a_sentence(monkeypatch):
    def init(address, **options):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "ADDRESS", "auto")
    with pytest.raises(SystemExit, match="^ADDRESS = 'auto': Could not find"):
        cluster.learn(cluster.Net(4, 2), [])


@pytest.fixture
def two_nodes(copy, monkeypatch):
    monkeypatch.setenv("A3C_RUN", str(copy.folder))
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = nodes.add_node(num_cpus=2)
    nodes.wait_for_nodes()
    yield nodes, second
    nodes.shutdown()


def test_on_two_nodes_a_worker_and_then_a_node_die_and_learning_goes_on(copy, start, two_nodes):
    nodes, second = two_nodes
    run = start(ADDRESS=nodes.address, MAX_EP=400)
    run.wait_for_episode(10)
    os.kill(run.actors("Worker")[0], signal.SIGKILL)
    run.wait_for_episode(len(run.lines) + 20)
    nodes.remove_node(second, allow_graceful=False)
    status, stdout, stderr = run.end(150)
    assert (status, stderr) == (0, [])
    assert len(episodes(stdout)) >= 400
    assert copy.saved() == FILES
