"""What stands before and after the training: constants, environments, evaluation, files."""

import sys
from types import SimpleNamespace

import gym
import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import continuous_A3C
import discrete_A3C
import utils
from conftest import CountingEnv

GOOD = {name: getattr(discrete_A3C, name) for name in dir(discrete_A3C) if name.isupper()}


def sentence(capsys, call, *args):
    """Return the sentence with which `call` ends the program."""
    with pytest.raises(SystemExit) as error:
        call(*args)
    assert isinstance(error.value.code, str) and "\n" not in error.value.code
    return error.value.code


@pytest.mark.parametrize(
    "name, value",
    [
        ("UPDATE_GLOBAL_ITER", 0),
        ("UPDATE_GLOBAL_ITER", 2.5),
        ("GAMMA", -0.1),
        ("GAMMA", 1.01),
        ("GAMMA", float("nan")),
        ("MAX_EP", 0),
        ("MAX_EP", "3000"),
        ("LR", 0),
        ("LR", -1e-4),
        ("LR", None),
        ("N_WORKERS", 0),
        ("N_WORKERS", -1),
        ("SEED", -1),
        ("SEED", 2**70),
        ("LR", float("inf")),
        ("MAX_GRAD_NORM", 0),
        ("MAX_GRAD_NORM", -1.0),
    ],
)
def test_a_constant_out_of_its_range_is_named(capsys, name, value):
    said = sentence(capsys, utils.check_constants, {**GOOD, name: value})
    assert said.startswith(f"{name} = {value!r}") and ": use any" in said


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"UPDATE_GLOBAL_ITER": 1, "MAX_EP": 1, "N_WORKERS": 1},
        {"GAMMA": 0},
        {"GAMMA": 1, "LR": 1},
        {"GAMMA": np.float64(0.5), "RENDER": True},
    ],
)
def test_constants_at_the_ends_of_their_ranges_pass(constants):
    assert utils.check_constants({**GOOD, **constants}) is None


def test_without_pygame_render_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert "pip install pygame" in sentence(capsys, utils.check_constants, {**GOOD, "RENDER": True})
    assert utils.check_constants(GOOD) is None


@pytest.mark.parametrize("module", [gym, gymnasium])
def test_the_environments_of_the_scripts_are_made_in_silence(module, recwarn):
    assert utils.make_env(module, "CartPole-v0", module.spaces.Discrete).action_space.n == 2
    assert utils.make_env(module, "Pendulum-v1", module.spaces.Box).action_space.shape == (1,)
    assert not [w for w in recwarn if "out of date" in str(w.message)]


class Unbounded(CountingEnv):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Image(CountingEnv):
    observation_space = gym.spaces.Box(0, 255, (84, 84, 3), np.uint8)


@pytest.mark.parametrize("module", [gym, gymnasium])
@pytest.mark.parametrize(
    "env_name, space, told",
    [
        ("Pendulum-v1", "Discrete", "the other script"),
        ("CartPole-v0", "Box", "the other script"),
        ("FrozenLake-v1", "Discrete", r"observations \(n,\)"),
        ("CartPool-v0", "Discrete", "change it"),
        ("CartPole-v99", "Discrete", "change it"),
        ("no_such_module:CartPole-v0", "Discrete", "change it"),
        ("CartPole v0", "Discrete", "change it"),
        (3, "Discrete", "change it"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(capsys, module, env_name, space, told):
    said = sentence(capsys, utils.make_env, module, env_name, getattr(module.spaces, space))
    assert repr(env_name) in said
    assert told.replace("\\", "") in said


@pytest.mark.parametrize(
    "env_class, space, told",
    [(Unbounded, gym.spaces.Box, "bounded"), (Image, gym.spaces.Discrete, "observations (n,)")],
)
def test_a_registered_environment_that_does_not_fit_is_named(
    capsys, monkeypatch, env_class, space, told
):
    fake = SimpleNamespace(make=lambda *args, **kwargs: env_class(), error=gym.error)
    assert told in sentence(capsys, utils.make_env, fake, "Mine-v0", space)


class Greedy:
    """Takes action 1 when greedy, and 0 when not."""

    def choose_action(self, s, greedy=False):
        assert s.shape == (1, 4) and s.dtype == torch.float32
        return int(greedy)


def test_evaluate_returns_the_mean_return_of_the_greedy_policy():
    env = CountingEnv(7)
    assert utils.evaluate(Greedy(), env, seed=3) == 7.0
    assert env.actions == [1] * 70
    assert env.seeds[0] == 3
    assert utils.evaluate(Greedy(), CountingEnv(9, truncates=True), seed=3, episodes=4) == 9.0


def test_evaluate_ends_where_an_episode_does_not():
    assert utils.evaluate(Greedy(), CountingEnv(10**9), seed=0, episodes=2, max_steps=50) == 50.0


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    yield tmp_path / "results"
    plt.close("all")


def test_picture_and_weights_are_saved(results, capsys):
    net = discrete_A3C.Net(4, 2)
    assert utils.save_results(net, [10.0, 20.0, 30.0], GOOD, 195.0)
    assert sorted(p.name for p in results.iterdir()) == ["CartPole-v0.png", "CartPole-v0.pt"]
    assert (results / "CartPole-v0.png").read_bytes().startswith(b"\x89PNG")
    saved = torch.load(results / "CartPole-v0.pt", weights_only=True)
    assert all(torch.equal(saved[name], p) for name, p in net.state_dict().items())
    told = capsys.readouterr().out
    assert str(results / "CartPole-v0.png") in told and str(results / "CartPole-v0.pt") in told

    ax = plt.gcf().axes[0]
    curve, threshold = ax.lines
    assert curve.get_xydata().tolist() == [[1, 10], [2, 20], [3, 30]]
    assert list(threshold.get_ydata()) == [195, 195]
    assert ax.get_xlabel() == "Episode" and "eturn" in ax.get_ylabel()
    for text in ("CartPole-v0", "GAMMA = 0.9", "LR = 0.0001", "UPDATE_GLOBAL_ITER = 5"):
        assert text in ax.get_title()
    plt.gcf().canvas.draw()
    title = ax.title.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= plt.gcf().bbox.width


def test_an_environment_without_a_threshold_gets_no_line(results):
    constants = {**GOOD, "ENV_NAME": "my_env:ALE/Pong-v5"}
    assert utils.save_results(continuous_A3C.Net(3, 1), [], constants, None)
    assert len(plt.gcf().axes[0].lines) == 1
    assert (results / "my_env-ALE-Pong-v5.pt").exists()


def test_results_that_cannot_be_written_are_one_sentence(results, capsys):
    results.write_text("a file, not a folder")
    assert utils.save_results(discrete_A3C.Net(4, 2), [1.0], GOOD, None) is False
    assert capsys.readouterr().err.count("\n") == 1
