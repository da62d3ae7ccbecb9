"""utils.py as a fork uses it, with networks and environments of its own."""

import json
import signal
import threading
import time

import gym
import gymnasium
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from conftest import CountingEnv
from torch import nn

import continuous_A3C
import discrete_A3C
import utils
from utils import push_and_pull, record, v_wrap

NAN, INF = float("nan"), float("inf")


class Scalar(nn.Module):
    """V(s) = w s, with one weight: its updates can be computed by hand."""

    def __init__(self, w=2.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[w]]))

    def forward(self, s):
        return s * 0.0, s @ self.w

    def loss_func(self, s, a, v_t):
        self.seen = s, a, v_t
        return (v_t - self.forward(s)[-1]).pow(2).mean()


def update(done=False, br=(1.0, 2.0), ba=(0, 1), s_=(3.0,), lnet=None, gnet=None, **options):
    """Update from two steps with s = 1. As w = 2 and gamma = 0.5: V(s_) = 6, R = 3.5 and 5."""
    lnet, gnet = lnet or Scalar(), gnet or Scalar()
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    bs = [np.ones(1, np.float32)] * 2
    push_and_pull(opt, lnet, gnet, done, s_, bs, list(ba), list(br), 0.5, **options)
    return lnet, gnet


def test_v_wrap_shares_memory_or_casts():
    array = np.zeros((2, 3), np.float32)
    tensor = v_wrap(array)
    array[0, 0] = 5
    assert tensor.shape == (2, 3) and tensor[0, 0] == 5
    assert v_wrap(np.zeros(2)).dtype == v_wrap([1, 2]).dtype == torch.float32
    assert v_wrap(np.ones(2, np.int32), np.int64).dtype == torch.int64


def test_set_init():
    torch.manual_seed(0)
    layers = [nn.Linear(100, 200), nn.Conv2d(3, 64, 8)]
    utils.set_init(layers)
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert not layer.bias.any()


def test_the_return_bootstraps_and_the_gradient_is_pushed_and_pulled():
    lnet, gnet = update(gnet=Scalar(10.0))
    assert lnet.seen[2].tolist() == [[3.5], [5.0]]
    # The gradient is -2 mean(R - w) = -4.5, SGD's step 0.1 of it.
    assert gnet.w.item() == lnet.w.item() == pytest.approx(10.45)
    assert lnet.w.data_ptr() != gnet.w.data_ptr()


def test_a_terminal_state_ends_the_return_with_zero():
    lnet, gnet = update(done=True)
    assert lnet.seen[2].tolist() == [[2.0], [2.0]]
    assert gnet.w.item() == pytest.approx(2.0)


def test_local_gradients_are_cleared():
    lnet, gnet = update()
    # From w = 2.45: R = 3.8375 and 5.675, and the gradient is -4.6125.
    update(lnet=lnet, gnet=gnet)
    assert gnet.w.item() == pytest.approx(2.45 + 0.46125)


def test_gradients_are_clipped_to_the_norm():
    assert update(max_grad_norm=1.0)[1].w.item() == pytest.approx(2.1)
    assert update(max_grad_norm=4.6)[1].w.item() == pytest.approx(2.45)


@pytest.mark.parametrize("own", [True, 40, None])
def test_a_tenth_positional_argument_fails(own):
    with pytest.raises(TypeError, match="positional"):
        push_and_pull(None, Scalar(), Scalar(), True, [3.0], [[1.0]], [0], [1.0], 0.5, own)


@pytest.mark.parametrize("br", [(1.0, NAN), (INF, 1.0), (1.0, 1e30)])
def test_a_loss_that_is_not_finite_never_reaches_the_global_weights(br):
    gnet = Scalar()
    with pytest.raises(FloatingPointError, match="The loss is (nan|inf); the largest state is 1,"):
        update(br=br, gnet=gnet)
    assert gnet.w.item() == 2.0


@pytest.mark.parametrize("one", [np.ones(1), np.ones((1, 1)), np.float32(1), np.array(1), 1])
def test_rewards_may_be_arrays_of_one_number(one, capsys):
    assert update(br=(1.0 * one, 2.0 * one))[0].seen[2].tolist() == [[3.5], [5.0]]
    global_ep, global_ep_r, queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    record(global_ep, global_ep_r, 0.0 + 5 * one, queue, "w00")
    assert queue.get() == 5.0 and "w00 Ep: 1 | Ep_r: 5.00" in capsys.readouterr().out

    class Env(CountingEnv):
        def step(self, action):
            s, _, *rest = super().step(action)
            return s, one, *rest

    assert utils.evaluate(Greedy(), Env(), 0).tolist() == [7.0] * 10


@pytest.mark.parametrize(
    "ba, shape, dtype",
    [
        ((0, 1), (2,), torch.int64),
        ((np.int32(0), np.int32(1)), (2,), torch.int64),
        ((np.array(0), np.array(1)), (2,), torch.int64),
        ((np.array([0, 2]), np.array([1, 1])), (2, 2), torch.int64),
        ((0.5, -1.0), (2, 1), torch.float32),
        ((np.float32([0.5]), np.float32([1.0])), (2, 1), torch.float32),
        ((np.zeros(3), np.ones(3)), (2, 3), torch.float32),
    ],
)
def test_the_loss_gets_actions_as_its_distribution_scores_them(ba, shape, dtype):
    a = update(ba=ba)[0].seen[1]
    assert (a.shape, a.dtype) == (shape, dtype)
    assert a[1].tolist() == pytest.approx(np.ravel(ba[1]).tolist() if a.ndim > 1 else ba[1])


class Images(nn.Module):
    """Three outputs for images, the value last, with a buffer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.pi, self.v = nn.Linear(12, 3), nn.Linear(12, 1)

    def forward(self, x):
        x = self.norm(x).flatten(1)
        return self.pi(x), torch.ones(3), self.v(x)

    def loss_func(self, s, a, v_t):
        mu, _, values = self.forward(s)
        return (a - mu).pow(2).sum() + (v_t - values).pow(2).sum()


def test_images_three_outputs_and_buffers():
    gnet, lnet = Images(), Images()
    before = [p.clone() for p in gnet.parameters()]
    s = np.random.default_rng(0).normal(size=(2, 1, 3, 4)).astype(np.float32)
    opt = torch.optim.SGD(gnet.parameters(), lr=0.1)
    push_and_pull(opt, lnet, gnet, False, s[0], list(s), list(np.ones((2, 3))), [1.0, 0.0], 0.9)
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
    assert gnet.norm.running_mean.item() == lnet.norm.running_mean.item() != 0.0


def test_record_counts_averages_queues_and_prints_under_one_lock(capsys):
    global_ep, global_ep_r, queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    record(global_ep, global_ep_r, 0.0, queue, "w00")  # a return of 0 is an average, too
    with global_ep.get_lock():
        other = threading.Thread(target=record, args=(global_ep, global_ep_r, 134, queue, "w01"))
        other.start()
        other.join(0.2)
        assert global_ep.value == 1 and global_ep_r.value == 0.0
    other.join()
    assert (global_ep.value, queue.get(), queue.get()) == (2, 0.0, global_ep_r.value)
    assert global_ep_r.value == pytest.approx(1.34)
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 0.00\nw01 Ep: 2 | Ep_r: 1.34\n"


def test_record_queues_while_it_holds_the_lock():
    global_ep, free = mp.Value("i", 0), []

    def look():
        free.append(global_ep.get_lock().acquire(block=False))
        if free[-1]:
            global_ep.get_lock().release()

    class Queue:
        def put(self, value):
            other = threading.Thread(target=look)
            other.start()
            other.join()

    record(global_ep, mp.Value("d", 0.0), 1.0, Queue(), "w00")
    assert free == [False]


class Late(mp.Process):
    """Queues a result after some seconds."""

    def __init__(self, res_queue, seconds):
        super().__init__()
        self.res_queue, self.seconds = res_queue, seconds

    def run(self):
        time.sleep(self.seconds)
        self.res_queue.put(self.seconds)
        self.res_queue.put(None)


def test_run_workers_waits_for_the_last_one():
    res_queue, res = mp.SimpleQueue(), [7.0]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    utils.run_workers([Late(res_queue, seconds) for seconds in (0.0, 2.0)], res_queue, res)
    assert res == [7.0, 0.0, 2.0]
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("script", [discrete_A3C, continuous_A3C])
def test_check_constants_returns_what_stands_at_the_top(script):
    constants = utils.check_constants(vars(script))
    assert set(utils.LIMITS) < set(constants)
    for name in ("ENV_NAME", "BETAS", "LR", "MAX_GRAD_NORM", "RENDER"):
        assert constants[name] == getattr(script, name)
    assert json.loads(json.dumps(constants))["SEED"] == script.SEED
    assert utils.check_constants({"MY_OWN": 7, "np": np}) == {"MY_OWN": 7}


WRONG = {
    "UPDATE_GLOBAL_ITER": [0, 2.5, "5", None],
    "GAMMA": [-0.1, 1.01, NAN, "0.9", None],
    "MAX_EP": [0, 10.5],
    "LR": [0, -1e-4, 1.01, INF, NAN, "1e-4"],
    "ENTROPY_BETA": [-0.01, NAN, None],
    "MAX_GRAD_NORM": [0, -1.0, "40"],
    "REWARD_SCALE": [0, -16.0, NAN, None],
    "N_WORKERS": [0, 2.0, None],
    "SEED": [-1, 2**32, 0.5],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_constant_is_named(name):
    for value in WRONG[name]:
        with pytest.raises(SystemExit, match=rf"^{name} = .*: use a (whole )?number from "):
            utils.check_constants({**vars(discrete_A3C), name: value})


def env_with(module, observation_space, action_space):
    class Mine(module.Env):
        pass

    env = Mine()
    env.observation_space, env.action_space = observation_space, action_space
    return env


@pytest.mark.parametrize("module", [gym, gymnasium])
def test_check_env(module):
    spaces = module.spaces
    vector, image = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (84, 84, 3))
    two, box = spaces.Discrete(2), spaces.Box(-1, 1, (3,), np.float64)
    for s, a, actions in ((vector, two, "Discrete"), (vector, box, "Box")):
        env = env_with(module, s, a)
        assert utils.check_env(env, actions) is env
    for s, a, actions, told in [
        (spaces.Discrete(16), two, "Discrete", "FlattenObservation"),
        (spaces.Dict({"a": vector}), two, "Discrete", "FlattenObservation"),
        (spaces.Tuple([vector, vector]), box, "Box", "FlattenObservation"),
        (image, two, "Discrete", "catch_pixels"),
        (vector, two, "Box", "discrete_A3C.py learns Discrete"),
        (vector, box, "Discrete", "continuous_A3C.py learns Box"),
        (vector, spaces.MultiDiscrete([2, 3]), "Discrete", "learns Discrete"),
        (vector, spaces.Discrete(2, start=1), "Discrete", "count from 0"),
        (vector, spaces.Box(0, 4, (1,), np.int64), "Box", "bounded float vector"),
        (vector, spaces.Box(-INF, INF, (2,)), "Box", "bounded float vector"),
        (vector, spaces.Box(0, INF, (2,)), "Box", "bounded float vector"),
        (vector, spaces.Box(-1, 1, (2, 2)), "Box", "bounded float vector"),
    ]:
        with pytest.raises(ValueError, match="^ENV_NAME: .*Mine") as error:
            utils.check_env(env_with(module, s, a), actions)
        assert told in str(error.value)


class Greedy(nn.Module):
    """Takes action 1 when greedy, and 0 when not; counts how often it forgets."""

    forgotten = 0

    def choose_action(self, s, greedy=False):
        assert s.shape == (1, 4) and s.dtype == torch.float32
        assert not self.training
        return int(greedy)

    def forget(self):
        self.forgotten += 1


def test_evaluate_plays_greedily_in_eval_mode():
    net, env = Greedy(), CountingEnv()
    returns = utils.evaluate(net, env, seed=3)
    assert returns.tolist() == [7.0] * 10 and env.actions == [1] * 70
    assert env.seeds == list(range(3, 13)) and net.forgotten == 10
    assert net.training
    endless = CountingEnv(length=None)
    assert utils.evaluate(net.eval(), endless, 0, episodes=2).tolist() == [1000.0] * 2
    assert utils.evaluate(net, endless, 0, episodes=1, max_steps=5).tolist() == [5.0]
    assert not net.training


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder results/ of this test."""
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    return tmp_path / "results"


def test_runs_never_share_a_folder(results):
    runs = []
    threads = [
        threading.Thread(target=lambda: runs.append(utils.new_run("ALE/Mine:Pong-v5")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.name for run in runs) == sorted(f"ALE-Mine-Pong-v5-{i}" for i in range(1, 21))
    assert all(run.is_dir() and run.parent == results for run in runs)


def test_results_that_cannot_be_written_are_an_error_before_training(results):
    results.write_text("a file")
    with pytest.raises(OSError):
        utils.new_run("CartPole-v0")


def test_save_results(results, capsys):
    run, net = utils.new_run("CartPole-v0"), discrete_A3C.Net(4, 2)
    global_ep, global_ep_r, queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    for ep_r in (10.0, 200.0, -30.5):
        record(global_ep, global_ep_r, ep_r, queue, "w00")
    averages = [queue.get() for _ in range(3)]
    capsys.readouterr()
    utils.save_results(run, net, averages, {"GAMMA": 0.9, "BETAS": (0.9, 0.99)})
    table = (run / "returns.csv").read_text().splitlines()
    assert table[0] == "episode,return,average"
    rows = [[float(x) for x in line.split(",")] for line in table[1:]]
    assert np.allclose(rows, np.column_stack([[1, 2, 3], [10, 200, -30.5], averages]), rtol=1e-5)
    assert json.loads((run / "constants.json").read_text()) == {"GAMMA": 0.9, "BETAS": [0.9, 0.99]}
    assert (run / "returns.png").read_bytes().startswith(b"\x89PNG")
    loaded = discrete_A3C.Net(4, 2)
    loaded.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), loaded.parameters()))
    assert f"Saved {run}" in capsys.readouterr().out


def test_weights_are_saved_without_an_episode_and_before_all_else(results, monkeypatch):
    run = utils.new_run("CartPole-v0")
    utils.save_results(run, Scalar(), [], {})
    assert (run / "returns.csv").read_text() == "episode,return,average\n"
    run = utils.new_run("CartPole-v0")
    monkeypatch.setattr(utils.plt, "subplots", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        utils.save_results(run, Scalar(), [1.0], {})
    assert (run / "weights.pt").stat().st_size and (run / "returns.csv").stat().st_size
