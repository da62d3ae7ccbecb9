"""Both scripts, run as a user runs them: copies, with constants edited."""

import re
import shutil
from pathlib import Path

import pytest

from conftest import episodes

SCRIPTS = {"discrete_A3C.py": "CartPole-v0", "continuous_A3C.py": "Pendulum-v1"}
both = pytest.mark.parametrize("script", SCRIPTS)


@pytest.mark.parametrize(
    "start_method, gymnasium",
    [("fork", False), ("fork", True), ("spawn", False), ("forkserver", False)],
    ids=["fork", "fork, gymnasium", "spawn", "forkserver"],
)
@both
def test_a_run_under_each_start_method(copy, script, start_method, gymnasium):
    run = copy.run(script, start_method, gymnasium, MAX_EP=12, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    assert "out of date" not in run.stderr and "Warning" not in run.stderr
    assert ("unmaintained" in run.stderr) == (not gymnasium)
    assert len(episodes(run.stdout)) in (12, 13)
    end = run.stdout.splitlines()[-4:]
    assert end[0] == f"Saved {copy.folder / 'results' / SCRIPTS[script]}.pt"
    assert end[1] == f"Saved {copy.folder / 'results' / SCRIPTS[script]}.png"
    assert re.fullmatch(r"1[23] episodes in \d+\.\d s, \d+ env steps/s", end[2])
    greedy = r"Greedy policy: mean return (\S+) over 10 episodes, (-?\d+\.\d) to (-?\d+\.\d)"
    mean, lowest, highest = [float(number) for number in re.fullmatch(greedy, end[3]).groups()]
    assert lowest < mean < highest
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


@pytest.mark.parametrize("n_workers", [1, 16])
def test_any_number_of_workers_ends_with_all_results_in_whole_lines(copy, n_workers):
    environ = {"PYTHONUNBUFFERED": "1"}
    run = copy.run("discrete_A3C.py", environ=environ, MAX_EP=200, N_WORKERS=n_workers)
    assert run.returncode == 0, run.stderr
    n = len(episodes(run.stdout))
    assert 200 <= n <= 200 + n_workers - 1
    assert f"\n{n} episodes in" in run.stdout


@both
def test_importing_a_script_starts_nothing(copy, script):
    code = (
        f"import {script[:-3]} as m, multiprocessing, torch\n"
        "print(torch.get_num_threads(), multiprocessing.active_children())\n"
        "m.Net, m.Worker"
    )
    run = copy.run_python("-c", code)
    # One thread: OMP_NUM_THREADS is set before torch is imported.
    assert (run.returncode, run.stdout) == (0, "1 []\n"), run.stderr
    assert not (copy.folder / "results").exists()


@pytest.mark.parametrize(
    "script, constants",
    [
        ("discrete_A3C.py", {"ENV_NAME": "Pendulum-v1"}),
        ("continuous_A3C.py", {"ENV_NAME": "CartPole-v0"}),
        ("discrete_A3C.py", {"N_WORKERS": 0}),
        ("continuous_A3C.py", {"LR": 2}),
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


LARGER = {
    "6000 units": "nn.Sequential(nn.Linear(4, 6000), nn.ReLU()), 6000",
    "10,000 observations": "nn.ZeroPad1d((0, 9996)), 10_000",
    "convolutions": "nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.ConvTranspose2d(1, 8, 42, 42), "
    "nn.ReLU(), nn.Conv2d(8, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.Flatten()), 2592",
}


@pytest.mark.parametrize("net", LARGER)
def test_larger_networks_train_after_a_fork(copy, net):
    script = "discrete_A3C.py"
    actor = "        self.pi1 = nn.Linear(s_dim, 128)\n"
    body = f"        self.body, s_dim = {LARGER[net]}\n"
    copy.change(script, actor, body + actor)
    copy.change(script, "        pi1 = F.relu", "        x = self.body(x)\n        pi1 = F.relu")
    run = copy.run(script, "fork", MAX_EP=6)
    assert run.returncode == 0, run.stderr
    assert len(episodes(run.stdout)) >= 6


@both
def test_an_environment_that_is_shown_can_be_learned(copy, script):
    run = copy.run(script, MAX_EP=2, RENDER=True, environ={"SDL_VIDEODRIVER": "dummy"})
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("render, shown", [(True, {"w00"}), (False, set())])
def test_render_shows_worker_w00(copy, render, shown):
    shutil.copy(Path(__file__).with_name("broken.py"), copy.folder)
    constants = {"ENV_NAME": "broken:Broken-v0", "MAX_EP": 4, "N_WORKERS": 2, "RENDER": render}
    run = copy.run("discrete_A3C.py", **constants)
    assert run.returncode == 0, run.stderr
    made = [line.split() for line in (copy.folder / "rendered.txt").read_text().splitlines()]
    assert {name for name, _ in made} == {"MainProcess", "w00", "w01"}
    assert {name for name, mode in made if mode == "human"} == shown


WINDOW = """
from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas

def show(*args, **kwargs):
    print("a window")
"""


def test_the_picture_is_shown_where_there_is_a_display(copy):
    (copy.folder / "window.py").write_text(WINDOW)
    run = copy.run("discrete_A3C.py", MAX_EP=2, environ={"MPLBACKEND": "module://window"})
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "a window"), run.stderr


GONE = """
from matplotlib.backends.backend_agg import FigureCanvasAgg

class FigureCanvas(FigureCanvasAgg):
    @classmethod
    def new_manager(cls, figure, num):
        raise RuntimeError("the display is gone")
"""


@pytest.mark.parametrize("environ", [{"MPLBACKEND": "TkAgg"}, {"MPLBACKEND": "module://gone"}])
def test_no_display_is_no_error(copy, environ):
    (copy.folder / "gone.py").write_text(GONE)
    run = copy.run("discrete_A3C.py", MAX_EP=2, environ=environ)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    assert len(copy.saved()) == 2


def test_saved_weights_score_what_the_run_printed(copy):
    tips = {"UPDATE_GLOBAL_ITER": 10, "GAMMA": 0.99, "LR": 1e-3}
    run = copy.run("discrete_A3C.py", MAX_EP=200, **tips)
    printed = float(re.search(r"mean return (\S+) over", run.stdout)[1])
    code = (
        "import torch\nfrom discrete_A3C import Net, N_S, N_A, env, evaluate\n"
        "net = Net(N_S, N_A)\n"
        "net.load_state_dict(torch.load('results/CartPole-v0.pt', weights_only=True))\n"
        "print(evaluate(net, env, seed=0))"
    )
    again = copy.run_python("-c", code)
    assert float(again.stdout) == pytest.approx(printed, abs=0.06), again.stderr


# A policy that does not learn stays at a moving average of about 20.
@pytest.mark.timeout(150)
def test_cartpole_is_learned_as_shipped(copy):
    run = copy.run("discrete_A3C.py", timeout=140, MAX_EP=1500, N_WORKERS=2)
    assert max(episodes(run.stdout)) > 40


# A policy that does not learn stays where it was at episode 100, at about -1200.
@pytest.mark.timeout(150)
def test_pendulum_is_learned_as_shipped(copy):
    run = copy.run("continuous_A3C.py", timeout=140, MAX_EP=600, N_WORKERS=2)
    averages = episodes(run.stdout)
    assert averages[-1] > 0.88 * averages[99]
