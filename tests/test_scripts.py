"""Both scripts, run as a user runs them: copies, with constants edited."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT, episodes

SCRIPTS = {"discrete_A3C.py": "CartPole-v0", "continuous_A3C.py": "Pendulum-v1"}
both = pytest.mark.parametrize("script", SCRIPTS)


@both
@pytest.mark.parametrize("gymnasium", [False, True], ids=["gym", "gymnasium"])
@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_run_under_each_start_method(copy, script, start_method, gymnasium):
    run = copy.run(script, start_method, gymnasium, MAX_EP=12, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    assert "out of date" not in run.stderr and "Warning" not in run.stderr
    assert len(episodes(run.stdout)) in (12, 13)
    end = run.stdout.splitlines()[-4:]
    assert end[0] == f"Saved {copy.folder / 'results' / SCRIPTS[script]}.pt"
    assert end[1] == f"Saved {copy.folder / 'results' / SCRIPTS[script]}.png"
    assert re.fullmatch(r"1[23] episodes in \d+\.\d s, \d+ env steps/s", end[2])
    assert re.fullmatch(r"Greedy policy: mean return -?\d+\.\d over 10 episodes", end[3])
    assert copy.saved() == [f"{SCRIPTS[script]}.png", f"{SCRIPTS[script]}.pt"]


@both
def test_one_worker_repeats_itself_bit_for_bit(copy, script):
    runs = []
    for seed in (3, 3, 4):
        run = copy.run(script, MAX_EP=6, N_WORKERS=1, SEED=seed)
        weights = (copy.folder / "results" / f"{SCRIPTS[script]}.pt").read_bytes()
        runs.append((episodes(run.stdout), weights))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0] and runs[0][1] != runs[2][1]


def test_lines_stay_whole_with_many_workers(copy):
    copy.edit("discrete_A3C.py", r"env\.step\(a\)", "(s, 1.0, True, False, {})")
    run = copy.run("discrete_A3C.py", MAX_EP=1000, N_WORKERS=8, environ={"PYTHONUNBUFFERED": "1"})
    assert run.returncode == 0, run.stderr
    assert 1000 <= len(episodes(run.stdout)) <= 1007


@both
def test_importing_a_script_starts_nothing(script):
    code = (
        f"import {script[:-3]} as m, multiprocessing, torch; print(torch.get_num_threads()); "
        "assert m.Net and m.Worker and not multiprocessing.active_children()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    # One thread: OMP_NUM_THREADS is set before torch is imported.
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr


@pytest.mark.parametrize(
    "script, constants",
    [
        ("discrete_A3C.py", {"ENV_NAME": "Pendulum-v1"}),
        ("continuous_A3C.py", {"ENV_NAME": "CartPole-v0"}),
        ("discrete_A3C.py", {"ENV_NAME": "NoSuchEnv-v0"}),
        ("discrete_A3C.py", {"N_WORKERS": 0}),
        ("continuous_A3C.py", {"LR": 0}),
    ],
)
def test_what_cannot_be_run_ends_at_once(copy, script, constants):
    run = copy.run(script, **constants)
    (name,) = constants
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1].startswith(f"{name} = ") and "Traceback" not in run.stderr


THREE_DIMENSIONS = '''
import gym
import numpy as np


class Reach(gym.Env):
    """Pays minus the distance from a point of three coordinates that each have other bounds."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(np.float32([-1, 0, 5]), np.float32([1, 10, 6]))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, a):
        assert a.shape == (3,) and self.action_space.contains(a), a
        return np.zeros(2, np.float32), -float(np.abs(a - [0.5, 2, 5.5]).sum()), False, False, {}


gym.register("Reach-v0", entry_point=Reach, max_episode_steps=20)
'''


def test_three_action_dimensions_need_no_more_than_a_name(copy):
    (copy.folder / "reach.py").write_text(THREE_DIMENSIONS)
    run = copy.run("continuous_A3C.py", ENV_NAME="reach:Reach-v0", MAX_EP=20)
    assert run.returncode == 0, run.stderr
    assert len(episodes(run.stdout)) >= 20 and len(copy.saved()) == 2


@both
def test_render_shows_worker_w00(copy, script):
    run = copy.run(script, MAX_EP=2, RENDER=True, environ={"SDL_VIDEODRIVER": "dummy"})
    assert run.returncode == 0, run.stderr


WINDOW = """
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas

def show(*args, **kwargs):
    print("a window")
"""


def test_the_picture_is_shown_where_there_is_a_display(copy):
    (copy.folder / "window.py").write_text(WINDOW)
    run = copy.run("discrete_A3C.py", MAX_EP=2, environ={"MPLBACKEND": "module://window"})
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "a window"), run.stderr


@pytest.mark.parametrize("environ", [{"DISPLAY": ":99"}, {"MPLBACKEND": "TkAgg"}])
def test_no_display_is_no_error(copy, environ):
    run = copy.run("discrete_A3C.py", MAX_EP=2, environ=environ)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    assert len(copy.saved()) == 2


def test_what_was_learned_is_saved_where_a_worker_fails(copy):
    copy.edit(
        "discrete_A3C.py", r"^( +)ep_r \+= r$", "                ep_r += r / (self.g_ep.value < 9)"
    )
    run = copy.run("discrete_A3C.py", MAX_EP=100)
    assert run.returncode == 1
    assert len(episodes(run.stdout)) >= 9 and len(copy.saved()) == 2
    assert "ZeroDivisionError" in run.stderr.splitlines()[-2]
    assert re.fullmatch(r"Worker w\d\d raised this\.", run.stderr.splitlines()[-1])


def test_a_loss_that_diverges_is_told_and_weights_stay_finite(copy):
    run = copy.run("continuous_A3C.py", MAX_EP=100, LR=1e12)
    assert run.returncode == 1
    assert "turn down LR" in run.stderr


# A policy that does not learn stays at a moving average of about 20.
@pytest.mark.timeout(150)
def test_cartpole_is_learned(copy):
    tips = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
    run = copy.run("discrete_A3C.py", timeout=140, MAX_EP=500, **tips)
    assert max(episodes(run.stdout)) > 80


# A policy that does not learn stays where it was at episode 100, at about -1200.
@pytest.mark.timeout(150)
def test_pendulum_is_learned(copy):
    run = copy.run("continuous_A3C.py", timeout=140, MAX_EP=400, LR=3e-4)
    returns = episodes(run.stdout)
    assert returns[-1] > 0.75 * returns[99]
