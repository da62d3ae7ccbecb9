"""The programs in examples/ run, as they lie here and as copies; three have tests of their own."""

import ast
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import continuous_A3C
import discrete_A3C
import utils
from examples import catch, catch_pixels, compare, memory, watch
from experiments.lab import ROOT

COPIED = ["catch", "catch_pixels", "memory", "atari", "cluster"]


@pytest.mark.parametrize("module", [catch, catch_pixels])
def test_the_rules_of_catch(module):
    env = module.make_env()
    s, _ = env.reset(seed=0)
    assert s.shape == env.observation_space.shape and env.observation_space.contains(s)
    for move in (-1, 0, 1):
        env.reset()
        env.ball = 5
        env.paddle = 5 - move
        for step in range(7):
            s, r, terminated, truncated, _ = env.step(1 + move if step == 0 else 1)
            assert (r, terminated, truncated) == (float(step == 6), step == 6, False)
            assert env.observation_space.contains(s)
    for ball, paddle, action in ((5, 0, 0), (0, 7, 2)):
        env.reset()
        env.ball = ball
        env.paddle = paddle
        rewards = [env.step(action)[1] for _ in range(7)]
        assert rewards == [0, 0, 0, 0, 0, 0, -1]
        assert env.paddle == paddle


def test_pixels_show_what_catch_shows():
    small = catch.make_env()
    large = catch_pixels.make_env()
    s, _ = small.reset(seed=3)
    t, _ = large.reset(seed=3)
    assert np.array_equal(t[0, ::10, ::10], s.reshape(8, 8))
    assert np.array_equal(t[0, 9::10, 9::10], s.reshape(8, 8))
    assert np.array_equal(small.render(), large.render())
    assert small.render().shape == (80, 80, 3) and small.render().max() == 255


def worker_lines(path):
    """Return the docstring of Worker in the file at `path`, and its code, without comments."""
    tree = ast.parse(path.read_text())
    (worker,) = [node for node in tree.body if getattr(node, "name", None) == "Worker"]
    docstring = ast.get_docstring(worker)
    worker.body = worker.body[1:]
    return docstring, ast.unparse(worker).splitlines()


def differences(ours, theirs):
    """Return the lines that only one of two lists has, however often the other has them."""
    return [line for line in ours if line not in theirs] + [
        line for line in theirs if line not in ours
    ]


@pytest.mark.parametrize("name", COPIED)
def test_a_worker_differs_only_in_what_its_docstring_announces(name):
    _, original = worker_lines(ROOT / "discrete_A3C.py")
    docstring, lines = worker_lines(ROOT / "examples" / f"{name}.py")
    announced = re.findall(r"`(\w+)`", docstring)
    for line in differences(lines, original):
        assert any(re.search(rf"\b{word}\b", line) for word in announced), line


def copy_of(tmp_path, name):
    """Copy an example with the two files that it needs, and nothing else, to an empty folder."""
    for path in ("utils.py", "shared_adam.py", f"examples/{name}.py"):
        shutil.copy(ROOT / path, tmp_path)


SHORT = {"catch": {"MAX_EP": 40}, "catch_pixels": {"MAX_EP": 20}, "memory": {"MAX_EP": 40}}


@pytest.mark.parametrize("name", SHORT)
def test_a_copy_beside_the_two_files_runs(forks, copy, tmp_path, name):
    shutil.rmtree(copy.folder)
    copy.folder.mkdir()
    copy_of(copy.folder, name)
    copy.set_constants(f"{name}.py", SHORT[name])
    run = copy.run_python(f"{name}.py")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^\d\d episodes in \d+\.\d s, \d+ env steps/s$", run.stdout, re.MULTILINE)
    assert re.search(r"^Greedy policy: mean return \S+ before, \S+ after", run.stdout, re.M)
    title = {"catch": "Catch", "catch_pixels": "CatchPixels", "memory": "DarkCatch"}[name]
    assert copy.saved() == [f"{title}-1.csv", f"{title}-1.png", f"{title}-1.pt"]


def test_an_environment_of_ones_own_sizes_the_network(forks, copy):
    copy.change("examples/catch.py", "gym.spaces.Discrete(3)", "gym.spaces.Discrete(5)")
    copy.set_constants("examples/catch.py", SHORT["catch"])
    run = copy.run_python("-m", "examples.catch")
    assert run.returncode == 0, run.stderr
    weights = torch.load(copy.folder / "results" / "Catch-1.pt", weights_only=True)
    assert weights["pi2.bias"].shape == (5,)


CHANGED = {
    "UPDATE_GLOBAL_ITER": 3,
    "GAMMA": 0.5,
    "LR": 1e-2,
    "BETAS": (0.5, 0.5),
    "ENTROPY_BETA": 1e6,
    "MAX_GRAD_NORM": 1e-3,
    "REWARD_SCALE": 1e3,
    "SEED": 5,
}


def weights_of_a_run(module, monkeypatch, **changes):
    """Return the weights that one worker of `module`, in this process, ends with."""
    for name, value in {"MAX_EP": 3, "N_WORKERS": 1, **changes}.items():
        monkeypatch.setattr(module, name, value)
    utils.seed_all(module.SEED)
    gnet = module.Net(module.N_S, module.N_A)
    opt = module.SharedAdam(gnet.parameters(), lr=module.LR, betas=module.BETAS)
    shared = module.mp.Value("i", 0), module.mp.Value("d", 0.0), module.mp.SimpleQueue()
    module.Worker(gnet, opt, *shared, 0).run()
    return torch.cat([p.detach().flatten() for p in gnet.parameters()])


@pytest.mark.parametrize("module", [catch, catch_pixels, memory])
def test_each_constant_of_an_example_changes_what_is_learned(module, monkeypatch):
    with monkeypatch.context() as context:
        before = weights_of_a_run(module, context)
    with monkeypatch.context() as context:
        assert torch.equal(weights_of_a_run(module, context), before)
    for name, value in {**CHANGED, "MAX_EP": 4}.items():
        with monkeypatch.context() as context:
            after = weights_of_a_run(module, context, **{name: value})
        assert not torch.equal(after, before), name


# A paddle that moves at random, or not at all, is under the ball once or twice in eight: -0.8.
@pytest.mark.timeout(150)
def test_catch_is_learned(forks, copy):
    run = copy.run_python("-m", "examples.catch", timeout=140)
    greedy = re.search(r"Greedy policy: mean return \S+ before, (\S+) after", run.stdout)
    assert float(greedy[1]) > 0.3, run.stderr


@pytest.mark.parametrize(
    "module", [discrete_A3C, continuous_A3C, catch, catch_pixels, memory], ids=lambda m: m.__name__
)
def test_what_a_run_saved_becomes_an_animation(module, tmp_path, monkeypatch):
    weights = tmp_path / "Run-1.pt"
    net = module.Net(module.N_S, module.N_A)
    utils.save_weights(net, tmp_path / "Run-1")
    utils.load_weights(net, str(weights))
    monkeypatch.setattr(watch, "PROGRAM", module.__name__)
    env = watch.open_env(watch.find_program(module.__name__), True, net)
    utils.evaluate(net, env, seed=1, episodes=1, max_steps=6)
    env.write(tmp_path / "Run-1.gif")
    with Image.open(tmp_path / "Run-1.gif") as animation:
        assert animation.n_frames >= 1 and animation.width >= 40
    assert len(env.frames) == 3  # one of two


def test_watch_opens_a_window_where_there_is_one_and_draws_where_there_is_none(copy):
    results = copy.folder / "results"
    results.mkdir()
    net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
    utils.save_weights(net, results / "CartPole-v0-1")
    copy.set_constants("examples/watch.py", {"EPISODES": 2, "MAX_STEPS": 20})
    run = copy.run_python("-m", "examples.watch", environ={"SDL_VIDEODRIVER": "dummy"})
    assert run.returncode == 0, run.stderr
    assert re.findall(r"^Episode (\d): return \d+\.\d\d$", run.stdout, re.M) == ["1", "2"]
    assert copy.saved() == ["CartPole-v0-1.pt"]
    run = copy.run_python("-m", "examples.watch")
    assert run.returncode == 0, run.stderr
    assert "Saved results/CartPole-v0-1.gif" in run.stdout
    assert copy.saved() == ["CartPole-v0-1.gif", "CartPole-v0-1.pt"]


def test_what_cannot_be_watched_is_named(monkeypatch):
    def sentence(call, *arguments):
        with pytest.raises(SystemExit) as error:
            call(*arguments)
        assert "\n" not in error.value.code
        return error.value.code

    assert "'no_program'" in sentence(watch.find_program, "no_program")
    monkeypatch.setattr(discrete_A3C, "N_S", None)
    monkeypatch.setattr(discrete_A3C, "ENV_NAME", "CartPool-v0")
    assert "'CartPool-v0' does not fit" in sentence(watch.find_program, "discrete_A3C")
    monkeypatch.setitem(sys.modules, "pygame", None)
    said = sentence(watch.open_env, discrete_A3C, True, None)
    assert said.startswith("PROGRAM = 'discrete_A3C'")
    monkeypatch.setattr(discrete_A3C, "ENV_NAME", "CartPole-v0")
    assert "pip install pygame-ce" in sentence(watch.open_env, discrete_A3C, True, None)


def save_run(folder, name, title, res, monkeypatch):
    monkeypatch.setattr(utils, "__file__", str(folder / "utils.py"))
    net = torch.nn.Linear(2, 2)
    assert utils.save_results(net, res, "Mine-v0", title)
    return folder / "results" / f"{name}.csv"


def test_runs_are_compared_by_the_constants_in_which_they_differ(tmp_path, monkeypatch):
    first = "GAMMA = 0.9, BETAS = (0.92, 0.999), LR = 0.1, SEED = 0"
    second = "GAMMA = 0.9, BETAS = (0.9, 0.99), LR = 0.1, SEED = 0, REWARD_SCALE = 2.0"
    one = save_run(tmp_path, "Mine-v0-1", first, [1.0, 3.0, 2.0], monkeypatch)
    two = save_run(tmp_path, "Mine-v0-2", second, [5.0], monkeypatch)
    runs = [compare.read_run(path) for path in (one, two)]
    assert [averages.tolist() for _, averages in runs] == [[1.0, 3.0, 2.0], [5.0]]
    assert runs[0][0] == {
        "GAMMA": "0.9",
        "BETAS": "(0.92, 0.999)",
        "LR": "0.1",
        "SEED": "0",
    }
    assert compare.labels_of([constants for constants, _ in runs]) == [
        "BETAS = (0.92, 0.999)",
        "BETAS = (0.9, 0.99), REWARD_SCALE = 2.0",
    ]
    assert compare.find_runs([f"Mine-{n}.csv" for n in (10, 9)])[0].name == "Mine-9.csv"
    absolute = str(one.with_name("Mine-v0-*.csv"))  # as a run prints it
    assert [path.name for path in compare.find_runs(absolute)] == [one.name, two.name]
    two.write_text("no run\n1,2\n3,4\n")
    with pytest.raises(SystemExit, match="is not a csv that a run has saved"):
        compare.read_run(two)


def test_compare_draws_what_runs_left(forks, copy, monkeypatch):
    title = "GAMMA = 0.9"
    save_run(copy.folder, "Mine-v0-1", title, [1.0, 3.0], monkeypatch)
    copy.set_constants("examples/compare.py", {"RUNS": "results/Mine-v0-*.csv"})
    run = copy.run_python("-m", "examples.compare")
    assert (run.returncode, run.stdout) == (0, "Saved results/compare.png\n"), run.stderr
    copy.set_constants("examples/compare.py", {"RUNS": "results/Other-*.csv"})
    run = copy.run_python("-m", "examples.compare")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("RUNS = 'results/Other-*.csv': ")
