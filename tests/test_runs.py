"""How a run ends: nothing hangs, nobody is left running, and what was learned is saved.

Copy.end waits until the last process of a run has closed its output, so each test shows that, too.
"""

import os
import re
import signal

import numpy as np
import pytest
import torch
from conftest import TIMEOUT

SCRIPT = "discrete_A3C.py"
FOREVER = {"MAX_EP": 10**6, "N_WORKERS": 2}
each_method = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])

ENVIRONMENT = '''
import random, subprocess, sys
from multiprocessing import current_process
import gym
import numpy as np

class Mine(gym.Env):
    """Episodes of four steps, drawn from np.random and random; it has no render_mode."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.random.uniform(-1, 1, 4), {}

    def step(self, action):
        self.t += 1
        return np.random.uniform(-1, 1, 4), random.random(), self.t == 4, False, {}

gym.register("Mine-v0", entry_point=Mine)
'''


@pytest.fixture
def mine(copy):
    (copy.folder / "mine.py").write_text(ENVIRONMENT)
    copy.set(SCRIPT, ENV_NAME="mine:Mine-v0")
    return copy


def numbers(stdout):
    """Return the numbers of the episodes that a run has printed."""
    return [int(number) for number in re.findall(r"^w\d\d Ep: (\d+) \| ", stdout, re.MULTILINE)]


def assert_learned(copy, stdout, run="CartPole-v0-1"):
    """A worker that is killed may have queued an episode and not printed it, or the reverse."""
    assert len(copy.saved(run)) - len(numbers(stdout)) in (-2, -1, 0, 1, 2)
    weights = torch.load(copy.folder / "results" / run / "weights.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in weights.values())


def wait_for(process, text):
    """Read the lines of a run until one has this text; return them."""
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return "".join(lines)


def test_a_worker_that_raises_is_named_and_its_traceback_stands_above(mine):
    mine.set(SCRIPT, **FOREVER)
    end = "        1 / (current_process().name != 'w01' or random.random() < 0.95)\n"
    mine.change("mine.py", "        self.t += 1\n", f"        self.t += 1\n{end}")
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 1 and "Process w01:\nTraceback" in stderr and "ZeroDivisionError" in stderr
    assert stderr.endswith("\nWorker w01 died (exit code 1).")
    assert_learned(mine, stdout, "mine-Mine-v0-1")


@each_method
def test_a_worker_that_is_killed_in_put_with_the_locks_in_its_hands(copy, method):
    copy.set(SCRIPT, method, **FOREVER)
    put = "        res_queue.put(global_ep_r.value)\n"
    die = "        if name == 'w01' and global_ep.value > 20:\n            {}\n            {}\n"
    die = die.format("res_queue._wlock.acquire()", "os.kill(os.getpid(), 9)")
    copy.change("utils.py", put, die + put)
    status, stdout, stderr = copy.run(SCRIPT)
    assert (status, stderr) == (1, "Worker w01 died (exit code -9).")
    assert_learned(copy, stdout)


@pytest.mark.parametrize(
    "method, sent, code",
    [
        ("fork", signal.SIGINT, 130),
        ("spawn", signal.SIGINT, 130),
        ("forkserver", signal.SIGINT, 130),
        ("fork", signal.SIGTERM, 143),
    ],
)
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
    assert_learned(copy, begin + stdout)


def test_ctrl_c_is_not_lost_while_workers_start(mine):
    """Nor does it lose anything where no episode has ended yet."""
    mine.change("mine.py", "self.t == 4", "False")
    mine.set(SCRIPT, N_WORKERS=2)
    start = "            worker.start()\n"
    mine.change("utils.py", start, "            os.kill(os.getpid(), signal.SIGINT)\n" + start)
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 130 and "Saving ..." in stdout
    assert not mine.saved("mine-Mine-v0-1").size


@each_method
def test_a_killed_parent_takes_its_workers_with_it(copy, method):
    copy.set(SCRIPT, method, **FOREVER)
    process = copy.start(SCRIPT)
    wait_for(process, "w00 Ep:")
    process.kill()
    assert copy.end(process)[0] == -signal.SIGKILL


def test_large_networks_do_not_hang(mine):
    mine.set(SCRIPT, MAX_EP=3, N_WORKERS=2)
    text = (mine.folder / SCRIPT).read_text().replace("128", "2048")
    (mine.folder / SCRIPT).write_text(text)
    assert mine.run(SCRIPT)[0] == 0
    assert len(mine.saved("mine-Mine-v0-1")) in (3, 4)


def test_more_results_than_a_pipe_holds_arrive_all(mine):
    """A page holds 141 of them; the last come when the workers have ended."""
    mine.set(SCRIPT, MAX_EP=500, N_WORKERS=2)
    small = "    import fcntl\n    fcntl.fcntl(res_queue._writer, fcntl.F_SETPIPE_SZ, 4096)\n"
    mine.change(SCRIPT, "    res = []\n", f"    res = []\n{small}")
    mine.change("utils.py", "            time.sleep(0.01)\n", "            time.sleep(0.2)\n")
    status, stdout, stderr = mine.run(SCRIPT)
    assert (status, stderr) == (0, "")
    assert numbers(stdout) == list(range(1, len(mine.saved("mine-Mine-v0-1")) + 1))
    assert len(numbers(stdout)) in (500, 501)


def test_the_last_worker_that_dies_is_noticed(mine):
    mine.set(SCRIPT, MAX_EP=5, N_WORKERS=1)
    mine.change(SCRIPT, "        env.close()\n\n\nif", "        1 / 0\n\n\nif")
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 1 and "Worker w00 died" in stderr
    assert len(mine.saved("mine-Mine-v0-1")) == 5


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights_finite(mine):
    mine.set(SCRIPT, **FOREVER)
    mine.change("mine.py", "random.random()", "random.random() * (1e30 if self.broken() else 1)")
    broken = "        return np.random.random() < 0.01 and current_process().name == 'w01'\n"
    mine.change("mine.py", "    def step", f"    def broken(self):\n{broken}\n    def step")
    status, stdout, stderr = mine.run(SCRIPT)
    assert status == 1 and "FloatingPointError: The loss is inf" in stderr
    assert_learned(mine, stdout, "mine-Mine-v0-1")


def test_an_environment_is_closed_wherever_it_was_made(mine):
    """A simulator that goes on would hold the output, as in `python discrete_A3C.py | tee log`."""
    start = "    def __init__(self):\n        self.game = subprocess.Popen(['sleep', '9999'])\n\n"
    close = "    def close(self):\n        self.game.kill()\n        self.game.wait()\n\n"
    mine.change("mine.py", "    def reset", f"{start}{close}    def reset")
    mine.set(SCRIPT, MAX_EP=3, N_WORKERS=2)
    assert mine.run(SCRIPT)[0] == 0


def test_two_runs_at_once_of_one_seed(mine):
    """Each has a folder of its own; np.random and random are seeded, too."""
    mine.set(SCRIPT, MAX_EP=20, N_WORKERS=1)
    for process in [mine.start(SCRIPT), mine.start(SCRIPT)]:
        assert mine.end(process)[0] == 0
    first, second = (mine.saved(f"mine-Mine-v0-{number}") for number in (1, 2))
    assert np.array_equal(first, second) and len(set(first)) == 20


@pytest.mark.parametrize(
    "constants, told",
    [
        ({"GAMMA": 2}, "GAMMA = 2: use a number from 0 to 1."),
        ({"BETAS": (0.9, 1.5)}, "betas=BETAS"),
        ({"ENV_NAME": "FrozenLake-v1"}, "ENV_NAME: "),
    ],
)
def test_a_wrong_constant_ends_before_training(copy, constants, told):
    copy.set(SCRIPT, **constants)
    status, stdout, stderr = copy.run(SCRIPT)
    assert status == 1 and told in stderr and stdout == ""
    assert not list((copy.folder / "results").glob("*"))


def test_output_that_nobody_reads_or_can_encode_loses_nothing(copy, tmp_path):
    folder = tmp_path / "f\u00fcnf"
    folder.mkdir()
    for path in copy.folder.glob("*.py"):
        path.rename(folder / path.name)
    copy.folder = folder
    copy.set(SCRIPT, MAX_EP=3, N_WORKERS=1)
    status, _, stderr = copy.run(SCRIPT, PYTHONIOENCODING="ascii")
    assert status == 1 and "UnicodeEncodeError" in stderr
    assert len(copy.saved("CartPole-v0-1")) == 3
    copy.set(SCRIPT, **FOREVER)
    process = copy.start(SCRIPT)
    wait_for(process, "Ep: 1 ")
    process.stdout.close()  # as in `python discrete_A3C.py | head -1`
    assert process.wait(TIMEOUT) != 0
    assert "BrokenPipeError" in process.stderr.read()
    assert len(copy.saved("CartPole-v0-2")) > 0


def test_a_worker_can_be_run_without_a_process_to_debug_it(copy):
    copy.set(SCRIPT, MAX_EP=5, N_WORKERS=1)
    copy.change(SCRIPT, "run_workers(workers, res_queue, res)", "workers[0].run()")
    status, stdout, stderr = copy.run(SCRIPT)
    assert (status, stderr) == (0, "") and len(numbers(stdout)) == 5


def test_workers_use_one_thread_also_where_torch_came_first(mine):
    """As in a notebook, where OMP_NUM_THREADS comes too late."""
    mine.set(SCRIPT, "fork", MAX_EP=2, N_WORKERS=2)
    mine.change(
        SCRIPT, "        env.close()\n\n\nif", "        print(torch.get_num_threads())\n\n\nif"
    )
    script = f"import torch; torch.set_num_threads(2); exec(open('{SCRIPT}').read())"
    status, stdout, stderr = mine.run("-c", script)
    assert status == 0, stderr
    assert re.findall(r"^\d$", stdout, re.MULTILINE) == ["1", "1"]
