"""examples/memory.py: a ball in the dark, and a memory that goes on, waits and forgets."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from examples import catch, memory
from utils import push_and_pull, seed_all, v_wrap


def test_the_ball_is_seen_in_its_first_row_only():
    dark, light = memory.make_env(), catch.make_env()
    s, _ = dark.reset(seed=3)
    t, _ = light.reset(seed=3)
    assert np.array_equal(s, t) and s.sum() == 2
    for _ in range(7):
        s, r, terminated, truncated, _ = dark.step(2)
        t, *others = light.step(2)
        assert [r, terminated, truncated] == others[:3]
        assert np.flatnonzero(s).tolist() == [56 + light.paddle]
        assert dark.observation_space.contains(s)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return memory.Net(memory.N_S, memory.N_A)


def states(n, seed=1):
    return torch.rand(n, memory.N_S, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other))


def play(net, s):
    """Let `net` act in each of the states `s`; return the value that it gave each."""
    values = []
    for row in s:
        values.append(net.forward(row[None])[-1].item())
        net.choose_action(row[None])
    return values


def test_unrolled_values_are_those_of_the_steps(net):
    s = states(6)
    values = play(net, s)
    state, logits, unrolled = net.forward(s, net.start)
    assert logits.shape == (6, memory.N_A) and unrolled.shape == (6, 1)
    assert unrolled.flatten().tolist() == pytest.approx(values, abs=1e-6)
    assert same(state, net.state)
    without = [net.forward(row[None], net.start)[-1].item() for row in s]
    assert without != pytest.approx(values, abs=1e-4)


def test_a_bootstrap_leaves_the_memory_alone(net):
    play(net, states(3))
    before = [tensor.clone() for tensor in net.state]
    values = [net.forward(states(1))[-1].item() for _ in range(2)]
    assert same(net.state, before) and values[0] == values[1]
    net.forget()
    assert net.forward(states(1))[-1].item() != values[0]


def test_forgetting_begins_anew(net):
    first = play(net, states(4))
    assert play(net, states(4)) != pytest.approx(first, abs=1e-6)
    net.forget()
    assert play(net, states(4)) == pytest.approx(first, abs=1e-7)
    assert all((tensor == 0).all() for tensor in net.start)


def test_the_loss_is_a3c_from_the_start_of_its_steps_on(net):
    s = states(7)
    a, v_t = torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.linspace(-1, 1, 7)[:, None]
    play(net, s)
    parts, begin = [], net.start
    for rows in (slice(0, 4), slice(4, 7)):  # two updates, with a pause between them
        logits = []
        values = []
        for row in s[rows]:
            begin, row_logits, value = net.forward(row[None], begin)
            logits.append(row_logits)
            values.append(value)
        begin = tuple(tensor.detach() for tensor in begin)
        m = Categorical(logits=torch.cat(logits))
        td = v_t[rows] - torch.cat(values)
        actor = (m.log_prob(a[rows])[:, None] * td.detach()).sum()
        parts.append((td**2).sum() - actor - memory.ENTROPY_BETA * m.entropy().sum())
    losses = [net.loss_func(s[rows], a[rows], v_t[rows]) for rows in (slice(0, 4), slice(4, 7))]
    assert [loss.item() for loss in losses] == pytest.approx([part.item() for part in parts])
    assert same(net.start, begin) and not any(tensor.requires_grad for tensor in net.start)
    ours = torch.autograd.grad(losses[1], list(net.parameters()))
    theirs = torch.autograd.grad(parts[1], list(net.parameters()))
    assert same(ours, theirs)


def test_one_update_moves_all_weights_and_shares_no_memory():
    seed_all(0)
    gnet = memory.Net(memory.N_S, memory.N_A).share_memory()
    lnet = memory.Net(memory.N_S, memory.N_A)
    lnet.load_state_dict(gnet.state_dict())
    opt = memory.SharedAdam(gnet.parameters(), lr=1e-3)
    before = [p.clone() for p in gnet.parameters()]
    s = states(3)
    for row in s:
        lnet.choose_action(v_wrap(row[None].numpy()))
    push_and_pull(opt, lnet, gnet, False, s[0].numpy(), list(s.numpy()), [0, 1, 2], [0.0] * 3, 0.9)
    # That of the LSTM's first step, which starts from 0, is not among them.
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
    assert all((tensor == 0).all() for tensor in gnet.state)
    assert same(lnet.start, lnet.state) and (lnet.state[0] != 0).any()
    assert not list(gnet.buffers())


def test_evaluation_forgets_at_each_reset(net):
    env = memory.Forgetful(memory.make_env(), net)
    play(net, states(3))
    s, _ = env.reset(seed=4)
    assert all((tensor == 0).all() for tensor in net.state)
    assert np.array_equal(s, memory.make_env().reset(seed=4)[0])


def test_a_worker_forgets_with_each_episode(monkeypatch):
    starts = []

    class Seen(memory.Net):
        def loss_func(self, s, a, v_t):
            starts.append(self.start[0].abs().sum().item())
            return super().loss_func(s, a, v_t)

    monkeypatch.setattr(memory, "Net", Seen)
    monkeypatch.setattr(memory, "UPDATE_GLOBAL_ITER", 4)
    monkeypatch.setattr(memory, "MAX_EP", 3)
    seed_all(0)
    gnet = Seen(memory.N_S, memory.N_A)
    shared = memory.mp.Value("i", 0), memory.mp.Value("d", 0.0), memory.mp.SimpleQueue(), 0
    memory.Worker(gnet, memory.SharedAdam(gnet.parameters()), *shared).run()
    assert [start > 0 for start in starts] == [False, True] * 3  # seven steps are four and three
