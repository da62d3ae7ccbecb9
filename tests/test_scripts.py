"""Both scripts, run as a user runs them: copies, with constants edited."""

import ast
import difflib
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch.multiprocessing as mp

import continuous_A3C
import discrete_A3C
import utils
from conftest import episodes
from experiments.lab import ROOT

SCRIPTS = {"discrete_A3C.py": discrete_A3C, "continuous_A3C.py": continuous_A3C}
both = pytest.mark.parametrize("script", SCRIPTS)
ENDINGS = [".csv", ".png", ".pt"]


def returns_of(copy, run_name):
    """Return the returns in the table of a run that the copy has saved."""
    path = copy.folder / "results" / f"{run_name}.csv"
    return np.loadtxt(path, delimiter=",", skiprows=2, ndmin=2)[:, 1]


def check_end(copy, stdout, env_name, number=1):
    """Check what stands in `stdout` below the lines of a run's episodes, and what it saved.

    Returns the number of episodes and the greedy policy's mean return before and after.
    """
    averages = episodes(stdout)
    below = stdout.splitlines()[len(averages) :]
    run = copy.folder / "results" / f"{env_name}-{number}"
    assert below[:3] == [f"Saved {run}{ending}" for ending in (".pt", ".csv", ".png")]
    assert re.fullmatch(rf"{len(averages)} episodes in \d+\.\d s, [1-9]\d* env steps/s", below[3])
    number = r"(-?\d+\.\d)"
    line = rf"Greedy policy: mean return {number} before, {number} after \({number} to {number}\)"
    before, after, lowest, highest = map(float, re.fullmatch(line, below[4]).groups())
    assert lowest <= after <= highest
    no_better = "It is no better than before: train longer, or turn down LR (unless it is perfect)."
    assert below[5:] in ([], [no_better]) and (after >= before or below[5:])
    table = Path(f"{run}.csv").read_text().splitlines()
    assert len(table) == 2 + len(averages) == 2 + len(returns_of(copy, run.name))
    assert float(table[-1].split(",")[2]) == pytest.approx(averages[-1], abs=0.006)
    assert Path(f"{run}.png").read_bytes().startswith(b"\x89PNG")
    return len(averages), before, after


@both
def test_an_environment_that_gym_make_has_not_made_has_no_spec_and_is_saved(copy, run_here, script):
    made = "        return gym.make(ENV_NAME, disable_env_checker=True, **options)\n"
    without = made.replace("return", "env =") + "    env.unwrapped.spec = None\n    return env\n"
    copy.change(script, made, without)
    run = run_here(script, MAX_EP=2, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    check_end(copy, run.stdout, SCRIPTS[script].ENV_NAME)


@pytest.mark.parametrize("gymnasium", [False, True], ids=["gym", "gymnasium"])
@both
def test_a_run_to_its_end(copy, run_here, recwarn, monkeypatch, script, gymnasium):
    module = SCRIPTS[script]
    monkeypatch.setattr(plt, "show", lambda: print("a window"))
    run = run_here(script, gymnasium=gymnasium, MAX_EP=12, N_WORKERS=2)
    assert (run.returncode, run.stderr) == (0, "")
    assert not [warning for warning in recwarn if "out of date" in str(warning.message)]
    stdout, window = run.stdout.rsplit("\n", 2)[:2]
    assert window == "a window"
    n, before, after = check_end(copy, stdout, module.ENV_NAME)
    assert n in (12, 13)
    assert copy.saved() == [f"{module.ENV_NAME}-1{ending}" for ending in ENDINGS]

    # The title tells all that is learned with, and the weights score what was printed.
    title = (copy.folder / "results" / f"{module.ENV_NAME}-1.csv").read_text().splitlines()[0]
    constants = [name for name in utils.CONSTANTS if hasattr(module, name)]
    assert re.findall(r"[A-Z_]+(?= = )", title) == [
        name for name in constants if name not in ("ENV_NAME", "RENDER")
    ]
    assert title.startswith("# UPDATE_GLOBAL_ITER = ") and "MAX_EP = 12, LR = " in title
    net = module.Net(module.N_S, module.N_A)
    path = copy.folder / "results" / f"{module.ENV_NAME}-1.pt"
    utils.load_weights(net, path)
    assert utils.evaluate(net, module.make_env(), module.SEED) == pytest.approx(after, abs=0.06)
    utils.seed_all(module.SEED)
    untrained = module.Net(module.N_S, module.N_A)
    score = utils.evaluate(untrained, module.make_env(), module.SEED)
    assert score == pytest.approx(before, abs=0.06)


@pytest.fixture
def start_method():
    """A function that sets the start method of processes, for this test."""
    yield lambda method: mp.set_start_method(method, force=True)
    mp.set_start_method(None, force=True)


def forget(module, env_name):
    """Forget the module and the environment of another test."""
    sys.modules.pop(module, None)
    gym.envs.registry.pop(env_name, None)


COUNTED = """
from multiprocessing import current_process

import gym


class Counted(gym.Wrapper):
    def __init__(self, env_name):
        self.note("made")
        super().__init__(gym.make(env_name, disable_env_checker=True))

    def close(self):
        self.note("closed")
        super().close()

    def note(self, what):
        with open("counted.txt", "a") as file:
            file.write(f"{current_process().name} {what}\\n")


gym.register("Counted-v0", entry_point=Counted, kwargs={"env_name": INNER})
"""


@pytest.mark.timeout(150)
@both
def test_one_worker_repeats_itself_under_each_start_method(copy, run_here, start_method, script):
    """Bit for bit; and no process keeps the environment that importing the script makes."""
    forget("counted", "Counted-v0")
    (copy.folder / "counted.py").write_text(COUNTED)
    copy.change("counted.py", "INNER", repr(SCRIPTS[script].ENV_NAME))
    constants = {"ENV_NAME": "counted:Counted-v0", "MAX_EP": 6, "N_WORKERS": 1}
    noted, learned = copy.folder / "counted.txt", []
    for number, (method, seed) in enumerate([("fork", 3), ("spawn", 3), ("fork", 4)], 1):
        start_method(method)
        run = run_here(script, SEED=seed, **constants)
        assert run.returncode == 0, run.stderr
        n, _, after = check_end(copy, run.stdout, "counted-Counted-v0", number)
        assert n == 6
        weights = copy.folder / "results" / f"counted-Counted-v0-{number}.pt"
        learned.append((episodes(run.stdout), after, weights.read_bytes()))

        made = noted.read_text().splitlines()
        noted.unlink()
        main = ["MainProcess made", "MainProcess closed", "MainProcess made"]
        at_import = ["w00 made", "w00 closed"] if method == "spawn" else []
        assert made == [*main, *at_import, "w00 made"]
    assert learned[0] == learned[1]
    assert learned[0][0] != learned[2][0] and learned[0][2] != learned[2][2]


@pytest.mark.timeout(120)
def test_a_command_whose_workers_come_from_a_forkserver(forks, copy):
    main = 'if __name__ == "__main__":\n'
    # To save time, torch is loaded once, not by each worker.
    preload = '    mp.set_forkserver_preload(["torch._dynamo", "matplotlib.pyplot"])\n'
    copy.change("continuous_A3C.py", main, main + preload)
    constants = {"MAX_EP": 12, "N_WORKERS": 2}
    run = copy.run("continuous_A3C.py", "forkserver", gymnasium=True, timeout=110, **constants)
    assert (run.returncode, run.stderr) == (0, "")
    n, _, _ = check_end(copy, run.stdout, "Pendulum-v1")
    assert n in (12, 13)


LARGER = {
    "units.py": "nn.Sequential(nn.Linear(4, 6000), nn.ReLU()), 6000",
    "observations.py": "nn.ZeroPad1d((0, 9996)), 10_000",
    "convolutions.py": "nn.Sequential(nn.Unflatten(1, (1, 2, 2)), "
    "nn.ConvTranspose2d(1, 8, 42, 42), nn.ReLU(), nn.Conv2d(8, 16, 8, 4), nn.ReLU(), "
    "nn.Conv2d(16, 32, 4, 2), nn.Flatten()), 2592",
}
NOTEBOOK = """
import runpy
import sys

for script in sys.argv[1:]:
    runpy.run_path(script, run_name="__main__")
    print("The next cell", flush=True)

import torch

print(torch.get_num_threads())
"""


@pytest.mark.timeout(150)
def test_the_cells_of_a_notebook_run_scripts_to_their_good_end(copy):
    """Also with sixteen workers, and with larger networks, and where there is no display."""
    copy.prepare("continuous_A3C.py", MAX_EP=4)
    for name, body in LARGER.items():
        shutil.copy(copy.folder / "discrete_A3C.py", copy.folder / name)
        copy.prepare(name, MAX_EP=6, N_WORKERS=2)
        actor = "        self.pi1 = nn.Linear(s_dim, 128)\n"
        copy.change(name, actor, f"        self.body, s_dim = {body}\n{actor}")
        copy.change(name, "        pi1 = F.relu", "        x = self.body(x)\n        pi1 = F.relu")
    copy.prepare("discrete_A3C.py", MAX_EP=100, N_WORKERS=16)
    # Unbuffered, a line is not written at once.
    environ = {"MPLBACKEND": "TkAgg", "PYTHONUNBUFFERED": "1"}
    scripts = ["discrete_A3C.py", "continuous_A3C.py", *LARGER]
    run = copy.run_python("-c", NOTEBOOK, *scripts, environ=environ, timeout=140)
    assert run.returncode == 0, run.stderr
    said = run.stderr.splitlines()
    assert len(said) == 4 and said[0].startswith("Gym has been unmaintained since 2022"), said
    *cells, threads = run.stdout.split("The next cell\n")
    assert threads == "1\n"  # OMP_NUM_THREADS is set before torch is imported
    n, _, _ = check_end(copy, cells[0], "CartPole-v0")
    assert 100 <= n <= 115
    n, _, _ = check_end(copy, cells[1], "Pendulum-v1")
    assert n >= 4
    for number, cell in enumerate(cells[2:], 2):
        n, _, _ = check_end(copy, cell, "CartPole-v0", number)
        assert n in (6, 7)
    assert len(cells) == len(scripts) and len(copy.saved()) == 3 * len(scripts)


def test_an_import_starts_nothing_and_a_wrong_environment_ends_only_the_run(copy):
    shutil.copy(copy.folder / "discrete_A3C.py", copy.folder / "wrong.py")
    copy.set_constants("wrong.py", {"ENV_NAME": "Pendulum-v1"})
    code = (
        "import continuous_A3C as m, multiprocessing, torch\n"
        "print(torch.get_num_threads(), multiprocessing.active_children())\n"
        "m.Net, m.Worker\n"
        "import runpy, wrong\n"
        "print(wrong.N_S, wrong.N_A)\n"
        "runpy.run_path('wrong.py', run_name='__main__')\n"
        "print('not to be reached')"
    )
    run = copy.run_python("-c", code)
    # One thread: OMP_NUM_THREADS is set before torch is imported.
    assert (run.returncode, run.stdout) == (1, "1 []\nNone None\n"), run.stderr
    said = run.stderr.splitlines()[4:]  # below what gym says of itself
    assert said == [
        "ENV_NAME = 'Pendulum-v1': its actions are Box(-2.0, 2.0, (1,), float32). "
        "Use continuous_A3C.py."
    ]
    assert not (copy.folder / "results").exists()


@pytest.mark.parametrize(
    "script, constants",
    [
        ("discrete_A3C.py", {"ENV_NAME": "CartPool-v0"}),
        ("discrete_A3C.py", {"ENV_NAME": 3}),
        ("discrete_A3C.py", {"N_WORKERS": 0, "ENV_NAME": "Pendulum-v1"}),
        ("continuous_A3C.py", {"ENV_NAME": "CartPole-v0"}),
        ("continuous_A3C.py", {"ENV_NAME": "no_such_module:Pendulum-v1"}),
        ("continuous_A3C.py", {"LR": 2}),
    ],
)
def test_what_cannot_be_run_ends_at_once(copy, run_here, script, constants):
    run = run_here(script, **constants)
    name, value = next(iter(constants.items()))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"{name} = {value!r}: ") and run.stderr.count("\n") == 1
    assert not (copy.folder / "results").exists()


STRICT = '''
import gym
import numpy as np


class Reach(gym.Env):
    """Pays minus the distance from a point of three coordinates that each have other bounds."""

    metadata = {"render_modes": ["human"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(np.float32([-1, 0, 5]), np.float32([1, 10, 6]))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, a):
        assert a.shape == (3,) and self.action_space.contains(a), a
        with open("modes.txt", "a") as file:
            file.write(f"{self.render_mode} {a.dtype}\\n")
        return np.zeros(2, np.float32), -float(np.abs(a - [0.5, 2, 5.5]).sum()), False, False, {}


gym.register("Reach-v0", entry_point=Reach, max_episode_steps=20)
'''


@pytest.mark.parametrize("render", [False, True])
def test_three_action_dimensions_need_no_more_than_a_name(copy, run_here, render):
    (copy.folder / "reach.py").write_text(STRICT)
    forget("reach", "Reach-v0")
    constants = {"ENV_NAME": "reach:Reach-v0", "MAX_EP": 8, "N_WORKERS": 1, "RENDER": render}
    run = run_here("continuous_A3C.py", **constants)
    assert run.returncode == 0, run.stderr
    assert check_end(copy, run.stdout, "reach-Reach-v0")[0] == 8
    actions = set((copy.folder / "modes.txt").read_text().splitlines())
    assert actions == {"None float32", *(["human float32"] if render else [])}


@pytest.mark.parametrize(
    "env_name, render, a_type",
    [
        ("Pendulum-v1", False, np.float32),
        ("Pendulum-v1", True, np.float64),  # it can't draw the other one
        ("Doubles-v0", False, np.float64),
        ("Floats-v0", True, np.float32),
    ],
)
def test_actions_are_of_the_type_that_the_environment_takes(copy, env_name, render, a_type):
    class Env(gym.Env):
        metadata = {"render_modes": ["human"]}
        observation_space = gym.spaces.Box(-1, 1, (2,))

        def __init__(self, a_type, render_mode=None):
            self.action_space = gym.spaces.Box(-1, 1, (1,), a_type)

    for name, kind in (("Doubles-v0", np.float64), ("Floats-v0", np.float32)):
        gym.envs.registry.pop(name, None)
        gym.register(name, entry_point=Env, kwargs={"a_type": kind})
    copy.set_constants("continuous_A3C.py", {"ENV_NAME": env_name, "RENDER": render})
    module = runpy.run_path(str(copy.folder / "continuous_A3C.py"), run_name="imported")
    assert np.zeros(1).astype(module["A_TYPE"]).dtype == a_type


@both
def test_an_environment_that_is_shown_can_be_learned(copy, run_here, monkeypatch, script):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    run = run_here(script, MAX_EP=1, N_WORKERS=1, RENDER=True)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("render, shown", [(True, {"w00"}), (False, set())])
def test_render_shows_worker_w00(copy, run_here, render, shown):
    shutil.copy(Path(__file__).with_name("broken.py"), copy.folder)
    constants = {"ENV_NAME": "broken:Broken-v0", "MAX_EP": 4, "N_WORKERS": 2, "RENDER": render}
    run = run_here("discrete_A3C.py", **constants)
    assert run.returncode == 0, run.stderr
    made = [line.split() for line in (copy.folder / "rendered.txt").read_text().splitlines()]
    assert {name for name, _ in made} == {"MainProcess", "w00", "w01"}
    assert {name for name, mode in made if mode == "human"} == shown


# As shipped, but for a learning rate that is ten times as high and a run that is short. A policy
# that does not learn stays at about 22.
@pytest.mark.timeout(150)
def test_cartpole_is_learned(copy, run_here):
    run = run_here("discrete_A3C.py", MAX_EP=400, LR=2e-3, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    returns = returns_of(copy, "CartPole-v0-1")
    assert returns[:20].mean() < 35 and returns[-50:].mean() > 45


# A policy that does not learn stays where it was, at -1250 to -1450.
@pytest.mark.timeout(150)
def test_pendulum_is_learned(copy, run_here):
    run = run_here("continuous_A3C.py", MAX_EP=600, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    returns = returns_of(copy, "Pendulum-v1-1")
    assert returns[-50:].mean() > 0.9 * returns[:50].mean()


def code_of(script, name):
    """Return the lines of a class or function of a script, without comments and docstrings."""
    tree = ast.parse((ROOT / script).read_text())
    (found,) = [node for node in ast.walk(tree) if getattr(node, "name", None) == name]
    for node in ast.walk(found):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
    return ast.unparse(found).splitlines()


def differences(one, other):
    """Return the lines of `one` that `other` lacks, and the lines that only `other` has."""
    lines = list(difflib.ndiff(one, other))
    return [[line[2:] for line in lines if line.startswith(sign)] for sign in "-+"]


def test_what_continuous_actions_change_is_seen_with_diff():
    diff = subprocess.run(["diff", *SCRIPTS], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    changed = [line for line in diff.stdout.splitlines() if line[0] in "<>"]
    assert 20 < len(changed) <= 50


def test_both_scripts_make_environments_and_losses_alike():
    assert differences(*(code_of(script, "make_env") for script in SCRIPTS)) == [[], []]
    for lines in differences(*(code_of(script, "loss_func") for script in SCRIPTS)):
        forward, distribution = lines
        assert forward.endswith(" = self.forward(s)")
        assert distribution.lstrip().startswith("m = self.distribution(")


def test_both_workers_differ_in_the_reward_of_a_fall_and_in_the_bounds_of_actions():
    ours, theirs = differences(*(code_of(script, "Worker") for script in SCRIPTS))
    assert ours and all("FALL_REWARD" in line for line in ours)
    assert theirs and all("A_LOW" in line for line in theirs)
    mains = [(ROOT / script).read_text().split("\nif __name__")[1] for script in SCRIPTS]
    ours, theirs = differences(*(main.splitlines() for main in mains))
    assert all("FALL_REWARD" in line or "gym.spaces.Discrete" in line for line in ours)
    assert len(theirs) == 1 and "gym.spaces.Box" in theirs[0]
