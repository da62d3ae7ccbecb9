"""utils.py as a fork uses it, with networks and environments of its own."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

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
    log = push_and_pull(opt, lnet, gnet, done, s_, bs, list(ba), list(br), 0.5, **options)
    return lnet, gnet, log


def test_v_wrap_shares_memory_or_casts():
    array = np.zeros((2, 3), np.float32)
    v_wrap(array)[0, 0] = 5
    assert array[0, 0] == 5
    assert v_wrap(np.zeros(2)).dtype == v_wrap([1, 2]).dtype == torch.float32
    assert v_wrap(np.ones(2, np.int32), np.int64).dtype == torch.int64


def test_the_return_bootstraps_and_the_gradient_is_pushed_and_pulled():
    lnet, gnet, _ = update(gnet=Scalar(10.0))
    assert lnet.seen[2].tolist() == [[3.5], [5.0]]
    # The gradient is -2 mean(R - w) = -4.5, SGD's step 0.1 of it.
    assert gnet.w.item() == lnet.w.item() == pytest.approx(10.45)
    assert lnet.w.data_ptr() != gnet.w.data_ptr()


def test_a_terminal_state_ends_the_return_with_zero():
    lnet, _, _ = update(done=True, s_=None)  # whatever state the environment returns
    assert lnet.seen[2].tolist() == [[2.0], [2.0]]


def test_local_gradients_are_cleared():
    lnet, gnet, _ = update()
    # From w = 2.45: R = 3.8375 and 5.675, and the gradient is -4.6125.
    update(lnet=lnet, gnet=gnet)
    assert gnet.w.item() == pytest.approx(2.45 + 0.46125)


def test_gradients_are_clipped_and_their_norm_logged():
    _, gnet, log = update(max_grad_norm=1.0)
    assert gnet.w.item() == pytest.approx(2.1) and log == {"gradient norm": 4.5}
    lnet = Scalar()
    lnet.log = {"entropy": 0.5}
    _, gnet, log = update(lnet=lnet, max_grad_norm=4.6)
    assert gnet.w.item() == pytest.approx(2.45) and log == {"entropy": 0.5, "gradient norm": 4.5}
    assert update()[2] == {} and lnet.log == {"entropy": 0.5}


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("wrong", [lambda v: v[:, 0], lambda v: v[None], lambda v: v.repeat(1, 2)])
def test_a_value_that_is_not_one_column_is_refused(wrong, done):
    lnet, gnet = Scalar(), Scalar()
    lnet.forward = lambda s: [wrong(s @ lnet.w)]
    with pytest.raises(ValueError, match=r"must be V\(s\), \(n, 1\)"):
        update(done=done, lnet=lnet, gnet=gnet)
    assert gnet.w.item() == 2.0


@pytest.mark.parametrize("br", [(1.0, np.nan), (np.inf, 1.0), (1.0, 1e30)])
def test_a_loss_that_is_not_finite_never_reaches_the_global_weights(br):
    gnet = Scalar()
    with pytest.raises(FloatingPointError, match="The loss is (nan|inf); the largest state is 1,"):
        update(br=br, gnet=gnet)
    assert gnet.w.item() == 2.0


@pytest.mark.parametrize("one", [np.ones(1), np.ones((1, 1)), np.float32(1), np.array(1), 1])
def test_rewards_may_be_arrays_of_one_number(one):
    assert update(br=(1.0 * one, 2.0 * one))[0].seen[2].tolist() == [[3.5], [5.0]]
    global_ep, global_ep_r, queue = shared()
    record(global_ep, global_ep_r, 0.0 + 5 * one, queue, "w00")
    assert queue.get() == 5.0
    assert utils.evaluate(Greedy(), CountingEnv(reward=one), 0).tolist() == [7.0] * 10


def test_the_loss_gets_actions_as_its_distribution_scores_them():
    for ba, dtype, actions in [
        ((0, 1), torch.int64, [0, 1]),
        ((np.int32(0), np.array(1)), torch.int64, [0, 1]),
        ((np.array([0, 2]), np.array([1, 1])), torch.int64, [[0, 2], [1, 1]]),
        ((0.5, -1.0), torch.float32, [[0.5], [-1.0]]),
        ((np.zeros(3), np.ones(3)), torch.float32, [[0.0] * 3, [1.0] * 3]),
    ]:
        a = update(ba=ba)[0].seen[1]
        assert a.dtype == dtype and a.tolist() == actions


def test_buffers_are_pushed():
    lnet, gnet = Scalar(), Scalar()
    for net, mean in ((lnet, 5.0), (gnet, 0.0)):
        net.register_buffer("mean", torch.tensor(mean))  # as BatchNorm's
    update(lnet=lnet, gnet=gnet)
    assert gnet.mean.item() == lnet.mean.item() == 5.0


def shared():
    """Return a global_ep, global_ep_r and res_queue."""
    return mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()


def test_record_counts_averages_queues_and_prints(capsys):
    """Forks call it with five arguments and read the average from the queue."""
    global_ep, global_ep_r, queue = shared()
    record(global_ep, global_ep_r, 0.0, queue, "w00")  # a return of 0 is an average, too
    record(global_ep, global_ep_r, 134, queue, "w01")
    assert (global_ep.value, queue.get(), queue.get()) == (2, 0.0, global_ep_r.value)
    assert global_ep_r.value == pytest.approx(1.34)
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 0.00\nw01 Ep: 2 | Ep_r: 1.34\n"


def test_record_queues_a_row_with_the_means_of_a_log():
    global_ep, global_ep_r, queue = shared()
    record(global_ep, global_ep_r, 3, queue, "w00", [{"x": torch.tensor(1.0)}, {"x": 2.0}])
    row = queue.get()
    assert row == {"return": 3, "average": 3, "x": 1.5} and type(row["x"]) is float
    record(global_ep, global_ep_r, 103, queue, "w00", [{}, {}])  # of a network without a log
    assert queue.get() == {"return": 103, "average": 4} and queue.empty()


def test_check_constants_exits_with_the_name_of_a_wrong_one():
    for name, value in {"MAX_EP": 10.5, "LR": 0, "GAMMA": np.nan, "SEED": 2**32}.items():
        with pytest.raises(SystemExit, match=rf"^{name} = .*: use a (whole )?number from "):
            utils.check_constants({**vars(discrete_A3C), name: value})
    assert utils.check_constants({"GAMMA": 1, "SEED": np.int64(0), "MY_OWN": "7"}) is None
    for script in (discrete_A3C, continuous_A3C):
        assert utils.check_constants(vars(script)) is None


@pytest.mark.parametrize("spaces", [gym.spaces, gymnasium.spaces])
def test_check_env(spaces):
    vector, image = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (84, 84, 3))
    two, box = spaces.Discrete(2), spaces.Box(-1, 1, (3,), np.float64)
    for s, a, actions, told in [
        (spaces.Discrete(16), two, "Discrete", "FlattenObservation"),
        (image, two, "Discrete", "catch_pixels"),
        (vector, two, "Box", "discrete_A3C.py learns Discrete"),
        (vector, box, "Discrete", "continuous_A3C.py learns Box"),
        (vector, spaces.Discrete(2, start=1), "Discrete", "count from 0"),
        (vector, spaces.Box(0, 4, (1,), np.int64), "Box", "float"),
        (vector, spaces.Box(0, np.inf, (2,)), "Box", "bounded"),
        (vector, spaces.Box(-1, 1, (2, 2)), "Box", "vector"),
    ]:
        env = SimpleNamespace(observation_space=s, action_space=a)
        with pytest.raises(ValueError, match=f"^ENV_NAME: .*{told}"):
            utils.check_env(env, actions)
    env = SimpleNamespace(observation_space=vector, action_space=box)
    assert utils.check_env(env, "Box") is env


class Greedy(nn.Module):
    """Takes action 1 when greedy, and 0 when not."""

    def choose_action(self, s, greedy=False):
        assert s.shape == (1, 4) and s.dtype == torch.float32 and not self.training
        return int(greedy)


def test_evaluate_plays_greedily_in_eval_mode_and_says_what_it_cuts_off(capsys):
    net, env = Greedy(), CountingEnv()
    assert utils.evaluate(net, env, seed=3, max_steps=7).tolist() == [7.0] * 10
    assert env.actions == [1] * 70 and env.seeds == list(range(3, 13))
    assert net.training and capsys.readouterr().out == ""
    endless = CountingEnv(length=None)
    assert utils.evaluate(net.eval(), endless, 0, episodes=2).tolist() == [1000.0] * 2
    assert not net.training and capsys.readouterr().out.startswith("2 of 2 ")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder results/ of this test."""
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    yield tmp_path / "results"
    utils.plt.close("all")


def test_runs_never_share_a_folder_and_keep_their_script(results, tmp_path):
    script = tmp_path / "mine.py"
    script.write_bytes(b"LR = 1e-3")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(utils.new_run, ["ALE/Mine:Pong-v5"] * 4, [str(script)] * 4))
    assert {run.name for run in runs} == {f"ALE-Mine-Pong-v5-{i}" for i in range(1, 5)}
    for run in runs:
        assert [path.name for path in run.iterdir()] == ["mine.py"] and run.parent == results
        assert (run / "mine.py").read_bytes() == script.read_bytes()
    assert not list(utils.new_run("Mine-v0").iterdir())


@pytest.mark.parametrize(
    "res, lines",
    [
        ([{"return": 9, "average": 9.5, "entropy": 0.5}], ["return,average,entropy", "9,9.5,0.5"]),
        ([9.0, 9.5], ["average", "9", "9.5"]),  # without a log
        ([9.0, {"average": 9.5, "return": 8}], ["average,return", "9,nan", "9.5,8"]),
        ([], ["return,average"]),
    ],
)
def test_save_results(res, lines, results, capsys):
    run, net, loaded = utils.new_run("Mine-v0"), Scalar(3.0), Scalar()
    utils.save_results(run, net, res, {})
    table = [f"{first},{line}" for first, line in zip(("episode", "1", "2"), lines)]
    assert (run / "episodes.csv").read_text(encoding="utf-8").splitlines() == table
    loaded.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    assert loaded.w.item() == 3.0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"Saved {run}" in capsys.readouterr().out


def test_constants_json_holds_the_names_in_capitals_but_for_modules(results):
    run, names = utils.new_run("Mine-v0"), {"F": nn.functional, "Net": Scalar, "lr": 1.0}
    kept = {"BETAS": [0.9, 0.99], "MAX_GRAD_NORM": None, "OPTIONS": {"steps": [1, 2]}}
    names.update(kept, LR=np.float32(0.5), PAIRS={(0, 1): 2}, A_LOW=np.zeros(1), GAME=object())
    utils.save_results(run, Scalar(), [], names)
    others = {"LR": 0.5, "PAIRS": "{(0, 1): 2}", "A_LOW": "array([0.])", "GAME": "<object object>"}
    assert json.loads((run / "constants.json").read_text(encoding="utf-8")) == {**kept, **others}
