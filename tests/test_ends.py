"""What stands before and after the training: constants, environments, evaluation, files."""

import ast
import re
import runpy
import signal
import sys
import threading
import warnings
from pathlib import Path
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
from shared_adam import SharedAdam

NAN = float("nan")
INF = float("inf")
SCRIPTS = [discrete_A3C, continuous_A3C]
KINDS = {discrete_A3C: "Discrete", continuous_A3C: "Box"}
OTHER = {discrete_A3C: continuous_A3C, continuous_A3C: discrete_A3C}
both = pytest.mark.parametrize("script", SCRIPTS, ids=["discrete", "continuous"])
either_gym = pytest.mark.parametrize("module", [gym, gymnasium], ids=["gym", "gymnasium"])


def sentence(call, *args, **options):
    """Return the sentence with which `call` ends the program."""
    with pytest.raises(SystemExit) as error:
        call(*args, **options)
    assert isinstance(error.value.code, str) and "\n" not in error.value.code
    return error.value.code


def constants_of(script):
    """Return the names of the constants at the top of a script, in their order."""
    tree = ast.parse(Path(script.__file__).read_text())
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def check(script, **changes):
    return utils.check_constants({**vars(script), **changes})


@both
def test_each_constant_of_a_script_is_checked_and_passes_as_shipped(script):
    names = constants_of(script)
    assert len(names) == len(set(names)) > 10
    shared = [name for name in utils.CONSTANTS if name != "FALL_REWARD"]
    assert [name for name in names if name != "FALL_REWARD"] == shared
    assert ("FALL_REWARD" in names) == (script is discrete_A3C)
    assert check(script) is None


@pytest.mark.parametrize(
    "name, values",
    [
        ("ENV_NAME", [3, None, b"CartPole-v0", ["CartPole-v0"]]),
        ("UPDATE_GLOBAL_ITER", [0, -1, 2.5, 5.0, "5", None, True]),
        ("GAMMA", [-0.1, 1.01, NAN, "0.9", None, True, False]),
        ("MAX_EP", [0, 10.5, "3000", None, True]),
        ("LR", [0, -1e-4, 1.01, 1e12, INF, NAN, None, "1e-4", True]),
        ("BETAS", [(0.9,), (0.9, 0.99, 0.999), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN)]),
        ("BETAS", [(0, 0.999), (0.9, 0), (False, 0.9), np.zeros(2, np.float32)]),
        ("BETAS", [0.9, None, "ab", (0.9, None), ("0.9", "0.99")]),
        ("ENTROPY_BETA", [-0.01, NAN, INF, None, "0.01", True, False]),
        ("MAX_GRAD_NORM", [0, -1.0, NAN, INF, "40", True, False]),
        ("REWARD_SCALE", [0, -16.0, NAN, INF, None, "16", True]),
        ("FALL_REWARD", [NAN, INF, "-1", True, False]),
        ("N_WORKERS", [0, -1, 2.0, None, True]),
        ("SEED", [-1, 2**63, 2**70, 0.5, None, False]),
        ("RENDER", [1, 0, "yes", "human", None]),
    ],
)
@both
def test_a_constant_that_cannot_work_is_named(script, name, values):
    for value in values:
        if hasattr(script, name):
            said = sentence(check, script, **{name: value})
            assert said.startswith(f"{name} = {value!r}: use "), value


def test_a_refusal_says_what_to_use_instead():
    said = {
        "GAMMA": (2, "a number from 0 to 1"),
        "LR": (0, "a number above 0, at most 1"),
        "BETAS": ((0, 0.9), "two numbers from 0.0 to below 1.0, such as (0.92, 0.999)"),
        "MAX_GRAD_NORM": (0, "a number above 0, or None"),
        "FALL_REWARD": ("-1", "a number, or None"),
        "SEED": (-1, "a whole number from 0 to 2**63 - 1"),
    }
    for name, (value, use) in said.items():
        wrong = {name: value}
        assert sentence(check, discrete_A3C, **wrong) == f"{name} = {value!r}: use {use}."


@pytest.mark.parametrize(
    "constants",
    [
        {"UPDATE_GLOBAL_ITER": 1, "MAX_EP": 1, "N_WORKERS": 1},
        {"GAMMA": 0, "LR": 1e-12, "ENTROPY_BETA": 0, "SEED": 0},
        {"GAMMA": 1, "LR": 1, "SEED": 2**63 - 1, "MAX_GRAD_NORM": 40},
        {"GAMMA": np.float64(0.5), "UPDATE_GLOBAL_ITER": np.int64(5), "LR": np.float32(0.1)},
        {"MAX_GRAD_NORM": None, "REWARD_SCALE": 1e-9, "FALL_REWARD": None},
        {"MAX_GRAD_NORM": 1e-9, "REWARD_SCALE": 1000, "FALL_REWARD": 0},
        {"RENDER": True, "ENV_NAME": "mine:Mine-v0"},
    ],
)
@both
def test_constants_at_the_ends_of_their_ranges_pass(script, constants):
    check(script, **constants)
    utils.seed_all(constants.get("SEED", 0))


@pytest.mark.parametrize(
    "betas", [(0.0, 0.0), [0.9, 0.99], (0.9, 0.999999), np.array([0.5, 0.6]), np.float64([0, 0.9])]
)
def test_betas_that_pass_are_betas_to_learn_with(betas):
    check(discrete_A3C, BETAS=betas)
    p = torch.nn.Parameter(torch.ones(1))
    opt = SharedAdam([p], betas=betas)
    p.sum().backward()
    opt.step()
    assert 0 < p.item() < 1


def test_what_a_program_does_not_have_is_not_checked():
    utils.check_constants({})
    utils.check_constants({"LR": 0.1, "MINE": None, "GAMMA_": 7})
    assert sentence(utils.check_constants, {"LR": 7}).startswith("LR = 7: use ")


def test_without_pygame_render_says_what_to_install(monkeypatch):
    monkeypatch.setattr(utils, "find_spec", lambda name: None if name == "pygame" else 1 / 0)
    assert "`pip install pygame-ce`" in sentence(check, discrete_A3C, RENDER=True)
    check(discrete_A3C, RENDER=False)
    utils.check_constants({"LR": 0.1})


@both
def test_only_what_is_to_be_shown_is_rendered(script, monkeypatch):
    made = []

    def make(env_name, disable_env_checker, **options):
        made.append((env_name, disable_env_checker, options))

    monkeypatch.setattr(script, "gym", SimpleNamespace(make=make))
    monkeypatch.setattr(script, "ENV_NAME", "Mine-v0")
    for render in ((), (False,), (True,), ("rgb_array",)):
        script.make_env(*render)
    # An environment that can't be shown need not know the word.
    options = [{}, {}, {"render_mode": "human"}, {"render_mode": "rgb_array"}]
    assert made == [("Mine-v0", True, shown) for shown in options]


def register(module, env_name, entry_point):
    """Register an environment with gym or gymnasium, in the place of one of that name."""
    module.envs.registry.pop(env_name, None)
    module.register(env_name, entry_point=entry_point)


def observing(module, action_space, shape):
    """Return a class of environments of gym or gymnasium that observe arrays of this shape."""

    class Env(module.Env):
        def __init__(self):
            self.action_space = action_space
            self.observation_space = module.spaces.Box(-np.inf, np.inf, shape)

    return Env


@either_gym
@both
def test_of_all_warnings_only_cartpoles_age_is_kept_back(script, module, monkeypatch):
    def make_own():
        warnings.warn("a warning of its own", stacklevel=1)
        return observing(module, module.spaces.Discrete(2), (4,))()

    register(module, "Warning-v0", make_own)
    monkeypatch.setattr(script, "gym", module)
    filters = warnings.filters[:]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for env_name in ("CartPole-v0", "Warning-v0"):
            monkeypatch.setattr(script, "ENV_NAME", env_name)
            script.make_env()
    messages = [str(warning.message) for warning in heard]
    assert "a warning of its own" in messages
    assert not any("out of date" in message for message in messages)
    assert warnings.filters == filters


def check_env(script, module, monkeypatch, env_name):
    """Check an environment as the main of `script` does, with gym or gymnasium."""
    monkeypatch.setattr(script, "gym", module)
    monkeypatch.setattr(script, "ENV_NAME", env_name)
    return utils.check_env(env_name, script.make_env, getattr(module.spaces, KINDS[script]))


@either_gym
def test_the_environments_of_the_scripts_are_made(module, monkeypatch):
    cartpole = check_env(discrete_A3C, module, monkeypatch, "CartPole-v0")
    pendulum = check_env(continuous_A3C, module, monkeypatch, "Pendulum-v1")
    assert cartpole.action_space.n == 2
    assert pendulum.action_space.shape == (1,)


# Told of what one script cannot learn, and whether the other one can.
@pytest.mark.parametrize(
    "script, env_name, told",
    [
        (discrete_A3C, "Pendulum-v1", "its actions are Box(-2.0, 2.0, (1,), float32). Use c"),
        (continuous_A3C, "CartPole-v0", "its actions are Discrete(2). Use discrete_A3C.py."),
        (discrete_A3C, "FrozenLake-v1", "its observations are Discrete(16), not vectors. "),
        (continuous_A3C, "FrozenLake-v1", "its observations are Discrete(16), not vectors. "),
        (discrete_A3C, "CartPool-v0", "change it, or install what it needs ("),
        (continuous_A3C, "CartPole-v99", "change it, or install what it needs ("),
        (discrete_A3C, "no_such_module:CartPole-v0", "change it, or install what it needs ("),
        (continuous_A3C, "CartPole v0", "change it, or install what it needs ("),
        (discrete_A3C, "", "change it, or install what it needs ("),
    ],
)
@either_gym
def test_an_environment_that_does_not_fit_is_named(script, module, monkeypatch, env_name, told):
    said = sentence(check_env, script, module, monkeypatch, env_name)
    assert said.startswith(f"ENV_NAME = {env_name!r}: {told}")
    use = re.search(r"Use (\w+_A3C)\.py", said)
    assert bool(use) == (env_name in ("Pendulum-v1", "CartPole-v0"))
    if use:
        assert use[1] == OTHER[script].__name__
        assert check_env(OTHER[script], module, monkeypatch, env_name)


# Environments of one's own that the script of that kind cannot learn: actions, observations, what
# is told.
MISFITS = {
    "Unbounded-v0": ("Box", lambda spaces: spaces.Box(-np.inf, np.inf, (2,)), (4,), "bounded"),
    "HalfBounded-v0": ("Box", lambda spaces: spaces.Box(0, np.inf, (2,)), (4,), "bounded"),
    "Matrix-v0": ("Box", lambda spaces: spaces.Box(-1, 1, (2, 2)), (4,), "bounded vector"),
    "Scalar-v0": ("Box", lambda spaces: spaces.Box(-1, 1, ()), (4,), "bounded vector"),
    "ImagesBox-v0": ("Box", lambda spaces: spaces.Box(-1, 1, (2,)), (84, 84, 3), "not vectors"),
    "ImagesDiscrete-v0": ("Discrete", lambda spaces: spaces.Discrete(2), (8, 8), "not vectors"),
    "NumberDiscrete-v0": ("Discrete", lambda spaces: spaces.Discrete(2), (), "not vectors"),
    "StartsAtOne-v0": ("Discrete", lambda spaces: spaces.Discrete(3, start=1), (4,), "from 0 on"),
    "Several-v0": ("Box", lambda spaces: spaces.MultiDiscrete([2, 3]), (4,), "Net of your own"),
    "Switches-v0": ("Discrete", lambda spaces: spaces.MultiBinary(3), (4,), "Net of your own"),
}


@either_gym
@pytest.mark.parametrize("env_name", MISFITS)
def test_an_environment_of_ones_own_that_does_not_fit_is_named(module, monkeypatch, env_name):
    kind, make_space, observed, told = MISFITS[env_name]
    (script,) = (script for script in SCRIPTS if KINDS[script] == kind)
    register(module, env_name, observing(module, make_space(module.spaces), observed))
    said = sentence(check_env, script, module, monkeypatch, env_name)
    assert said.startswith(f"ENV_NAME = {env_name!r}: its ") and told in said
    assert "_A3C.py" not in said


@either_gym
def test_an_environment_of_ones_own_that_fits_is_made(module, monkeypatch):
    box = module.spaces.Box(np.float32([-1, 0]), np.float32([1, 10]))
    register(module, "OwnBox-v0", observing(module, box, (4,)))
    three = module.spaces.Discrete(3, start=0)
    register(module, "OwnDiscrete-v0", observing(module, three, (4,)))
    assert check_env(continuous_A3C, module, monkeypatch, "OwnBox-v0").action_space == box
    assert check_env(discrete_A3C, module, monkeypatch, "OwnDiscrete-v0").action_space.n == 3


@either_gym
def test_eight_bounds_are_told_in_one_line(module, monkeypatch):
    low = -np.linspace(1, 2, 8, dtype=np.float32)
    register(module, "Eight-v0", observing(module, module.spaces.Box(low, -2 * low), (4,)))
    said = sentence(check_env, discrete_A3C, module, monkeypatch, "Eight-v0")
    assert "-1.142" in said and "Use continuous_A3C.py." in said


@either_gym
@both
def test_an_error_in_an_environment_of_ones_own_is_shown_whole(script, module, monkeypatch):
    def make_broken():
        raise ZeroDivisionError("a bug of its own")

    register(module, "Buggy-v0", make_broken)
    with pytest.raises(ZeroDivisionError, match="a bug of its own"):
        check_env(script, module, monkeypatch, "Buggy-v0")


@either_gym
@pytest.mark.parametrize("kind", ["ImportError", "DependencyNotInstalled"])
def test_what_an_environment_needs_is_told_in_one_line(module, monkeypatch, kind):
    error = getattr(module.error, kind, ImportError)

    def make_needy():
        raise error("box2D is missing,\n    run `pip install box2d`")

    register(module, "Needy-v0", make_needy)
    said = sentence(check_env, discrete_A3C, module, monkeypatch, "Needy-v0")
    assert "install what it needs (box2D is missing, run `pip install box2d`)." in said


MISTAKEN = [
    (discrete_A3C, "'Pendulum-v1'"),
    (continuous_A3C, "'CartPole-v0'"),
    (discrete_A3C, "'FrozenLake-v1'"),
    (continuous_A3C, "'CartPool-v0'"),
    (discrete_A3C, "'no_such_module:CartPole-v0'"),
    (discrete_A3C, "3"),
    (continuous_A3C, "None"),
]


@pytest.mark.parametrize("script, env_name", MISTAKEN)
def test_a_script_whose_environment_does_not_fit_can_be_imported(tmp_path, script, env_name):
    text, changed = Path(script.__file__).read_text(), tmp_path / "changed.py"
    changed.write_text(re.sub("^ENV_NAME = .*", f"ENV_NAME = {env_name}", text, flags=re.M))
    module = runpy.run_path(str(changed), run_name="changed")
    assert repr(module["ENV_NAME"]) == env_name
    assert (module["N_S"], module["N_A"]) == (None, None)
    assert {"Net", "Worker", "make_env"} <= set(module)


@pytest.mark.parametrize("file", [discrete_A3C.__file__, continuous_A3C.__file__, utils.__file__])
def test_an_import_leaves_warnings_and_ctrl_c_as_they_were(file):
    before = warnings.filters[:], signal.getsignal(signal.SIGINT)
    module = runpy.run_path(file, run_name="imported")
    assert (warnings.filters, signal.getsignal(signal.SIGINT)) == before
    assert "v_wrap" in module


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


class OtherTypes(CountingEnv):
    """Observes lists; its rewards are what `reward` makes of them."""

    def __init__(self, reward):
        super().__init__(5)
        self.reward = reward

    def observe(self):
        return [0.0, 1.0, 2.0, float(self.t)]

    def step(self, action):
        s, r, *ended = super().step(action)
        return s, self.reward(r), *ended


@pytest.mark.parametrize(
    "reward", [int, np.float32, np.array, lambda r: np.array([r]), lambda r: np.array([[r]])]
)
def test_evaluate_takes_lists_and_rewards_that_are_arrays_of_one_number(reward):
    mean = utils.evaluate(Greedy(), OtherTypes(reward), seed=0, episodes=2)
    assert type(mean) is float and mean == 5.0


@pytest.mark.parametrize("reward", [lambda r: np.array([r, r]), lambda r: None, lambda r: []])
def test_evaluate_refuses_rewards_that_are_not_one_number(reward):
    with pytest.raises(ValueError, match="A reward must be one number"):
        utils.evaluate(Greedy(), OtherTypes(reward), seed=0)


class SeedLong(CountingEnv):
    """An episode is as long as its seed says."""

    def reset(self, seed=None):
        self.length = seed
        return super().reset(seed)


@pytest.mark.parametrize("before, better", [(11.5, True), (12.5, False), (13.8, False)])
def test_the_greedy_policy_is_compared_with_itself_before_training(before, better, capsys):
    env = SeedLong()
    utils.print_greedy(Greedy(), env, 8, before)
    line, *more = capsys.readouterr().out.splitlines()
    assert line == f"Greedy policy: mean return {before} before, 12.5 after (8.0 to 17.0)"
    assert env.seeds == list(range(8, 18))
    no_better = "It is no better than before: train longer, or turn down LR (unless it is perfect)."
    assert more == ([] if better else [no_better])


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder in which utils saves, for this test."""
    monkeypatch.setattr(utils, "__file__", str(tmp_path / "utils.py"))
    answer = signal.getsignal(signal.SIGINT)
    yield tmp_path / "results"
    signal.signal(signal.SIGINT, answer)
    plt.close("all")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


TITLE = (
    "UPDATE_GLOBAL_ITER = 5, GAMMA = 0.9, MAX_EP = 3000, LR = 0.0002, BETAS = (0.92, 0.999), "
    "ENTROPY_BETA = 0.01, MAX_GRAD_NORM = None, REWARD_SCALE = 1.0, FALL_REWARD = -1.0, "
    "N_WORKERS = 2, SEED = 2"
)
ENDINGS = [".csv", ".png", ".pt"]


def save(res=(10.0, 20.0, 30.0), net=None, env_name="CartPole-v0", **options):
    """Save a run as a script does; returns what save_results returns."""
    return utils.save_results(net or discrete_A3C.Net(4, 2), res, env_name, TITLE, **options)


def averages_of(returns):
    """Return the moving averages that record makes of `returns`."""
    averages = [returns[0]]
    for r in returns[1:]:
        averages.append(0.99 * averages[-1] + 0.01 * r)
    return averages


def test_weights_table_and_picture_are_saved(results, capsys):
    net = discrete_A3C.Net(4, 2)
    assert save(averages_of([10.0, 20.0, 30.0]), net, threshold=195.0) is True
    assert names(results) == ["CartPole-v0-1.csv", "CartPole-v0-1.png", "CartPole-v0-1.pt"]
    paths = [results / f"CartPole-v0-1{ending}" for ending in (".pt", ".csv", ".png")]
    assert capsys.readouterr().out == "".join(f"Saved {path}\n" for path in paths)

    saved = torch.load(paths[0], weights_only=True)
    assert all(torch.equal(saved[name], p) for name, p in net.state_dict().items())
    assert paths[1].read_text().splitlines() == [
        f"# {TITLE}",
        "episode,return,average",
        "1,10,10",
        "2,20,10.1",
        "3,30,10.299",
    ]
    assert paths[2].read_bytes().startswith(b"\x89PNG")

    ax = plt.gcf().axes[0]
    returns, averages, threshold = ax.lines
    assert returns.get_xydata() == pytest.approx(np.array([[1, 10], [2, 20], [3, 30]]))
    assert averages.get_xydata() == pytest.approx(np.array([[1, 10], [2, 10.1], [3, 10.299]]))
    assert returns.get_alpha() < 0.5 and averages.get_alpha() is None  # faint, below the average
    assert list(threshold.get_ydata()) == [195, 195] and threshold.get_linestyle() == "--"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["return", "moving average (0.99)", "195"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Episode", "Return")
    assert " ".join(ax.get_title().split()) == f"CartPole-v0-1 {TITLE}"
    plt.gcf().canvas.draw()
    extent = ax.title.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= plt.gcf().bbox.width and extent.y1 <= 600


def test_the_table_holds_the_returns_that_were_averaged(results):
    rng = np.random.default_rng(0)
    returns = np.concatenate([[0.0, -1e5, 21.0, 1e-3], rng.normal(-1200, 400, 500)])
    averages = averages_of(list(returns))
    assert save(averages)
    table = np.loadtxt(results / "CartPole-v0-1.csv", delimiter=",", skiprows=2)
    assert table[:, 0].tolist() == list(range(1, len(returns) + 1))
    # Six digits, and what remains of 100 times the last digit of an average.
    assert table[:, 1] == pytest.approx(returns, rel=6e-6, abs=1e-9)
    assert table[:, 2] == pytest.approx(averages, rel=6e-6)


def test_an_environment_without_a_threshold_gets_no_line(results):
    assert save(net=continuous_A3C.Net(3, 1), env_name="my_env:ALE/Pong-v5")
    assert len(plt.gcf().axes[0].lines) == 2
    assert names(results) == [f"my_env-ALE-Pong-v5-1{ending}" for ending in ENDINGS]


def test_a_new_run_never_overwrites_an_earlier_one(results):
    assert save() and save(env_name="CartPole-v1") and save()
    before = {path: path.read_bytes() for path in results.iterdir()}
    assert {path.name for path in before} == {
        f"{name}{ending}"
        for name in ("CartPole-v0-1", "CartPole-v0-2", "CartPole-v1-1")
        for ending in ENDINGS
    }
    # Of the third run one file is left, of the fourth another, of the fifth half of one.
    for name in ("CartPole-v0-3.png", "CartPole-v0-4.csv", "CartPole-v0-5.pt.part"):
        (results / name).write_bytes(b"old")
        before[results / name] = b"old"
    assert save()
    new = {path.name for path in results.iterdir() if path not in before}
    assert new == {f"CartPole-v0-6{ending}" for ending in ENDINGS}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_runs_that_begin_at_once_never_share_a_number(results):
    start, runs = threading.Barrier(8), []

    def begin():
        start.wait()
        for _ in range(5):
            runs.append(str(utils.new_run("Mine-v0")))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=begin) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(runs) == sorted(str(results / f"Mine-v0-{n}") for n in range(1, 41))


def test_a_run_that_took_its_number_at_the_beginning_keeps_it(results):
    run = utils.new_run("CartPole-v0")
    assert names(results) == ["CartPole-v0-1.pt"]
    assert save() and save(run=run)
    both_runs = [f"CartPole-v0-{number}{ending}" for number in (1, 2) for ending in ENDINGS]
    assert names(results) == both_runs
    assert torch.load(f"{run}.pt", weights_only=True)


def test_without_an_episode_nothing_is_saved(results, capsys):
    assert save([]) is True
    assert not results.exists()
    run = utils.new_run("CartPole-v0")
    assert save([], run=run) is True
    assert names(results) == []
    kept = utils.new_run("CartPole-v0")
    utils.save_weights(discrete_A3C.Net(4, 2), kept)  # as long runs do now and then
    capsys.readouterr()
    assert save([], run=kept) is True
    assert names(results) == ["CartPole-v0-1.pt"]
    assert capsys.readouterr().out == "Nothing to save: no episode has ended.\n"


def test_results_that_cannot_be_written_are_one_sentence(results, capsys):
    results.write_text("a file, not a folder")
    assert save() is False
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch("Not saved: .*results.*\n", err)
    assert results.read_text() == "a file, not a folder"


FULL = "[Errno 28] No space left on device"


@pytest.mark.parametrize("n_whole, left", [(0, []), (1, [".pt"]), (2, [".csv", ".pt"])])
def test_a_disk_that_fills_up_leaves_whole_files_alone(results, monkeypatch, capsys, n_whole, left):
    whole = utils.Path.write_bytes
    written = []

    def write_half(path, content):
        written.append(path)
        if len(written) <= n_whole:
            return whole(path, content)
        whole(path, content[:1])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(utils.Path, "write_bytes", write_half)
    assert save() is False
    assert names(results) == [f"CartPole-v0-1{ending}" for ending in left]
    assert all(path.stat().st_size > 50 for path in results.iterdir())
    out, err = capsys.readouterr()
    assert out.count("Saved ") == n_whole
    assert re.fullmatch(rf"Not saved: {re.escape(FULL)}: .*\. Make room, or .*\n", err)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, capsys):
    path = tmp_path / "Mine-1.csv"
    utils.write_whole(path, b"old")
    assert (path.read_bytes(), capsys.readouterr().out) == (b"old", f"Saved {path}\n")
    whole = utils.Path.write_bytes

    def write_half(path, content):
        whole(path, content[:1])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(utils.Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        utils.write_whole(path, b"new")
    assert (names(tmp_path), path.read_bytes()) == (["Mine-1.csv"], b"old")
    monkeypatch.undo()
    (tmp_path / "Mine-2.csv").mkdir()  # a folder that stands in the way
    with pytest.raises(OSError):
        utils.write_whole(tmp_path / "Mine-2.csv", b"new")
    assert names(tmp_path) == ["Mine-1.csv", "Mine-2.csv"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ending", ["well", "without an episode", "on a full disk", "in an error"])
def test_ctrl_c_waits_until_all_is_saved(results, monkeypatch, ending):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = []

    def press(call, error=None):
        def pressed(*args):
            answers.append(signal.getsignal(signal.SIGINT))
            signal.raise_signal(signal.SIGINT)
            if error is not None:
                raise error
            return call(*args)

        return pressed

    error = {"on a full disk": OSError("full"), "in an error": ZeroDivisionError("a bug")}
    monkeypatch.setattr(utils, "write_whole", press(utils.write_whole, error.get(ending)))
    monkeypatch.setattr(utils, "free_number", press(utils.free_number))
    if ending == "in an error":
        with pytest.raises(ZeroDivisionError, match="a bug"):
            save()
    else:
        assert save([] if ending == "without an episode" else [1.0]) is (ending[0] == "w")
    assert answers and set(answers) == {signal.SIG_IGN}
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_thread_that_is_not_the_main_one_saves_too(results):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    saved = []
    thread = threading.Thread(target=lambda: saved.append(save()))
    thread.start()
    thread.join(30)
    assert saved == [True]
    assert names(results) == [f"CartPole-v0-1{ending}" for ending in ENDINGS]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_runs_one_after_the_other_draw_in_one_figure(results):
    for threshold in (195.0, None, None):
        assert save(threshold=threshold)
        assert len(plt.get_fignums()) == 1
    assert len(plt.gcf().axes) == 1 and len(plt.gcf().axes[0].lines) == 2


GONE = """
from matplotlib.backends.backend_agg import FigureCanvasAgg

class FigureCanvas(FigureCanvasAgg):
    @classmethod
    def new_manager(cls, figure, num):
        raise RuntimeError("the display is gone")
"""


def test_a_display_that_is_gone_is_no_error(results, tmp_path, monkeypatch):
    (tmp_path / "gone.py").write_text(GONE)
    monkeypatch.syspath_prepend(tmp_path)
    backend = plt.get_backend()
    try:
        plt.switch_backend("module://gone")
        with pytest.raises(RuntimeError, match="the display is gone"):
            plt.figure()
        assert save() is True
    finally:
        plt.switch_backend(backend)
    assert names(results) == [f"CartPole-v0-1{ending}" for ending in ENDINGS]


def test_the_picture_is_shown_without_a_word_where_there_is_no_display(results, monkeypatch):
    plt.switch_backend("agg")
    assert save()
    filters = warnings.filters[:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        utils.show_picture()
        monkeypatch.setattr(plt, "show", lambda: warnings.warn("another one", stacklevel=1))
        with pytest.raises(UserWarning, match="another one"):
            utils.show_picture()
    assert warnings.filters == filters


def test_weights_that_a_run_saved_are_loaded(results):
    net, other = discrete_A3C.Net(4, 2), discrete_A3C.Net(4, 2)
    run = utils.new_run("CartPole-v0")
    utils.save_weights(net, run)
    utils.load_weights(other, f"{run}.pt")
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters()))


def test_what_is_no_weights_of_the_network_is_named(results):
    run = utils.new_run("CartPole-v0")  # empty: this run has not saved yet
    utils.save_weights(continuous_A3C.Net(3, 1), f"{run}-other")
    Path(f"{run}-text.pt").write_text("no weights")
    torch.save([1, 2], f"{run}-list.pt")
    for path in (f"{run}.pt", f"{run}-other.pt", f"{run}-text.pt", f"{run}-list.pt", str(results)):
        said = sentence(utils.load_weights, discrete_A3C.Net(4, 2), path)
        assert said.startswith(f"{path!r}: no weights of discrete_A3C.Net (")
        assert said.endswith("; train again, or change the name.")
    path = str(results / "CartPole-v0-7.pt")
    said = sentence(utils.load_weights, discrete_A3C.Net(4, 2), path)
    assert said == f"{path!r}: there is no such file; train first, or change the name."
