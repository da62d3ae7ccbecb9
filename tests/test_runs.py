"""How a run ends: nothing hangs, nobody is left running, and what was learned is saved.

Copy.end waits until the last process of a run has closed its output, so each test shows that, too.
"""

import os
import re
import signal
import time

import pytest
import torch.multiprocessing as mp
from conftest import wait_for

import utils

SCRIPT = "discrete_A3C.py"
FOREVER = {"MAX_EP": 10**6, "N_WORKERS": 2}
# The default is fork or, from Python 3.14 on, forkserver.
methods = [None] + [pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "forkserver")]
each_method = pytest.mark.parametrize("method", methods)

ENVIRONMENT = """
import random, subprocess, sys
from multiprocessing import current_process
import gym
import numpy as np

class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.random.uniform(-1, 1, 4), {}

    def step(self, action):
        self.t += 1
        return np.random.uniform(-1, 1, 4), random.random(), self.t == 4, False, {}

gym.register("Mine-v0", entry_point=Mine)
"""


@pytest.fixture
def mine(copy):
    (copy.folder / "mine.py").write_text(ENVIRONMENT, encoding="utf-8")
    copy.set(SCRIPT, ENV_NAME="mine:Mine-v0")
    return copy


def numbers(stdout):
    """Return the numbers of the episodes that a run has printed."""
    return [int(number) for number in re.findall(r"^w\d\d Ep: (\d+) \| ", stdout, re.MULTILINE)]


def assert_saved(copy, stdout, run="CartPole-v0-1"):
    """A worker that is killed may have queued an episode and not printed it, or the reverse."""
    assert len(copy.saved(run)) - len(numbers(stdout)) in (-2, -1, 0, 1, 2)
    script = copy.folder / "results" / run / SCRIPT
    assert script.read_bytes() == (copy.folder / SCRIPT).read_bytes()


def put_late(res_queue, seconds):
    time.sleep(seconds)
    res_queue.put(seconds)
    res_queue.put(None)


def test_run_workers_waits_for_the_last_one():
    res_queue, res = mp.SimpleQueue(), [7.0]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    workers = [mp.Process(target=put_late, args=(res_queue, seconds)) for seconds in (0.0, 1.0)]
    utils.run_workers(workers, res_queue, res)
    assert sorted(res) == [0.0, 1.0, 7.0]
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_worker_that_raises_is_named_and_its_traceback_stands_above(mine):
    mine.set(SCRIPT, **FOREVER)
    end = "        1 / (current_process().name != 'w01' or random.random() < 0.95)\n"
    mine.change("mine.py", "        self.t += 1\n", f"        self.t += 1\n{end}")
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 1 and "Process w01:\nTraceback" in stderr and "ZeroDivisionError" in stderr
    assert stderr.endswith("\nWorker w01 died (exit code 1).")
    assert_saved(mine, stdout, "mine-Mine-v0-1")


@each_method
def test_a_worker_that_is_killed_in_put_with_the_locks_in_its_hands(copy, method):
    copy.set(SCRIPT, method, **FOREVER)
    put = "            res_queue.put(row)\n"
    die = "            if name == 'w01' and global_ep.value > 20:\n"
    die += "                res_queue._wlock.acquire(), os.kill(os.getpid(), 9)\n"
    copy.change("utils.py", put, die + put)
    status, stdout, stderr = copy.run(SCRIPT)
    assert (status, stderr) == (1, "Worker w01 died (exit code -9).")
    assert_saved(copy, stdout)


@each_method
@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save(copy, method, sent, code):
    copy.set(SCRIPT, method, **FOREVER)
    process = copy.start(SCRIPT)
    begin = wait_for(process, "w00 Ep:") + wait_for(process, "w01 Ep:")
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # a terminal sends it to the workers, too
    else:
        process.send_signal(sent)
    status, stdout, stderr = copy.end(process)
    assert (status, stderr) == (code, "")
    assert "Saving ...\n" in stdout and "After training" not in stdout
    assert_saved(copy, begin + stdout)


def test_ctrl_c_is_not_lost_while_workers_start(mine):
    """Nor does it lose anything where no episode has ended yet."""
    mine.change("mine.py", "self.t == 4", "False")
    mine.set(SCRIPT, N_WORKERS=2)
    start = "            worker.start()\n"
    mine.change("utils.py", start, "            os.kill(os.getpid(), signal.SIGINT)\n" + start)
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 130 and "Saving ..." in stdout
    assert_saved(mine, "", "mine-Mine-v0-1")


@each_method
def test_a_killed_parent_takes_its_workers_with_it(copy, method):
    """All that it leaves is its script, which was copied before training."""
    copy.set(SCRIPT, method, **FOREVER)
    process = copy.start(SCRIPT)
    wait_for(process, "w00 Ep:")
    process.kill()
    assert copy.end(process)[0] == -signal.SIGKILL
    [path] = (copy.folder / "results" / "CartPole-v0-1").iterdir()
    assert path.read_bytes() == (copy.folder / SCRIPT).read_bytes()


def test_more_results_than_a_pipe_holds_arrive_all(mine):
    """And each environment is closed: a simulator that goes on would hold the output."""
    start = "    def __init__(self):\n        self.game = subprocess.Popen(['sleep', '9999'])\n\n"
    close = "    def close(self):\n        self.game.kill()\n        self.game.wait()\n\n"
    mine.change("mine.py", "    def reset", f"{start}{close}    def reset")
    mine.set(SCRIPT, MAX_EP=200, N_WORKERS=2)
    small = "    import fcntl\n    fcntl.fcntl(res_queue._writer, fcntl.F_SETPIPE_SZ, 4096)\n"
    mine.change(SCRIPT, "    res = []\n", f"    res = []\n{small}")
    mine.change("utils.py", "            time.sleep(0.01)\n", "            time.sleep(0.2)\n")
    status, stdout, stderr = mine.run(SCRIPT)
    assert (status, stderr) == (0, "")
    assert numbers(stdout) == list(range(1, len(mine.saved("mine-Mine-v0-1")) + 1))
    assert len(numbers(stdout)) in (200, 201)


def test_the_last_worker_that_dies_is_noticed(mine):
    mine.set(SCRIPT, MAX_EP=5, N_WORKERS=1)
    mine.change(SCRIPT, "        env.close()\n\n\nif", "        1 / 0\n\n\nif")
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 1 and "Worker w00 died" in stderr
    assert len(mine.saved("mine-Mine-v0-1")) == 5


@pytest.mark.parametrize("name, value", [("GAMMA", 2), ("ENV_NAME", "FrozenLake-v1")])
def test_a_wrong_constant_ends_before_training(copy, name, value):
    copy.set(SCRIPT, **{name: value})
    status, stdout, stderr = copy.run(SCRIPT)
    assert status == 1 and re.search(f"{name}( = 2)?: ", stderr) and stdout == ""
    assert not (copy.folder / "results").exists()


def test_a_script_may_run_without_a_file_and_after_torch(mine):
    """As in a notebook, where OMP_NUM_THREADS comes too late."""
    mine.set(SCRIPT, "fork", MAX_EP=2, N_WORKERS=2)
    end = "        env.close()\n\n\nif"
    mine.change(SCRIPT, end, f"        print(torch.get_num_threads())\n{end}")
    script = f"import torch; torch.set_num_threads(2); exec(open('{SCRIPT}').read())"
    status, stdout, stderr = mine.run("-c", script)
    assert status == 0, stderr
    assert re.findall(r"^\d$", stdout, re.MULTILINE) == ["1", "1"]
    assert len(mine.saved("mine-Mine-v0-1")) in (2, 3)
    assert not list((mine.folder / "results").glob("*/*.py"))
