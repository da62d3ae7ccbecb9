"""The programs in examples/; those that need Ray or Atari have files of their own."""

import ast
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.distributions import Categorical

from examples import catch, catch_pixels, memory
from shared_adam import SharedAdam
from utils import push_and_pull, seed_all

EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("make_env", [catch.Catch, catch_pixels.PixelCatch, memory.DarkCatch])
def test_the_rules_of_catch(make_env):
    env = make_env(render_mode="rgb_array")
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for ball, paddle, action, moved, won in [
        (5, 4, 2, 5, True),
        (5, 5, 1, 5, True),
        (4, 5, 0, 4, True),
        (5, 0, 0, 0, False),
        (0, 7, 2, 7, False),
    ]:
        env.reset()
        env.ball, env.paddle = ball, paddle
        steps = [env.step(action if i == 0 else 1) for i in range(7)]
        assert [r for _, r, *_ in steps] == [0.0] * 6 + [1.0 if won else -1.0]
        assert [ends for *_, ends, _, _ in steps] == [False] * 6 + [True]
        assert all(env.observation_space.contains(s) for s, *_ in steps)
        assert env.paddle == moved
    assert env.render().max() == 255 and env.render().shape[2] == 3


def test_pixels_and_dark_catch_show_what_catch_shows():
    envs = catch.Catch(), catch_pixels.PixelCatch(), memory.DarkCatch()
    small, large, dark = (env.reset(seed=3)[0] for env in envs)
    assert np.array_equal(large[0, 9::10, ::10], small.reshape(8, 8))
    assert np.array_equal(dark, small) and small.sum() == 2
    small, large, dark = (env.step(2)[0] for env in envs)
    assert np.array_equal(large[0, ::10, 9::10], small.reshape(8, 8))
    assert small.sum() == 2 and np.flatnonzero(dark).tolist() == [56 + envs[0].paddle]


def test_discrete_a3c_learns_catch_with_the_constants_that_it_names(copy):
    constants = dict(re.findall(r"^    ([A-Z_]+) = (\S+)", catch.__doc__, re.MULTILINE))
    constants = {name: ast.literal_eval(value) for name, value in constants.items()}
    assert constants["ENV_NAME"] == "examples.catch:Catch-v0" and len(constants) == 6
    copy.set("discrete_A3C.py", **constants, N_WORKERS=2)
    status, stdout, stderr = copy.run("discrete_A3C.py")
    assert status == 0, stderr
    # A paddle that moves at random is under the ball once or twice in eight: -0.7.
    assert float(re.search(r"After .* returns (\S+)", stdout)[1]) > 0.3


def worker_of(path):
    """Return the docstring of Worker in a file, and the lines of its code without comments."""
    tree = ast.parse(path.read_text())
    [worker] = [node for node in tree.body if getattr(node, "name", None) == "Worker"]
    docstring = ast.get_docstring(worker)
    worker.body = worker.body[1:]
    return docstring, ast.unparse(worker).splitlines()


@pytest.mark.parametrize("name", ["catch_pixels", "memory", "atari", "cluster"])
def test_a_worker_differs_only_in_what_its_docstring_announces(name):
    _, ours = worker_of(ROOT / "discrete_A3C.py")
    docstring, theirs = worker_of(EXAMPLES / f"{name}.py")
    announced = re.findall(r"`(\w+)`", docstring)
    differing = [line for line in ours if line not in theirs]
    for line in differing + [line for line in theirs if line not in ours]:
        assert any(re.search(rf"\b{word}\b", line) for word in announced), line


@pytest.mark.parametrize("name, env", [("catch_pixels", "CatchPixels"), ("memory", "DarkCatch")])
def test_a_copy_beside_utils_and_shared_adam_runs(copy, name, env):
    shutil.move(copy.folder / "examples" / f"{name}.py", copy.folder)
    shutil.rmtree(copy.folder / "examples")
    for script in ("discrete_A3C.py", "continuous_A3C.py"):
        (copy.folder / script).unlink()
    copy.set(f"{name}.py", MAX_EP=20, N_WORKERS=2)
    status, stdout, stderr = copy.run(f"{name}.py")
    assert status == 0, stderr
    assert "After training" in stdout and len(copy.saved(f"{env}-1")) in (20, 21)


def states(n, seed=1):
    return torch.rand(n, memory.N_S, generator=torch.Generator().manual_seed(seed))


def act(net, s):
    """Let the network act in each of the states; return the value that it gives each."""
    values = []
    for row in s:
        values.append(net(row[None])[-1].item())
        net.choose_action(row[None])
    return values


def same(ours, theirs):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs))


def test_memory_goes_on_waits_and_is_forgotten():
    torch.manual_seed(0)
    net, s = memory.Net(memory.N_S, memory.N_A), states(6)
    values = act(net, s)
    state, logits, unrolled = net(s, net.start)
    assert unrolled.flatten().tolist() == pytest.approx(values, abs=1e-6)
    assert logits.shape == (6, memory.N_A) and same(state, net.state)
    assert net(s[:1])[-1].item() == net(s[:1])[-1].item()  # a bootstrap leaves it as it is
    assert act(net, s) != pytest.approx(values, abs=1e-6)
    net.forget()
    assert act(net, s) == pytest.approx(values, abs=1e-7)


def test_the_loss_of_memory_unrolls_from_the_start_of_its_steps():
    torch.manual_seed(0)
    net, s = memory.Net(memory.N_S, memory.N_A), states(7)
    a, v_t = torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.linspace(-1, 1, 7)[:, None]
    begin = net.start
    for rows in (slice(0, 4), slice(4, 7)):  # two updates
        logits, values, state = [], [], begin
        for row in s[rows]:
            state, row_logits, value = net(row[None], state)
            logits.append(row_logits)
            values.append(value)
        begin = tuple(tensor.detach() for tensor in state)
        m, td = Categorical(logits=torch.cat(logits)), v_t[rows] - torch.cat(values)
        actor = (m.log_prob(a[rows])[:, None] * td.detach()).sum()
        theirs = (td**2).sum() - actor - memory.ENTROPY_BETA * m.entropy().sum()
        ours = net.loss_func(s[rows], a[rows], v_t[rows])
        gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss in (ours, theirs)]
        assert ours.item() == pytest.approx(theirs.item()) and same(*gradients)
        assert same(net.start, begin)


def test_a_worker_with_memory_forgets_with_each_episode(monkeypatch):
    starts = []

    class Seen(memory.Net):
        def loss_func(self, s, a, v_t):
            starts.append(self.start[0].abs().sum().item() > 0)
            return super().loss_func(s, a, v_t)

    for name, value in {"Net": Seen, "UPDATE_GLOBAL_ITER": 4, "MAX_EP": 3}.items():
        monkeypatch.setattr(memory, name, value)
    gnet = Seen(memory.N_S, memory.N_A).share_memory()
    shared = memory.mp.Value("i", 0), memory.mp.Value("d", 0.0), memory.mp.SimpleQueue(), 0
    memory.Worker(gnet, SharedAdam(gnet.parameters()), *shared).run()
    assert starts == [False, True] * 3  # an episode of seven steps is updated after four
    assert not gnet.state[0].any() and not list(gnet.buffers())


def test_pixels_move_all_weights():
    seed_all(0)
    gnet, lnet = (catch_pixels.Net(catch_pixels.N_S, catch_pixels.N_A) for _ in range(2))
    before = [p.clone() for p in gnet.parameters()]
    s = list(np.random.default_rng(0).random((3, 1, 80, 80), np.float32))
    opt = SharedAdam(gnet.parameters())
    push_and_pull(opt, lnet, gnet, False, s[0], s, [0, 1, 2], [0.0, 1.0, 0.0], 0.9)
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
