"""What stands before and after the training: constants, environments, evaluation, files."""

import os
import sys

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

# The constants that are checked, as shipped, in the order of check_constants.
SHIPPED = {
    "UPDATE_GLOBAL_ITER": 5,
    "GAMMA": 0.9,
    "MAX_EP": 3000,
    "LR": 1e-4,
    "BETAS": (0.92, 0.999),
    "ENTROPY_BETA": 0.01,
    "MAX_GRAD_NORM": None,
    "N_WORKERS": 2,
    "SEED": 0,
    "RENDER": False,
}
NAN = float("nan")
INF = float("inf")


def check(**changes):
    constants = {**SHIPPED, **changes}
    assert list(constants) == list(SHIPPED)
    return utils.check_constants(*constants.values())


def sentence(call, *args, **options):
    """Return the sentence with which `call` ends the program."""
    with pytest.raises(SystemExit) as error:
        call(*args, **options)
    assert isinstance(error.value.code, str) and "\n" not in error.value.code
    return error.value.code


@pytest.mark.parametrize(
    "name, values",
    [
        ("UPDATE_GLOBAL_ITER", [0, -1, 2.5, "5", None]),
        ("GAMMA", [-0.1, 1.01, NAN, "0.9", None]),
        ("MAX_EP", [0, 10.5, "3000", None]),
        ("LR", [0, -1e-4, 1.01, 1e12, INF, NAN, None, "1e-4"]),
        ("BETAS", [(0.9,), (0.9, 0.99, 0.999), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN)]),
        ("BETAS", [0.9, None, "ab", (0.9, None), ("0.9", "0.99")]),
        ("ENTROPY_BETA", [-0.01, NAN, INF, None, "0.01"]),
        ("MAX_GRAD_NORM", [0, -1.0, NAN, "40"]),
        ("N_WORKERS", [0, -1, 2.0, None]),
        ("SEED", [-1, 2**70, 0.5, None]),
        ("RENDER", [1, "yes", None]),
    ],
)
def test_a_constant_that_cannot_work_is_named(name, values):
    for value in values:
        said = sentence(check, **{name: value})
        assert said.startswith(f"{name} = {value!r}: use ")


def test_a_refusal_says_what_to_use_instead():
    assert sentence(check, GAMMA=2) == "GAMMA = 2: use a value from 0 to 1."
    assert sentence(check, SEED=-1).startswith("SEED = -1: use a whole number from 0 to ")
    assert "use two numbers from 0 to below 1, such as (" in sentence(check, BETAS=None)


@pytest.mark.parametrize(
    "constants",
    [
        {"UPDATE_GLOBAL_ITER": 1, "MAX_EP": 1, "N_WORKERS": 1},
        {"GAMMA": 0, "LR": 1e-12, "ENTROPY_BETA": 0},
        {"GAMMA": 1, "LR": 1, "SEED": 2**63 - 1, "MAX_GRAD_NORM": INF},
        {"GAMMA": np.float64(0.5), "UPDATE_GLOBAL_ITER": np.int64(5)},
        {"BETAS": (0, 0.0)},
        {"BETAS": [0.9, 0.99]},
        {"RENDER": True},
    ],
)
def test_constants_at_the_ends_of_their_ranges_pass(constants):
    check(**constants)


def test_what_is_learned_with_comes_back_as_a_title():
    assert check(GAMMA=0.5, MAX_GRAD_NORM=40) == (
        "UPDATE_GLOBAL_ITER = 5, GAMMA = 0.5, LR = 0.0001, BETAS = (0.92, 0.999), "
        "ENTROPY_BETA = 0.01, MAX_GRAD_NORM = 40, N_WORKERS = 2, SEED = 0"
    )


def test_without_pygame_render_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    monkeypatch.setattr(utils, "find_spec", lambda name: None)
    assert "pip install pygame" in sentence(check, RENDER=True)
    check(RENDER=False)


@pytest.mark.parametrize("module", [gym, gymnasium])
def test_the_environments_of_the_scripts_are_made(module):
    cartpole = utils.make_env(module.make, "CartPole-v0", module.spaces.Discrete)
    pendulum = utils.make_env(module.make, "Pendulum-v1", module.spaces.Box)
    assert cartpole.action_space.n == 2
    assert pendulum.action_space.shape == (1,)


def test_only_what_is_to_be_shown_is_rendered():
    modes = []

    def make(env_name, disable_env_checker, **options):
        modes.append(options)
        return CountingEnv()

    utils.make_env(make, "Mine-v0", gym.spaces.Discrete)
    utils.make_env(make, "Mine-v0", gym.spaces.Discrete, True)
    # An environment that can't be shown need not know the word.
    assert modes == [{}, {"render_mode": "human"}]


@pytest.mark.parametrize("module", [gym, gymnasium])
@pytest.mark.parametrize(
    "env_name, space, told",
    [
        ("Pendulum-v1", "Discrete", "the other script"),
        ("CartPole-v0", "Box", "the other script"),
        ("FrozenLake-v1", "Discrete", "observations (n,)"),
        ("CartPool-v0", "Discrete", "change it"),
        ("CartPole-v99", "Discrete", "change it"),
        ("no_such_module:CartPole-v0", "Discrete", "change it"),
        ("CartPole v0", "Discrete", "change it"),
        (3, "Discrete", "change it"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(module, env_name, space, told):
    said = sentence(utils.make_env, module.make, env_name, getattr(module.spaces, space))
    assert said.startswith(f"ENV_NAME = {env_name!r}: ")
    assert told in said


# Environments that are not ours: their actions, the shape of what they observe, what is told.
MISFITS = {
    "Unbounded-v0": (lambda spaces: spaces.Box(-np.inf, np.inf, (2,)), (4,), "bounded Box"),
    "HalfBounded-v0": (lambda spaces: spaces.Box(0, np.inf, (2,)), (4,), "bounded Box"),
    "Matrix-v0": (lambda spaces: spaces.Box(-1, 1, (2, 2)), (4,), "bounded Box"),
    "ImagesBox-v0": (lambda spaces: spaces.Box(-1, 1, (2,)), (84, 84, 3), "observations (n,)"),
    "ImagesDiscrete-v0": (lambda spaces: spaces.Discrete(2), (84, 84, 3), "observations (n,)"),
    "StartsAtOne-v0": (lambda spaces: spaces.Discrete(3, start=1), (4,), "Discrete: from 0 on"),
}


def register(module, env_name, action_space, observed):
    """Register with gym or gymnasium an environment that observes arrays of shape `observed`."""

    class Env(module.Env):
        def __init__(self):
            self.action_space = action_space
            self.observation_space = module.spaces.Box(-np.inf, np.inf, observed)

    module.register(env_name, entry_point=Env)


@pytest.mark.parametrize("module", [gym, gymnasium])
@pytest.mark.parametrize("env_name", MISFITS)
def test_an_environment_of_ones_own_that_does_not_fit_is_named(module, env_name):
    make_space, observed, told = MISFITS[env_name]
    action_space = make_space(module.spaces)
    register(module, env_name, action_space, observed)
    said = sentence(utils.make_env, module.make, env_name, type(action_space))
    assert said.startswith(f"ENV_NAME = {env_name!r}: ")
    assert told in said


@pytest.mark.parametrize("module", [gym, gymnasium])
def test_an_environment_of_ones_own_that_fits_is_made(module):
    box = module.spaces.Box(-1, 1, (2,))
    register(module, "OwnBox-v0", box, (4,))
    register(module, "OwnDiscrete-v0", module.spaces.Discrete(3, start=0), (4,))
    assert utils.make_env(module.make, "OwnBox-v0", module.spaces.Box).action_space == box
    assert utils.make_env(module.make, "OwnDiscrete-v0", module.spaces.Discrete).action_space.n == 3


@pytest.mark.parametrize("module", [gym, gymnasium])
def test_an_error_in_an_environment_of_ones_own_is_shown_whole(module):
    def make_broken():
        raise ZeroDivisionError("a bug of its own")

    module.register("Buggy-v0", entry_point=make_broken)
    with pytest.raises(ZeroDivisionError, match="a bug of its own"):
        utils.make_env(module.make, "Buggy-v0", module.spaces.Discrete)


class Greedy:
    """Takes action 1 when greedy, and 0 when not."""

    def choose_action(self, s, greedy=False):
        assert s.shape == (1, 4) and s.dtype == torch.float32
        return int(greedy)


def test_evaluate_returns_the_mean_return_of_the_greedy_policy():
    env = CountingEnv(7)
    assert utils.evaluate(Greedy(), env, seed=3) == 7.0
    assert env.actions == [1] * 70
    assert env.seeds == list(range(3, 13))
    assert utils.evaluate(Greedy(), CountingEnv(9, truncates=True), seed=3, episodes=4) == 9.0


def test_evaluate_ends_where_an_episode_does_not():
    assert utils.evaluate(Greedy(), CountingEnv(10**9), seed=0, episodes=2, max_steps=50) == 50.0


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    yield tmp_path / "results"
    plt.close("all")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_picture_and_weights_are_saved(results, capsys):
    net = discrete_A3C.Net(4, 2)
    title = check()
    assert utils.save_results(net, [10.0, 20.0, 30.0], "CartPole-v0", title, 195.0) is True
    assert names(results) == ["CartPole-v0.png", "CartPole-v0.pt"]
    assert (results / "CartPole-v0.png").read_bytes().startswith(b"\x89PNG")
    saved = torch.load(results / "CartPole-v0.pt", weights_only=True)
    assert all(torch.equal(saved[name], p) for name, p in net.state_dict().items())
    told = capsys.readouterr().out
    assert told == f"Saved {results / 'CartPole-v0.pt'}\nSaved {results / 'CartPole-v0.png'}\n"

    ax = plt.gcf().axes[0]
    curve, threshold = ax.lines
    assert curve.get_xydata().tolist() == [[1, 10], [2, 20], [3, 30]]
    assert list(threshold.get_ydata()) == [195, 195]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Episode", "Return")
    assert ax.get_title() == f"CartPole-v0\n{title}"
    plt.gcf().canvas.draw()
    extent = ax.title.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= plt.gcf().bbox.width


def test_an_environment_without_a_threshold_gets_no_line(results):
    assert utils.save_results(continuous_A3C.Net(3, 1), [], "my_env:ALE/Pong-v5", check())
    assert len(plt.gcf().axes[0].lines) == 1
    assert names(results) == ["my_env-ALE-Pong-v5.png", "my_env-ALE-Pong-v5.pt"]


def test_results_that_cannot_be_written_are_one_sentence(results, capsys):
    results.write_text("a file, not a folder")
    assert utils.save_results(discrete_A3C.Net(4, 2), [1.0], "CartPole-v0", check()) is False
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("Not saved: ") for line in lines)


def test_a_disk_that_is_full_half_way_leaves_the_old_file_and_nothing_else(
    results, monkeypatch, capsys
):
    data = utils.io.BytesIO(b"new")
    assert utils.write_whole("CartPole-v0.pt", utils.io.BytesIO(b"old")) is True

    def write_half(path, content):
        with open(path, "wb") as file:
            file.write(content[:1])
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(utils.Path, "write_bytes", write_half)
    assert utils.write_whole("CartPole-v0.pt", data) is False
    assert names(results) == ["CartPole-v0.pt"]
    assert (results / "CartPole-v0.pt").read_bytes() == b"old"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Not saved: ") and "Make room" in line


def test_a_file_that_cannot_take_its_place_leaves_nothing_else(results, capsys):
    (results / "CartPole-v0.pt").mkdir(parents=True)  # a folder that stands in the way
    assert utils.write_whole("CartPole-v0.pt", utils.io.BytesIO(b"new")) is False
    assert names(results) == ["CartPole-v0.pt"]
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("lost", ["CartPole-v0.pt", "CartPole-v0.png"])
def test_one_file_that_is_not_saved_is_told(results, monkeypatch, lost):
    monkeypatch.setattr(utils, "write_whole", lambda name, data: name != lost)
    assert utils.save_results(discrete_A3C.Net(4, 2), [1.0], "CartPole-v0", check()) is False
