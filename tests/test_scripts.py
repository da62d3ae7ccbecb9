"""The two scripts: network, loss and worker, and what differs between them."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from conftest import ROOT, CountingEnv
from torch.distributions import Categorical, Normal
from torch.nn.utils import parameters_to_vector

import continuous_A3C
import discrete_A3C
import utils
from shared_adam import SharedAdam

both = pytest.mark.parametrize("script", [discrete_A3C, continuous_A3C], ids=lambda s: s.__name__)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("n", [1, 5])
@both
def test_the_loss_and_its_gradients(script, n, monkeypatch):
    """The loss, written out with torch.distributions, one step at a time."""
    monkeypatch.setattr(script, "A_MID", torch.zeros(3), raising=False)
    monkeypatch.setattr(script, "A_HALF", torch.ones(3), raising=False)
    monkeypatch.setattr(script, "ENTROPY_BETA", 0.1)
    net, s, v_t = script.Net(6, 3), torch.randn(n, 6), torch.randn(n, 1)
    a = torch.randint(3, (n,)) if script is discrete_A3C else 3 * torch.randn(n, 3)
    loss, entropies, squares = 0.0, [], []
    for i in range(n):
        *outputs, value = net(s[i])
        m = Categorical(logits=outputs[0]) if script is discrete_A3C else Normal(*outputs)
        advantage = v_t[i] - value
        entropies.append(m.entropy().sum())
        squares.append(advantage**2)
        log_prob = m.log_prob(a[i]).sum()
        loss += squares[i] - log_prob * advantage.detach() - 0.1 * entropies[i]
    ours = net.loss_func(s, a, v_t)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, p in net.named_parameters():
        (g,), (h,) = (torch.autograd.grad(x, p, retain_graph=True) for x in (ours, loss))
        assert h.any() and torch.allclose(g, h, rtol=1e-4, atol=1e-5), name
    assert net.log["entropy"] == pytest.approx(sum(entropies).item() / n, rel=1e-5)
    assert net.log["value error"] == pytest.approx(sum(squares).item() / n, rel=1e-5)
    with pytest.raises(AssertionError, match="would broadcast"):
        net.loss_func(s, a, v_t[:, 0])


@pytest.mark.parametrize("baseline", [0.0, 50.0])
@both
def test_the_mean_gradient_is_the_policy_gradient(script, baseline, monkeypatch):
    """Averaged over pi(a|s), the loss has the gradient of -J, whatever the baseline V(s) is.

    J is the expected return of one step from one state: sum over a of pi(a|s) r(a), which for a
    normal policy and r(a) = a^2 is mu^2 + sigma^2.
    """
    monkeypatch.setattr(script, "ENTROPY_BETA", 0.0)
    net, s = script.Net(script.N_S, script.N_A), torch.randn(1, script.N_S)
    torch.nn.init.constant_(net.v2.bias, baseline)
    actor = [*net.pi1.parameters(), *net.pi2.parameters()]
    if script is discrete_A3C:
        actions, rewards = torch.tensor([0, 1]), torch.tensor([3.0, -1.0])
        weights = torch.softmax(net(s)[0], dim=1)[0]
        J = (weights * rewards).sum()
    else:
        x, weights = map(utils.v_wrap, np.polynomial.hermite_e.hermegauss(8))
        weights /= weights.sum()  # of Gauss-Hermite quadrature, which is exact here
        mu, sigma, _ = net(s)
        actions = (mu + sigma * x).detach().T
        rewards = actions[:, 0] ** 2
        J = (mu**2 + sigma**2).sum()
    loss = 0.0
    for a, r, weight in zip(actions, rewards, weights.detach()):
        loss += weight * net.loss_func(s, a[None], r.view(1, 1))
    ours, theirs = torch.autograd.grad(loss, actor), torch.autograd.grad(J, actor)
    for g, h in zip(ours, theirs):
        assert h.any() and torch.allclose(g, -h, rtol=1e-3, atol=1e-4)


def test_discrete_actions_are_sampled_from_the_policy():
    net, s = discrete_A3C.Net(4, 3), 3 * torch.randn(1, 4)
    pi = torch.softmax(net(s)[0], 1)[0].tolist()
    sampled = [net.choose_action(s) for _ in range(4000)]
    assert type(sampled[0]) is int
    for action in range(3):
        assert sampled.count(action) / 4000 == pytest.approx(pi[action], abs=0.04)
    assert {net.choose_action(s, greedy=True) for _ in range(20)} == {pi.index(max(pi))}


def test_continuous_actions_are_sampled_from_the_policy(monkeypatch):
    monkeypatch.setattr(continuous_A3C, "A_MID", torch.tensor([1.0, -5.0]))
    monkeypatch.setattr(continuous_A3C, "A_HALF", torch.tensor([4.0, 0.5]))
    net, s = continuous_A3C.Net(3, 2), torch.randn(1, 3)
    mu, sigma, _ = (x.detach().numpy() for x in net(s))
    sampled = np.array([net.choose_action(s) for _ in range(4000)])
    assert sampled.shape == (4000, 2) and sampled.dtype == np.float32
    assert sampled.mean(0) == pytest.approx(mu[0], abs=0.2)
    assert sampled.std(0) == pytest.approx(sigma[0], rel=0.1)
    assert np.array_equal(net.choose_action(s, greedy=True), mu[0])
    mu, sigma, _ = net(1e4 * torch.randn(200, 3))
    assert mu.amin(0).tolist() == [-3.0, -5.5] and mu.amax(0).tolist() == [5.0, -4.5]
    assert (sigma > 0).all()


def test_actions_are_clipped_and_cast_for_the_environment_only(monkeypatch):
    inner = CountingEnv()
    monkeypatch.setattr(continuous_A3C.gym, "make", lambda *args, **options: inner)
    env = continuous_A3C.make_env()
    env.reset()
    a = np.float32([5.0])
    for name, dtype in (("Pendulum-v1", np.float64), ("Mine-v0", np.float32)):
        monkeypatch.setattr(continuous_A3C, "ENV_NAME", name)
        env.step(a)
        assert inner.actions[-1].dtype == dtype and inner.actions[-1].tolist() == [2.0]
    assert a.tolist() == [5.0]


@torch.no_grad()
def add(net, number):
    for p in net.parameters():
        p += number


def run_worker(script, monkeypatch, env, max_ep=2, name=0, gnet=None, **constants):
    """Run a Worker in this process; return it and its updates, which only add 1 to lnet."""
    for constant, value in {"MAX_EP": max_ep, **constants}.items():
        monkeypatch.setattr(script, constant, value)
    updates = []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
        assert (gamma, max_grad_norm) == (script.GAMMA, script.MAX_GRAD_NORM)
        assert len(bs) == len(ba) == len(br) and gnet is worker.gnet
        update = SimpleNamespace(done=done, s_=np.array(s_), bs=list(bs), ba=list(ba), br=list(br))
        update.lr = opt.param_groups[0]["lr"]
        update.weights = parameters_to_vector(lnet.parameters())
        updates.append(update)
        add(lnet, 1.0)
        return {"number": len(updates)}

    monkeypatch.setattr(script, "make_env", lambda **options: env)
    monkeypatch.setattr(script, "push_and_pull", push_and_pull)
    gnet = gnet or script.Net(script.N_S, script.N_A)
    shared = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    worker = script.Worker(gnet, SharedAdam(gnet.parameters()), *shared, name)
    worker.run()
    return worker, updates


@pytest.mark.parametrize("truncates", [False, True])
@both
def test_a_worker_updates_after_n_steps_and_at_the_end(script, truncates, monkeypatch):
    env = CountingEnv(script.N_S, truncates=truncates)
    constants = {"UPDATE_GLOBAL_ITER": 5, "REWARD_SCALE": 4.0, "LR": 0.5, "MAX_GRAD_NORM": 9.0}
    worker, updates = run_worker(script, monkeypatch, env, **constants)
    assert [[s[0] for s in u.bs] for u in updates] == [[0, 1, 2, 3, 4], [5, 6]] * 2
    assert [u.s_[0] for u in updates] == [5, 7] * 2  # the return bootstraps from it
    assert [u.done for u in updates] == [False, not truncates] * 2  # False at a time limit
    assert [u.br for u in updates] == [[0.25] * 5, [0.25] * 2] * 2
    assert [u.lr for u in updates] == [0.5, 0.5, 0.25, 0.25]  # annealed
    # The return is not scaled; the log is the mean over an episode's updates.
    rows = [worker.res_queue.get() for _ in range(2)]
    assert rows == [{"return": 7.0, "average": 7.0, "number": mean} for mean in (1.5, 3.5)]
    assert env.closed == 1


@both
def test_a_worker_pushes_the_gradient_of_what_it_did(script, monkeypatch):
    """Its weights start as the global ones, which other workers change at any time."""
    gnet, acted, sampled = script.Net(script.N_S, script.N_A), [], []
    first = parameters_to_vector(gnet.parameters())

    class Seen(script.Net):
        def choose_action(self, s):
            acted.append(parameters_to_vector(self.parameters()))
            sampled.append(9 * super().choose_action(s))  # Pendulum's is out of range
            add(gnet, 2.0)
            return sampled[-1]

    monkeypatch.setattr(script, "Net", Seen)
    constants = {"UPDATE_GLOBAL_ITER": 5, "max_ep": 1, "gnet": gnet}
    _, updates = run_worker(script, monkeypatch, CountingEnv(script.N_S), **constants)
    assert torch.equal(acted[0], first)
    assert np.array_equal(updates[0].ba + updates[1].ba, sampled)
    pushed = [updates[0].weights] * 5 + [updates[1].weights] * 2
    assert torch.equal(torch.stack(acted), torch.stack(pushed))


class InPlace(CountingEnv):
    """Fills the same array at each step."""

    def observe(self):
        self.s = getattr(self, "s", np.zeros(self.size, np.float32))
        self.s[:] = self.t
        return self.s


@both
def test_environments_may_reuse_their_arrays(script, monkeypatch):
    _, [update] = run_worker(script, monkeypatch, InPlace(script.N_S, length=3), max_ep=1)
    assert [s[0] for s in update.bs] == [0, 1, 2]


@both
def test_workers_are_seeded_and_differ(script, monkeypatch):
    drawn = []
    for name in (0, 11):
        env = CountingEnv(script.N_S)
        worker, updates = run_worker(script, monkeypatch, env, name=name)
        for _ in range(2):
            np.random.seed(0), random.seed(0), torch.manual_seed(7)
            worker.g_ep.value, env.seeds, env.actions = 0, [], []
            worker.run()
            actions = np.ravel(env.actions).tolist()
            drawn.append((worker.name, env.seeds[0], np.random.uniform(), random.random(), actions))
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3]
    assert all(one != other for one, other in zip(drawn[0], drawn[2]))


@pytest.mark.parametrize(
    "script, method, limit, returns, change",
    [
        (discrete_A3C, "spawn", 25, [24, 21, 10, 15], 0.0737235),
        (continuous_A3C, None, 50, [-354.311, -447.564, -275.228, -319.929], 0.351609),
    ],
)
def test_what_one_worker_learns(script, method, limit, returns, change, copy):
    """The last of 30 returns and the norm of the weights' change are as once measured.

    Whoever changes these numbers on purpose measures anew what the change concerns.
    """
    file, run, constants = f"{script.__name__}.py", f"{script.ENV_NAME}-1", {"REWARD_SCALE": 10.0}
    constants.update(MAX_EP=30, N_WORKERS=1, UPDATE_GLOBAL_ITER=20, MAX_GRAD_NORM=20)
    copy.set(file, method, **constants)
    copy.change(file, "gym.make(ENV_NAME,", f"gym.make(ENV_NAME, max_episode_steps={limit},")
    copy.change(file, "    res = []\n", "    res = []\n    print(torch.get_num_threads())\n")
    status, stdout, stderr = copy.run(file)
    assert (status, stderr) == (0, "") and "\n1\n" in stdout
    assert len(re.findall(r"^w00 Ep: \d+ \| Ep_r: -?\d+\.\d\d$", stdout, re.M)) == 30
    assert copy.saved(run, "gradient norm").max() > 20  # clipped

    utils.seed_all(script.SEED)
    net = script.Net(script.N_S, script.N_A)
    env = script.make_env(max_episode_steps=limit)
    before, greedy = parameters_to_vector(net.parameters()), [utils.evaluate(net, env, script.SEED)]
    net.load_state_dict(torch.load(copy.folder / "results" / run / "weights.pt"))
    after = parameters_to_vector(net.parameters())
    greedy.append(utils.evaluate(net, env, script.SEED))
    told = re.findall(r"training, the greedy policy returns (\S+)", stdout)
    assert told == [f"{returned.mean():.2f}" for returned in greedy]
    # Processors differ in the last digits.
    assert copy.saved(run)[-4:] == pytest.approx(returns, rel=2e-5)
    assert (after - before).norm().item() == pytest.approx(change, rel=2e-5)


def test_continuous_actions_change_neither_worker_nor_main():
    texts = [(ROOT / f"{name}_A3C.py").read_text("utf-8") for name in ("discrete", "continuous")]
    workers = [text[text.index("class Worker") :] for text in texts]
    assert workers[0] == workers[1]


@pytest.mark.slow
def test_cartpole_is_learned(copy):
    quick = {"UPDATE_GLOBAL_ITER": 20, "GAMMA": 0.99, "LR": 2e-3, "REWARD_SCALE": 10.0}
    copy.set("discrete_A3C.py", **quick, MAX_EP=1000, N_WORKERS=2)
    status, stdout, stderr = copy.run("discrete_A3C.py")
    assert status == 0, stderr
    before, after = map(float, re.findall(r"policy returns (\S+)", stdout))
    assert before < 50 and after > 100
