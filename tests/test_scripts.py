"""The two scripts: network, loss and worker, and what differs between them."""

import random
import re

import gym
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from conftest import ROOT, CountingEnv

import continuous_A3C
import discrete_A3C
import utils
from shared_adam import SharedAdam

both = pytest.mark.parametrize("script", [discrete_A3C, continuous_A3C], ids=lambda s: s.__name__)


def oracle(script, net, s, a, v_t):
    """Return the loss of the scripts' heads, written out with torch.distributions."""
    *outputs, values = net(s)
    if script is discrete_A3C:
        m = torch.distributions.Categorical(logits=outputs[0])
        log_pi, entropy = m.log_prob(a), m.entropy()
    else:
        m = torch.distributions.Normal(*outputs)
        log_pi, entropy = m.log_prob(a).sum(1), m.entropy().sum(1)
    advantage = (v_t - values)[:, 0]
    return (advantage**2 - log_pi * advantage.detach() - script.ENTROPY_BETA * entropy).sum()


@pytest.mark.parametrize("n", [1, 5])
@both
def test_the_loss_and_its_gradients(script, n, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(script, "A_MID", torch.zeros(3), raising=False)
    monkeypatch.setattr(script, "A_HALF", torch.ones(3), raising=False)
    monkeypatch.setattr(script, "ENTROPY_BETA", 0.1)
    net, s, v_t = script.Net(6, 3), torch.randn(n, 6), torch.randn(n, 1)
    a = torch.randint(3, (n,)) if script is discrete_A3C else torch.randn(n, 3)
    ours, theirs = net.loss_func(s, a, v_t), oracle(script, net, s, a, v_t)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    names = [name for name, _ in net.named_parameters()]
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss in (ours, theirs)]
    for name, g, h in zip(names, *gradients):
        assert h.any() and torch.allclose(g, h, rtol=1e-4, atol=1e-5), name
    with pytest.raises(AssertionError, match="would broadcast"):
        net.loss_func(s, a, v_t[:, 0])


def test_discrete_actions_are_sampled_from_the_policy():
    torch.manual_seed(0)
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
    torch.manual_seed(0)
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
    inner.action_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    monkeypatch.setattr(continuous_A3C.gym, "make", lambda *args, **options: inner)
    env = continuous_A3C.make_env()
    env.reset()
    a = np.float32([5.0])
    for name, dtype in (("Pendulum-v1", np.float64), ("Mine-v0", np.float32)):
        monkeypatch.setattr(continuous_A3C, "ENV_NAME", name)
        env.step(a)
        assert inner.actions[-1].dtype == dtype and inner.actions[-1].tolist() == [2.0]
    assert a.tolist() == [5.0]


def run_worker(script, monkeypatch, env, max_ep=2, name=0, **constants):
    """Run a Worker in this process; return it and its updates, (done, bs, ba, br, lr) each."""
    for constant, value in {"MAX_EP": max_ep, **constants}.items():
        monkeypatch.setattr(script, constant, value)
    updates = []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
        assert (gamma, max_grad_norm) == (script.GAMMA, script.MAX_GRAD_NORM)
        assert len(bs) == len(ba) == len(br)
        updates.append((done, list(bs), list(ba), list(br), opt.param_groups[0]["lr"]))

    monkeypatch.setattr(script, "make_env", lambda **options: env)
    monkeypatch.setattr(script, "push_and_pull", push_and_pull)
    gnet = script.Net(script.N_S, script.N_A)
    shared = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    worker = script.Worker(gnet, SharedAdam(gnet.parameters()), *shared, name)
    worker.run()
    return worker, updates


@pytest.mark.parametrize("truncates", [False, True])
@both
def test_a_worker_updates_after_n_steps_and_at_the_end(script, truncates, monkeypatch):
    env = CountingEnv(script.N_S, truncates=truncates)
    constants = {"UPDATE_GLOBAL_ITER": 5, "REWARD_SCALE": 4.0, "LR": 0.5}
    worker, updates = run_worker(script, monkeypatch, env, **constants)
    assert [(done, len(br)) for done, _, _, br, _ in updates] == [
        (False, 5),
        (not truncates, 2),  # at a time limit the return bootstraps
    ] * 2
    assert [[s[0] for s in bs] for _, bs, *_ in updates] == [[0, 1, 2, 3, 4], [5, 6]] * 2
    assert {r for *_, br, _ in updates for r in br} == {0.25}
    assert [worker.res_queue.get() for _ in range(2)] == [7.0, 7.0]  # reported as paid
    assert [lr for *_, lr in updates] == [0.5, 0.5, 0.25, 0.25]  # annealed
    assert env.closed == 1


class InPlace(CountingEnv):
    """Fills the same arrays at each step."""

    def observe(self):
        self.s = getattr(self, "s", np.zeros(self.size, np.float32))
        self.s[:] = self.t
        return self.s

    def step(self, action):
        s, _, *ended = super().step(action)
        self.r = getattr(self, "r", np.zeros(1))
        self.r[:] = self.t
        return s, self.r, *ended


@both
def test_environments_may_reuse_their_arrays(script, monkeypatch):
    constants = {"UPDATE_GLOBAL_ITER": 3, "REWARD_SCALE": 1.0}
    env = InPlace(script.N_S, length=3)
    worker, [(_, bs, _, br, _)] = run_worker(script, monkeypatch, env, max_ep=1, **constants)
    assert [s[0] for s in bs] == [0, 1, 2] and [float(r[0]) for r in br] == [1, 2, 3]
    assert worker.res_queue.get() == 6.0


@both
def test_environments_may_observe_lists(script, monkeypatch):
    env = CountingEnv(script.N_S)
    monkeypatch.setattr(env, "observe", lambda: [0.5] * script.N_S)
    assert len(run_worker(script, monkeypatch, env)[1]) > 1


@both
def test_workers_are_seeded_and_differ(script, monkeypatch):
    torch.manual_seed(0)
    drawn = []
    for name in (0, 11):
        env = CountingEnv(script.N_S)
        worker, updates = run_worker(script, monkeypatch, env, name=name)
        for _ in range(2):
            np.random.seed(0), random.seed(0), torch.manual_seed(7)
            worker.g_ep.value = 0
            worker.run()
            actions = np.ravel(env.actions[-14:]).tolist()
            drawn.append((worker.name, env.seeds[0], np.random.uniform(), random.random(), actions))
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3]
    assert all(one != other for one, other in zip(drawn[0], drawn[2]))


@both
def test_only_worker_w00_renders(script, monkeypatch):
    shown = []
    for render, name in ((True, 0), (True, 1), (False, 0)):
        monkeypatch.setattr(script, "RENDER", render)
        worker, _ = run_worker(script, monkeypatch, CountingEnv(script.N_S), 0, name)
        monkeypatch.setattr(
            script, "make_env", lambda **o: shown.append(o) or CountingEnv(script.N_S)
        )
        worker.run()
    assert shown == [{"render_mode": "human"}, {}, {}]


@pytest.mark.parametrize("script, method", [(discrete_A3C, "spawn"), (continuous_A3C, None)])
def test_one_worker_repeats_itself(script, method, copy):
    """The same seed gives the same run, the constants are what is learned with, and all is told."""
    file = f"{script.__name__}.py"
    copy.set(file, method, MAX_EP=4, N_WORKERS=1, MAX_GRAD_NORM=40)
    told = "    print(opt.defaults, sum(p.norm().item() for p in gnet.parameters()))\n"
    copy.change(file, "    res = []\n", f"    res = []\n{told}")
    runs = []
    for number in (1, 2):
        status, stdout, stderr = copy.run(file)
        assert (status, stderr) == (0, "")
        name = f"{script.ENV_NAME}-{number}"
        runs.append((re.sub("Saved .*", "", stdout), copy.saved(name).tolist()))
        weights = (copy.folder / "results" / name / "weights.pt").read_bytes()
    assert runs[0] == runs[1] and len(runs[0][1]) == 4
    assert weights == (copy.folder / "results" / f"{script.ENV_NAME}-1/weights.pt").read_bytes()
    assert len(re.findall(r"^w00 Ep: \d \| Ep_r: -?\d+\.\d\d$", stdout, re.M)) == 4
    options = {"lr": script.LR, "betas": script.BETAS, "eps": 1e-8, "weight_decay": 0}
    assert all(f"'{name}': {value}" in stdout for name, value in options.items())

    utils.seed_all(script.SEED)
    net, env = script.Net(script.N_S, script.N_A), script.make_env()
    assert f"{sum(p.norm().item() for p in net.parameters())}\n" in stdout
    before = utils.evaluate(net, env, script.SEED).mean()
    net.load_state_dict(torch.load(copy.folder / "results" / name / "weights.pt"))
    after = utils.evaluate(net, env, script.SEED).mean()
    assert f"Before training, the greedy policy returns {before:.2f}\n" in stdout
    assert f"After training, the greedy policy returns {after:.2f}\n" in stdout


def test_cartpole_is_learned(copy):
    quick = {"UPDATE_GLOBAL_ITER": 20, "GAMMA": 0.99, "LR": 2e-3, "REWARD_SCALE": 10.0}
    copy.set("discrete_A3C.py", **quick, MAX_EP=1000, N_WORKERS=2)
    status, stdout, stderr = copy.run("discrete_A3C.py")
    assert status == 0, stderr
    before, after = map(float, re.findall(r"policy returns (\S+)", stdout))
    assert before < 50 and after > 100


def test_continuous_actions_change_neither_worker_nor_main():
    texts = [(ROOT / f"{name}_A3C.py").read_text() for name in ("discrete", "continuous")]
    workers = [text[text.index("class Worker") :] for text in texts]
    assert workers[0] == workers[1]
