"""The two networks: shapes, loss and actions, against torch.distributions."""

from collections import Counter

import numpy as np
import pytest
import torch

import continuous_A3C
import discrete_A3C


def gradients(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()))


def expected_loss(values, v_t, log_pi, entropy, beta):
    """The loss in the head of the scripts, from log pi (n,) and entropy (n,)."""
    advantage = (v_t - values)[:, 0]
    return (advantage**2 - log_pi * advantage.detach() - beta * entropy).sum()


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("n_actions", [2, 4])
def test_the_discrete_loss(n, n_actions):
    torch.manual_seed(0)
    net = discrete_A3C.Net(6, n_actions)
    s, a, v_t = torch.randn(n, 6), torch.randint(n_actions, (n,)), torch.randn(n, 1)
    logits, values = net(s)
    assert logits.shape == (n, n_actions) and values.shape == (n, 1)
    m = net.distribution(logits=logits)
    expected = expected_loss(values, v_t, m.log_prob(a), m.entropy(), discrete_A3C.ENTROPY_BETA)
    loss = net.loss_func(s, a, v_t)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(net, loss), gradients(net, expected)):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("dim", [1, 3])
def test_the_continuous_loss(n, dim):
    torch.manual_seed(0)
    net = continuous_A3C.Net(6, dim)
    s, a, v_t = torch.randn(n, 6), torch.randn(n, dim), torch.randn(n, 1)
    mu, sigma, values = net(s)
    assert mu.shape == sigma.shape == (n, dim) and values.shape == (n, 1)
    m = net.distribution(mu, sigma)
    log_pi, entropy = m.log_prob(a).sum(1), m.entropy().sum(1)
    expected = expected_loss(values, v_t, log_pi, entropy, continuous_A3C.ENTROPY_BETA)
    loss = net.loss_func(s, a, v_t)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(gradients(net, loss), gradients(net, expected)):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_critic_gets_no_gradient_from_the_actor_and_the_actor_none_from_the_critic():
    net = discrete_A3C.Net(4, 2)
    s = torch.randn(5, 4)
    assert not any(
        g.any()
        for g in torch.autograd.grad(
            net(s)[0].sum(),
            [net.v1.weight, net.v2.weight],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    v_t = net(s)[1].detach()  # an advantage of 0 leaves the critic alone
    net.loss_func(s, torch.zeros(5, dtype=torch.int64), v_t).backward()
    assert not net.v2.weight.grad.any()
    assert net.pi2.weight.grad.any()  # the entropy bonus


def test_discrete_actions_are_drawn_from_the_policy():
    torch.manual_seed(0)
    net = discrete_A3C.Net(4, 3)
    s = 3 * torch.randn(1, 4)
    pi = net.distribution(logits=net(s)[0]).probs[0].tolist()
    counts = Counter(net.choose_action(s) for _ in range(4000))
    for action in range(3):
        assert counts[action] / 4000 == pytest.approx(pi[action], abs=0.04)
    assert {net.choose_action(s, greedy=True) for _ in range(20)} == {pi.index(max(pi))}


def test_continuous_actions_are_drawn_from_the_policy():
    torch.manual_seed(0)
    net = continuous_A3C.Net(3, 2)
    s = torch.randn(1, 3)
    mu, sigma, _ = (x.detach().numpy() for x in net(s))
    drawn = np.array([net.choose_action(s) for _ in range(4000)])
    assert drawn.shape == (4000, 2) and drawn.dtype == np.float32
    assert drawn.mean(0) == pytest.approx(mu[0], abs=0.1)
    assert drawn.std(0) == pytest.approx(sigma[0], rel=0.1)
    assert np.array_equal(net.choose_action(s, greedy=True), mu[0])


def test_mu_is_within_the_bounds_and_sigma_positive(monkeypatch):
    monkeypatch.setattr(continuous_A3C, "A_MID", torch.tensor([1.0, 0.0, -5.0]))
    monkeypatch.setattr(continuous_A3C, "A_HALF", torch.tensor([1.0, 4.0, 0.5]))
    torch.manual_seed(0)
    mu, sigma, _ = continuous_A3C.Net(3, 3)(1e4 * torch.randn(200, 3))
    assert (mu >= torch.tensor([0.0, -4.0, -5.5])).all()
    assert (mu <= torch.tensor([2.0, 4.0, -4.5])).all()
    assert torch.allclose(mu.amax(0) - mu.amin(0), torch.tensor([2.0, 8.0, 1.0]), rtol=0.1)
    assert (sigma > 0).all()
