"""The two networks: shapes, loss and actions, against torch.distributions."""

import re
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

import continuous_A3C
import discrete_A3C
from utils import push_and_pull

both = pytest.mark.parametrize("script", [discrete_A3C, continuous_A3C])
NAN = float("nan")
INF = float("inf")


class DiscreteTrunk(discrete_A3C.Net):
    """Not ours: one layer for actor and critic. Of the methods only `forward` is new."""

    def __init__(self, s_dim, a_dim):
        super().__init__(s_dim, a_dim)
        self.trunk = nn.Linear(s_dim, 128)

    def forward(self, x):
        x = F.relu(self.trunk(x))
        return self.pi2(x), self.v2(x)


class ContinuousTrunk(continuous_A3C.Net):
    """The same with continuous actions."""

    def __init__(self, s_dim, a_dim):
        super().__init__(s_dim, a_dim)
        self.trunk = nn.Linear(s_dim, 128)

    def forward(self, x):
        x = F.relu(self.trunk(x))
        mu, sigma = self.pi2(x).chunk(2, dim=1)
        return mu, F.softplus(sigma), self.v2(x)


NETS = {
    "discrete": (discrete_A3C, discrete_A3C.Net),
    "discrete, one trunk": (discrete_A3C, DiscreteTrunk),
    "continuous": (continuous_A3C, continuous_A3C.Net),
    "continuous, one trunk": (continuous_A3C, ContinuousTrunk),
}


def batch(script, n, a_dim):
    """Return states (n, 6), actions and returns (n, 1)."""
    if script is discrete_A3C:
        a = torch.randint(a_dim, (n,))
    else:
        a = torch.randn(n, a_dim)
    return torch.randn(n, 6), a, torch.randn(n, 1)


def terms(net, s, a, v_t):
    """Return critic's, actor's and entropy term of the loss in the scripts' heads, (n,) each."""
    *outputs, values = net(s)
    if len(outputs) == 1:
        m = torch.distributions.Categorical(logits=outputs[0])
        log_pi, entropy = m.log_prob(a), m.entropy()
    else:
        m = torch.distributions.Normal(*outputs)
        log_pi, entropy = m.log_prob(a).sum(1), m.entropy().sum(1)
    advantage = (v_t - values)[:, 0]
    return advantage**2, -log_pi * advantage.detach(), entropy


def gradients(net, loss):
    """Return the gradient of each parameter by its name; None where the loss knows it not."""
    names, parameters = zip(*net.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True)))


@pytest.mark.parametrize("net_name", NETS)
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("a_dim", [2, 3])
def test_the_loss_and_its_gradients(net_name, n, a_dim):
    script, make_net = NETS[net_name]
    torch.manual_seed(0)
    net = make_net(6, a_dim)
    s, a, v_t = batch(script, n, a_dim)
    critic, actor, entropy = terms(net, s, a, v_t)
    expected = (critic + actor - script.ENTROPY_BETA * entropy).sum()
    loss = net.loss_func(s, a, v_t)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, theirs = gradients(net, loss), gradients(net, expected)
    for name, gradient in theirs.items():
        if gradient is None:
            assert ours[name] is None
        else:
            assert gradient.any()
            assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-5), name


@both
def test_actor_and_critic_leave_each_other_alone(script):
    torch.manual_seed(0)
    net = script.Net(6, 2)
    s, a, v_t = batch(script, 5, 2)
    critic, actor, entropy = terms(net, s, a, v_t)
    of_critic = gradients(net, critic.sum())
    of_actor = gradients(net, (actor - script.ENTROPY_BETA * entropy).sum())
    of_all = gradients(net, net.loss_func(s, a, v_t))
    for name in of_all:
        own = of_critic if name.startswith("v") else of_actor
        assert own[name].any()
        assert torch.allclose(of_all[name], own[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("n", [1, 5])
@both
def test_observations_that_have_a_batch_axis_of_their_own_are_refused(script, n):
    """An environment that observes (1, 6): the loss would broadcast to a wrong value."""
    torch.manual_seed(0)
    gnet, lnet = script.Net(6, 2), script.Net(6, 2)
    before = gnet.v2.bias.item()
    opt = torch.optim.SGD(gnet.parameters(), lr=0.01)
    action = 1
    if script is continuous_A3C:
        action = np.zeros(2, np.float32)
    actions, rewards = [action] * n, [1.0] * n
    s = np.ones((1, 6), np.float32)
    with pytest.raises(ValueError, match=r"give states \(n, s_dim\)"):
        push_and_pull(opt, lnet, gnet, False, s, [s] * n, actions, rewards, 0.9)
    assert gnet.v2.bias.item() == before
    push_and_pull(opt, lnet, gnet, False, s[0], [s[0]] * n, actions, rewards, 0.9)
    assert gnet.v2.bias.item() != before
    assert "(without a batch axis)" in " ".join(push_and_pull.__doc__.split())


@both
def test_a_loss_that_would_broadcast_is_refused(script):
    """A critic that returns (n,), and actions with an axis more than the policy scores."""
    net = script.Net(6, 2)
    s, a, v_t = batch(script, 5, 2)
    with pytest.raises(ValueError, match="the policy scores"):
        net.loss_func(s, a[:, None], v_t)
    forward = net.forward
    net.forward = lambda x: (*forward(x)[:-1], forward(x)[-1].squeeze(1))
    with pytest.raises(ValueError, match=r"have values \(5,\), not \(5, 1\)"):
        net.loss_func(s, a, v_t)


@both
def test_the_distribution_of_the_network_scores_the_actions(script):
    torch.manual_seed(0)
    net = script.Net(6, 2)
    s, a, v_t = batch(script, 5, 2)
    before = net.loss_func(s, a, v_t).item()
    made = []
    shipped = net.distribution

    def distribution(*args, **options):
        made.append(shipped(*args, **options))
        return made[-1]

    net.distribution = distribution
    assert net.loss_func(s, a, v_t).item() == before
    assert [type(m) for m in made] == [shipped]


@pytest.mark.parametrize("make_net", [discrete_A3C.Net, DiscreteTrunk])
def test_discrete_actions_are_drawn_from_the_policy(make_net):
    torch.manual_seed(0)
    net = make_net(4, 3)
    s = 3 * torch.randn(1, 4)
    logits, _ = net(s)
    pi = torch.distributions.Categorical(logits=logits).probs[0].tolist()
    drawn = [net.choose_action(s) for _ in range(4000)]
    counts = Counter(drawn)
    assert type(drawn[0]) is int and set(counts) == {0, 1, 2}
    for action in range(3):
        assert counts[action] / 4000 == pytest.approx(pi[action], abs=0.04)
    assert {net.choose_action(s, greedy=True) for _ in range(20)} == {pi.index(max(pi))}


@pytest.mark.parametrize("make_net", [continuous_A3C.Net, ContinuousTrunk])
def test_continuous_actions_are_drawn_from_the_policy(make_net):
    torch.manual_seed(0)
    net = make_net(3, 2)
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


@pytest.mark.parametrize("greedy", [False, True])
@both
def test_no_action_is_chosen_where_the_policy_is_not_finite_and_the_cause_is_named(script, greedy):
    torch.manual_seed(0)
    s = torch.tensor([[0.0, 1.0, 2.0]])
    for number in (NAN, INF, -INF):
        far = torch.tensor([[0.0, number, 2.0]])
        cause = f": an observation holds {number}. Look at the environment."
        with pytest.raises(FloatingPointError, match="^The policy is nan" + re.escape(cause)):
            script.Net(3, 1).choose_action(far, greedy=greedy)
    diverged = [("pi1", "weight", NAN), ("pi1", "bias", NAN), ("pi2", "weight", NAN)]
    for layer, kind, number in (*diverged, ("pi2", "bias", NAN), ("pi2", "weight", INF)):
        net = script.Net(3, 1)
        getattr(getattr(net, layer), kind).data[-1] = number
        cause = f"the largest weight is {number}. Turn down LR, or set MAX_GRAD_NORM."
        with pytest.raises(FloatingPointError, match=f"^The policy is (nan|-?inf): {cause}$"):
            net.choose_action(s, greedy=greedy)
    net = script.Net(3, 1)
    net.pi2.register_forward_hook(lambda layer, x, y: y * NAN)
    cause = "observations, rewards and weights are finite. Look at forward and loss_func."
    with pytest.raises(FloatingPointError, match=f"^The policy is nan: {cause}$"):
        net.choose_action(s, greedy=greedy)


class Masked(discrete_A3C.Net):
    """Not ours: action 1 is forbidden, its logit -inf; `how` it gets there."""

    def __init__(self, how):
        super().__init__(4, 3)
        self.how = how

    def forward(self, x):
        logits, values = super().forward(x)
        allowed = torch.tensor([True, False, True])
        if self.how == "filled":
            return logits.masked_fill(~allowed, -INF), values
        return logits + torch.log(allowed.float()), values


@pytest.mark.parametrize("how", ["filled", "added"])
def test_a_forbidden_action_is_never_drawn_and_the_others_are_learned(how):
    torch.manual_seed(0)
    gnet, lnet = Masked(how), Masked(how)
    lnet.load_state_dict(gnet.state_dict())
    before = {name: p.clone() for name, p in gnet.named_parameters()}
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    s = np.ones(4, np.float32)
    assert {lnet.choose_action(torch.ones(1, 4)) for _ in range(200)} == {0, 2}
    assert lnet.choose_action(torch.ones(1, 4), greedy=True) in (0, 2)
    for _ in range(20):
        push_and_pull(opt, lnet, gnet, True, s, [s, s], [0, 2], [1.0, 0.0], 0.0)
    for name, p in gnet.named_parameters():
        assert p.isfinite().all() and p.grad.isfinite().all()
        assert not torch.equal(p, before[name]), name
    with torch.no_grad():
        pi = F.softmax(lnet(torch.ones(1, 4))[0], dim=1)[0].tolist()
    assert pi[1] == 0.0 and pi[0] > 0.6


@pytest.mark.parametrize("kind", ["observation", "weight"])
@both
def test_an_update_of_a_scripts_network_names_the_cause_and_pushes_nothing(script, kind):
    torch.manual_seed(0)
    gnet, lnet = script.Net(3, 1), script.Net(3, 1)
    before = torch.cat([p.detach().flatten().clone() for p in gnet.parameters()])
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    s = np.ones(3, np.float32)
    action = 0 if script is discrete_A3C else np.zeros(1, np.float32)
    told = "the largest weight is nan"
    if kind == "weight":
        lnet.v1.weight.data[0, 0] = NAN
    else:
        s, told = np.float32([1, NAN, 1]), "an observation holds nan"
    with pytest.raises(FloatingPointError, match=told):
        push_and_pull(opt, lnet, gnet, True, s, [s], [action], [1.0], 0.9)
    after = torch.cat([p.detach().flatten() for p in gnet.parameters()])
    assert torch.equal(before, after)
