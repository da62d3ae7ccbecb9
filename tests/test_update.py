"""v_wrap, set_init, push_and_pull and SharedAdam, as a program with its own networks uses them."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from shared_adam import SharedAdam
from utils import push_and_pull, set_init, v_wrap

NAN = float("nan")
INF = float("inf")


class Scalar(nn.Module):
    """V(s) = w s, one weight: its updates can be computed by hand."""

    def __init__(self, w=2.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]]))

    def forward(self, s):
        return s * 0.0, s @ self.w

    def loss_func(self, s, a, v_t):
        self.seen = s, a, v_t
        return (v_t - self.forward(s)[-1]).pow(2).mean()


def update(done=False, lr=0.1, rewards=(1.0, 2.0), lnet=None, gnet=None, s=1.0, s_=3.0, **options):
    """Two steps with s = 1 and s_ = 3: with w = 2 and gamma = 0.5, V(s_) = 6 and R = 3.5, 5."""
    lnet, gnet = lnet or Scalar(), gnet or Scalar()
    opt = torch.optim.SGD(gnet.parameters(), lr=lr)
    one, last, first = (np.full(1, x, np.float32) for x in (1.0, s_, s))
    push_and_pull(opt, lnet, gnet, done, last, [first, one], [0, 1], list(rewards), 0.5, **options)
    return lnet, gnet


def test_v_wrap_shares_memory_and_casts_where_the_dtype_differs():
    array = np.zeros((2, 3), dtype=np.float32)
    tensor = v_wrap(array)
    array[0, 0] = 5
    assert tensor.shape == (2, 3) and tensor[0, 0] == 5
    assert v_wrap(np.zeros(2)).dtype == torch.float32
    assert v_wrap(np.array([1, 2], dtype=np.int32), dtype=np.int64).dtype == torch.int64


def test_set_init_draws_small_weights_and_zero_biases():
    torch.manual_seed(0)
    layers = [nn.Linear(100, 200), nn.Conv2d(3, 64, 8)]
    set_init(layers)
    for layer in layers:
        assert abs(layer.weight.mean().item()) < 0.01
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert not layer.bias.any()


def test_a_return_cut_by_a_time_limit_bootstraps():
    lnet, gnet = update(done=False)
    assert lnet.seen[2].tolist() == [[3.5], [5.0]]
    # d loss / d w = -2 mean(R - w) = -2 (1.5 + 3) / 2 = -4.5, and the step is 0.1 of it.
    assert gnet.w.item() == pytest.approx(2.45)


def test_a_terminal_state_ends_the_return_with_zero():
    lnet, gnet = update(done=True)
    assert lnet.seen[2].tolist() == [[2.0], [2.0]]
    assert gnet.w.item() == pytest.approx(2.0)


def test_local_gradients_do_not_pile_up():
    lnet, gnet = update()
    # From w = 2.45: V(s_) = 7.35, R = 3.8375 and 5.675, gradient -(1.3875 + 3.225) = -4.6125.
    update(lnet=lnet, gnet=gnet)
    assert gnet.w.item() == pytest.approx(2.45 + 0.46125)


def test_the_global_gradient_is_the_local_one_and_global_weights_are_pulled():
    gnet = Scalar(w=10.0)
    lnet, _ = update(gnet=gnet)
    assert gnet.w.item() == pytest.approx(10.45)
    assert lnet.w.item() == gnet.w.item()
    assert lnet.w.data_ptr() != gnet.w.data_ptr()


class Two(Scalar):
    """V(s) = w s + b, from w = 2 and b = 0."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, s):
        return s * 0.0, s @ self.w + self.b


def test_max_grad_norm_clips_the_norm_of_all_gradients_together():
    # Where s = 1 the gradients of w and b agree: -4.5 each, a norm of 4.5 sqrt(2).
    _, gnet = update(lnet=Two(), gnet=Two(), max_grad_norm=1.0)
    assert gnet.w.item() - 2 == pytest.approx(0.1 / 2**0.5, rel=1e-4)
    assert gnet.b.item() == pytest.approx(0.1 / 2**0.5, rel=1e-4)


@pytest.mark.parametrize("max_grad_norm", [None, 40, 6.4])
def test_a_norm_below_the_largest_is_left_alone(max_grad_norm):
    _, gnet = update(lnet=Two(), gnet=Two(), max_grad_norm=max_grad_norm)
    assert gnet.w.item() == pytest.approx(2.45)
    assert gnet.b.item() == pytest.approx(0.45)


@pytest.mark.parametrize("max_grad_norm", [0, -1, False, float("nan")])
def test_a_norm_that_would_clip_everything_is_refused(max_grad_norm):
    gnet = Scalar()
    with pytest.raises(ValueError, match="above 0, or None"):
        update(gnet=gnet, max_grad_norm=max_grad_norm)
    assert gnet.w.item() == 2.0


@pytest.mark.parametrize("own", [False, True, 0, 1, 7, None])
def test_a_tenth_argument_of_a_programs_own_fails(own):
    lnet, gnet = Scalar(w=3.0), Scalar()
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    one = np.ones(1, np.float32)
    with pytest.raises(TypeError, match="positional"):
        push_and_pull(opt, lnet, gnet, False, one, [one], [0], [1.0], 0.5, own)
    assert (gnet.w.item(), lnet.w.item()) == (2.0, 3.0)


class Odd(Scalar):
    """Its loss is not a number, whatever comes in."""

    def loss_func(self, s, a, v_t):
        return super().loss_func(s, a, v_t) * NAN


ENVIRONMENT = "Look at the environment."
SCALE = "Look at the environment, or at REWARD_SCALE."
WEIGHTS = "Turn down LR, or set MAX_GRAD_NORM."
FORWARD = "Look at forward and loss_func."
CAUSES = {
    "reward NaN": ({"rewards": (1.0, NAN)}, "loss is nan: a reward is nan", SCALE),
    "reward inf": ({"rewards": (INF, 1.0)}, "loss is inf: a reward is inf", SCALE),
    "reward -inf": ({"rewards": (1.0, -INF)}, "loss is inf: a reward is -inf", SCALE),
    "reward 1e30": ({"rewards": (1.0, 1e30)}, "loss is inf: a reward is 1e+30", SCALE),
    "reward array": ({"rewards": (np.ones(1), np.full(1, NAN))}, "loss is nan: a reward i", SCALE),
    "s NaN": ({"s": NAN}, "loss is nan: an observation holds nan", ENVIRONMENT),
    "s inf": ({"s": INF}, "loss is inf: an observation holds inf", ENVIRONMENT),
    "s 1e30": ({"s": 1e30}, "loss is inf: an observation holds 1.0000000", ENVIRONMENT),
    "s NaN at the end": ({"s": NAN, "done": True}, "loss is nan: an observation h", ENVIRONMENT),
    "s_ NaN": ({"s_": NAN}, "value of s_ is nan: an observation holds nan", ENVIRONMENT),
    "s_ inf": ({"s_": INF}, "value of s_ is inf: an observation holds inf", ENVIRONMENT),
    "w NaN": ({"lnet": NAN}, "value of s_ is nan: the largest weight is nan", WEIGHTS),
    "w NaN at the end": ({"lnet": NAN, "done": True}, "loss is nan: the largest weight", WEIGHTS),
    "w huge": ({"lnet": -1e30}, "loss is inf: the largest weight is 1.0000000", WEIGHTS),
    "loss NaN": ({"odd": True}, "loss is nan: observations, rewards and weights are fin", FORWARD),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("max_grad_norm", [None, 40])
def test_what_is_not_finite_is_named_with_its_cause_and_pushes_nothing(cause, max_grad_norm):
    changes, told, look = CAUSES[cause]
    changes = dict(changes)
    lnet = Odd() if changes.pop("odd", False) else Scalar(changes.pop("lnet", 2.0))
    gnet = Scalar()
    gnet.w.grad = torch.zeros_like(gnet.w)
    with pytest.raises(FloatingPointError) as error:
        update(lnet=lnet, gnet=gnet, max_grad_norm=max_grad_norm, **changes)
    said = str(error.value)
    assert said.startswith(f"The {told}") and said.endswith(f". {look}") and "\n" not in said
    assert gnet.w.item() == 2.0 and gnet.w.grad.item() == 0.0


def test_what_follows_a_terminal_state_is_not_looked_at():
    _, gnet = update(done=True, s_=NAN)
    assert gnet.w.item() == pytest.approx(2.0)


@pytest.mark.parametrize("rewards", [(1e-9, 1e6), (-1e6, 0.0)])
def test_what_is_large_and_finite_is_learned(rewards):
    _, gnet = update(rewards=rewards, s=1e3)
    assert math.isfinite(gnet.w.item()) and gnet.w.item() != 2.0


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize(
    "one",
    [1, True, np.float32(1), np.array(1.0), np.array([1.0]), np.ones((1, 1)), [1.0]],
    ids=repr,
)
def test_a_reward_may_be_an_array_of_one_number(one, max_grad_norm):
    lnet, gnet = update(rewards=(one, 2.0), max_grad_norm=max_grad_norm)
    plain, expected = update(max_grad_norm=max_grad_norm)
    assert torch.equal(lnet.seen[2], plain.seen[2])
    assert lnet.seen[2].tolist() == [[3.5], [5.0]]
    assert gnet.w.item() == expected.w.item()


@pytest.mark.parametrize("reward", [np.ones(2), np.ones((2, 1)), [], [1.0, 2.0], None], ids=repr)
def test_a_reward_that_is_not_one_number_is_refused(reward):
    gnet = Scalar()
    for rewards in ((1.0, reward), (reward, 1.0)):
        with pytest.raises(ValueError, match="^A reward must be one number, ") as error:
            update(rewards=rewards, gnet=gnet)
        assert repr(reward) in str(error.value)
    assert gnet.w.item() == 2.0


def test_the_buffers_of_the_network_that_played_are_pushed():
    lnet, gnet = Scalar(), Scalar()
    for net, value in ((lnet, 1.0), (gnet, 2.0)):
        net.register_buffer("seen_so_far", torch.tensor(value))
    update(lnet=lnet, gnet=gnet)
    assert (lnet.seen_so_far.item(), gnet.seen_so_far.item()) == (1.0, 1.0)


class Policy(nn.Module):
    """Not ours: any observation, and two outputs (discrete) or three (continuous)."""

    def __init__(self, body, width, n_actions=None, dim=None):
        super().__init__()
        self.body, self.value = body, nn.Linear(width, 1)
        if dim is None:
            self.heads = nn.ModuleList([nn.Linear(width, n_actions)])
        else:
            self.heads = nn.ModuleList([nn.Linear(width, dim), nn.Linear(width, dim)])

    def forward(self, s):
        x = self.body(s)
        return *(head(x) for head in self.heads), self.value(x)

    def loss_func(self, s, a, v_t):
        self.seen = s, a, v_t
        *outputs, values = self.forward(s)
        advantage = (v_t - values).detach().squeeze(1)
        if len(outputs) == 1:
            log_pi = torch.distributions.Categorical(logits=outputs[0]).log_prob(a)
        else:
            normal = torch.distributions.Normal(outputs[0], outputs[1].exp())
            log_pi = normal.log_prob(a).sum(1)
        return ((v_t - values).pow(2).squeeze(1) - log_pi * advantage).mean()


def linear():
    return nn.Linear(5, 8)


def sequence():
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 8))


def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())


BODIES = {
    "vector": (linear, 8, (5,), np.float32),
    "float64": (linear, 8, (5,), np.float64),
    "sequence of one": (sequence, 8, (1, 5), np.float32),  # no batch axis: it is not squeezed
    "image": (conv, 4 * 6 * 6, (3, 8, 8), np.uint8),
}
ACTIONS = {
    "int": (2, None, lambda i: i % 2, (3,), torch.int64),
    "int64": (2, None, lambda i: np.int64(i % 2), (3,), torch.int64),
    "int32": (2, None, lambda i: np.int32(i % 2), (3,), torch.int64),
    "uint8": (2, None, lambda i: np.uint8(i % 2), (3,), torch.int64),
    "bool": (2, None, lambda i: bool(i % 2), (3,), torch.int64),
    "float": (None, 1, lambda i: 0.5 * i, (3, 1), torch.float32),
    "1-d": (None, 1, lambda i: np.full(1, 0.5 * i), (3, 1), torch.float32),
    "3-d": (None, 3, lambda i: np.full(3, 0.5 * i, np.float32), (3, 3), torch.float32),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("action", ACTIONS)
def test_networks_and_environments_that_are_not_ours(body, action):
    make_body, width, shape, obs_dtype = BODIES[body]
    n_actions, dim, make_action, a_shape, a_dtype = ACTIONS[action]
    torch.manual_seed(0)
    gnet, lnet = (Policy(make_body(), width, n_actions, dim) for _ in range(2))
    lnet.load_state_dict(gnet.state_dict())
    before = [p.clone() for p in gnet.parameters()]
    rng = np.random.default_rng(0)
    observations = [rng.integers(0, 5, shape).astype(obs_dtype) for _ in range(4)]
    actions = [make_action(i) for i in range(3)]
    opt = SharedAdam(gnet.parameters(), lr=1e-3)
    with torch.no_grad():
        bootstrap = lnet(v_wrap(observations[3][None]))[-1].item()
    push_and_pull(
        opt, lnet, gnet, False, observations[3], observations[:3], actions, [1, 0.0, -1.0], 0.9
    )
    s, a, v_t = lnet.seen
    assert s.shape == (3, *shape) and s.dtype == torch.float32
    assert np.array_equal(s.numpy(), np.stack(observations[:3]).astype(np.float32))
    assert a.shape == a_shape and a.dtype == a_dtype
    assert np.allclose(a.flatten()[:: a[0].numel()], [float(np.ravel(x)[0]) for x in actions])
    assert v_t.shape == (3, 1)
    assert v_t[2].item() == pytest.approx(-1 + 0.9 * bootstrap, rel=1e-5)
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(lnet.parameters(), gnet.parameters()))


class Switches(nn.Module):
    """Not ours: two switches, each on or off, scored by Bernoulli."""

    def __init__(self):
        super().__init__()
        self.pi, self.v = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, s):
        return self.pi(s), self.v(s)

    def loss_func(self, s, a, v_t):
        self.seen = s, a, v_t
        logits, values = self.forward(s)
        log_pi = torch.distributions.Bernoulli(logits=logits).log_prob(a).sum(1)
        return ((v_t - values).pow(2).squeeze(1) - log_pi).mean()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, bool])
def test_several_switches_a_step_are_numbers_to_score(dtype):
    torch.manual_seed(0)
    gnet, lnet = Switches(), Switches()
    lnet.load_state_dict(gnet.state_dict())
    before = gnet.pi.weight.clone()
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    s = np.ones(3, np.float32)
    actions = [np.array([1, 0], dtype), np.array([1, 1], dtype), np.array([0, 0], dtype)]
    push_and_pull(opt, lnet, gnet, True, s, [s, s, s], actions, [1.0, 0.0, 1.0], 0.9)
    a = lnet.seen[1]
    assert a.dtype == torch.float32
    assert a.tolist() == [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert not torch.equal(gnet.pi.weight, before)


class Choices(nn.Module):
    """Not ours: two choices a step, of three each, scored by a Categorical each."""

    def __init__(self):
        super().__init__()
        self.pi, self.v = nn.Linear(3, 6), nn.Linear(3, 1)

    def forward(self, s):
        return self.pi(s).view(-1, 2, 3), self.v(s)

    def loss_func(self, s, a, v_t):
        self.seen = s, a, v_t
        logits, values = self.forward(s)
        log_pi = torch.distributions.Categorical(logits=logits).log_prob(a).sum(1)
        return ((v_t - values).pow(2).squeeze(1) - log_pi).mean()


@pytest.mark.parametrize("dtype", [np.int32, np.int64])  # int32: NumPy 1 on Windows
def test_several_choices_a_step_are_int64(dtype):
    gnet, lnet = Choices(), Choices()
    before = gnet.pi.weight.clone()
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    s = np.ones(3, np.float32)
    actions = [np.array([1, 0], dtype), np.array([2, 1], dtype)]
    push_and_pull(opt, lnet, gnet, True, s, [s, s], actions, [1.0, 0.0], 0.9)
    assert lnet.seen[1].dtype == torch.int64
    assert lnet.seen[1].tolist() == [[1, 0], [2, 1]]
    assert not torch.equal(gnet.pi.weight, before)


@pytest.mark.parametrize("options", [{}, {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.1}])
def test_shared_adam_agrees_with_adam(options):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(7, 3), nn.Linear(7, 3)
    theirs.load_state_dict(ours.state_dict())
    shared = SharedAdam(ours.parameters(), lr=0.01, **options)
    adam = torch.optim.Adam(theirs.parameters(), **{"lr": 0.01, "betas": (0.9, 0.99), **options})
    for _ in range(50):
        x = torch.randn(4, 7)
        for net, opt in ((ours, shared), (theirs, adam)):
            opt.zero_grad()
            net(x).pow(2).sum().backward()
            opt.step()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


def test_shared_adam_leaves_parameters_without_a_gradient_and_keeps_the_options_of_groups():
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    frozen = nn.Parameter(torch.ones(2))
    before = copy.deepcopy(ours.state_dict())
    for net, kind in ((ours, SharedAdam), (theirs, torch.optim.Adam)):
        groups = [
            {"params": [net.weight, frozen], "lr": 0.1},
            {"params": [nn.Parameter(torch.ones(2))]},
        ]
        groups.append({"params": [net.bias], "betas": (0.5, 0.7)})
        opt = kind(groups, lr=0.01, betas=(0.9, 0.99))
        for _ in range(3):
            opt.zero_grad()
            net(torch.ones(1, 3)).pow(2).sum().backward()
            opt.step()
    assert frozen.tolist() == [1.0, 1.0]
    for p, q, old in zip(ours.parameters(), theirs.parameters(), before.values()):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(p, old, atol=1e-3)


def state_tensors(opt):
    return [t for state in opt.state.values() for t in state.values()]


def test_all_of_shared_adams_state_is_shared_also_after_loading():
    net = nn.Linear(3, 2)
    plain = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    plain.step()
    state = plain.state_dict()
    opt = SharedAdam(net.parameters())
    assert opt.defaults["lr"] == 1e-3 and opt.defaults["betas"] == (0.9, 0.99)
    for _ in range(2):
        assert [set(state) for state in opt.state.values()] == [
            {"step", "exp_avg", "exp_avg_sq"}
        ] * 2
        assert all(isinstance(t, torch.Tensor) and t.is_shared() for t in state_tensors(opt))
        opt.load_state_dict(copy.deepcopy(state))


def ten_steps(net, opt, gradient=1.0):
    for _ in range(10):
        for p in net.parameters():
            p.grad = torch.full_like(p, gradient)
        opt.step()


def test_a_saved_state_goes_on_where_it_stood(tmp_path):
    net, whole = nn.Linear(3, 2), nn.Linear(3, 2)
    whole.load_state_dict(net.state_dict())
    opt = SharedAdam(net.parameters(), lr=0.01)
    ten_steps(net, opt)
    torch.save(opt.state_dict(), tmp_path / "opt.pt")
    continued = SharedAdam(net.parameters())
    continued.load_state_dict(torch.load(tmp_path / "opt.pt", weights_only=True))
    ten_steps(net, continued, gradient=-3.0)
    uninterrupted = torch.optim.Adam(whole.parameters(), lr=0.01, betas=(0.9, 0.99))
    ten_steps(whole, uninterrupted)
    ten_steps(whole, uninterrupted, gradient=-3.0)
    for p, q in zip(net.parameters(), whole.parameters()):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.timeout(120)
def test_workers_of_each_start_method_count_their_updates_together():
    ours, theirs = nn.Linear(3, 2).share_memory(), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    opt = SharedAdam(ours.parameters(), lr=0.01)
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.99))
    for number, method in enumerate(["fork", "fork", "spawn", "forkserver"], 1):
        process = mp.get_context(method).Process(target=ten_steps, args=(ours, opt))
        process.start()
        process.join(50)
        assert process.exitcode == 0, method
        assert [state["step"].item() for state in opt.state.values()] == [10 * number] * 2, method
        ten_steps(theirs, adam)
        for p, q in zip(ours.parameters(), theirs.parameters()):
            assert torch.allclose(p, q, rtol=1e-4, atol=1e-6), method


def test_a_group_that_comes_later_is_refused():
    opt = SharedAdam(nn.Linear(3, 2).parameters())
    with pytest.raises(RuntimeError, match="Give all parameters"):
        opt.add_param_group({"params": nn.Linear(2, 1).parameters()})
    assert len(opt.param_groups) == 1
