"""A run never hangs, and nothing that it has learned is lost: workers and parents that die."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from conftest import episodes

METHODS = ["fork", "spawn", "forkserver"]
FOREVER = {"MAX_EP": 10**6, "N_WORKERS": 2}
SCRIPT = "discrete_A3C.py"


def use_broken_environment(copy, death=None):
    """Let the copy's script learn the environment of broken.py."""
    shutil.copy(Path(__file__).with_name("broken.py"), copy.folder)
    copy.set_constants("broken.py", {"DEATH": death})
    copy.set_constants(SCRIPT, {"ENV_NAME": "broken:Broken-v0"})


def assert_saved_in_spite_of(run, copy):
    """Check that a run whose worker w01 died has saved what it learned; return the last line."""
    assert run.returncode == 1, run.stderr
    assert len(episodes(run.stdout)) >= 20
    assert copy.saved() == ["broken-Broken-v0.png", "broken-Broken-v0.pt"]
    weights = torch.load(copy.folder / "results" / "broken-Broken-v0.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in weights.values())
    last = run.stderr.splitlines()[-1]
    assert last.startswith("Worker w01 died: ")
    return last


@pytest.mark.parametrize("start_method", METHODS)
def test_a_worker_that_raises(copy, start_method):
    use_broken_environment(copy, "raise")
    run = copy.run(SCRIPT, start_method, **FOREVER)
    assert "exitcode=1" in assert_saved_in_spite_of(run, copy)
    assert "Process w01:\nTraceback" in run.stderr
    assert "ZeroDivisionError: a bug in the environment" in run.stderr


@pytest.mark.parametrize(
    "start_method, death, signal_name",
    [
        ("fork", "kill", "SIGKILL"),
        ("spawn", "kill", "SIGKILL"),
        ("forkserver", "kill", "SIGKILL"),
        ("fork", "crash", "SIGSEGV"),
    ],
)
def test_a_worker_that_dies_without_a_word(copy, start_method, death, signal_name):
    use_broken_environment(copy, death)
    run = copy.run(SCRIPT, start_method, **FOREVER)
    assert signal_name in assert_saved_in_spite_of(run, copy)


def test_a_worker_that_dies_with_the_lock_in_its_hands(copy):
    use_broken_environment(copy)
    count = "        global_ep.value += 1\n"
    death = (
        "        if name == 'w01' and global_ep.value > 20:\n            os.kill(os.getpid(), 9)\n"
    )
    copy.change("utils.py", count, count + death)
    run = copy.run(SCRIPT, **FOREVER)
    assert "SIGKILL" in assert_saved_in_spite_of(run, copy)


def test_a_loss_that_diverges_ends_the_run_and_leaves_the_weights_finite(copy):
    use_broken_environment(copy, "diverge")
    run = copy.run(SCRIPT, **FOREVER)
    assert_saved_in_spite_of(run, copy)
    assert re.search(r"^FloatingPointError: The loss is inf: turn down LR", run.stderr, re.M)


class Running:
    """A copy's script while it runs, as the leader of a process group, as in a terminal."""

    def __init__(self, copy, start_method, script=SCRIPT, **constants):
        copy.prepare(script, start_method, **constants)
        self.folder = copy.folder
        self.out = open(copy.folder / "out.txt", "w")
        self.err = open(copy.folder / "err.txt", "w")
        self.process = copy.start(
            script,
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def printed(self, file="out"):
        # A file of its own: seek() in self.out would move where the workers write.
        return (self.folder / f"{file}.txt").read_text()

    def wait_for(self, text, times=1):
        """Wait until `text` is printed so often."""
        end = time.monotonic() + 45
        while self.printed().count(text) < times:
            assert self.process.poll() is None and time.monotonic() < end, self.printed("err")
            time.sleep(0.02)

    def press_ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def alive(self):
        """Return the states of the processes of the group that are left, zombies aside."""
        listed = subprocess.run(
            ["ps", "-o", "stat=", "-s", str(self.process.pid)], capture_output=True, text=True
        )
        return [state for state in listed.stdout.split() if not state.startswith("Z")]

    def wait_until_none_is_alive(self, seconds):
        end = time.monotonic() + seconds
        while self.alive():
            assert time.monotonic() < end, self.alive()
            time.sleep(0.05)


@pytest.fixture
def running(copy):
    started = []

    def start(*args, **constants):
        started.append(Running(copy, *args, **constants))
        return started[-1]

    yield start
    for run in started:
        subprocess.run(["pkill", "-KILL", "-s", str(run.process.pid)])
        run.process.wait()
        run.out.close()
        run.err.close()


@pytest.mark.parametrize("start_method", METHODS)
def test_ctrl_c_stops_saves_and_says_nothing(copy, running, start_method):
    run = running(start_method, **FOREVER)
    run.wait_for(" Ep: ", times=30)
    run.press_ctrl_c()
    begin = time.monotonic()
    assert run.process.wait(10) == 130
    assert time.monotonic() - begin < 5
    assert "Traceback" not in run.printed("err") and "Error" not in run.printed("err")
    gathered = int(re.search(r"^(\d+) episodes in", run.printed(), re.MULTILINE)[1])
    # A worker may be stopped between queue and console.
    assert gathered - len(episodes(run.printed())) in (0, 1)
    assert copy.saved() == ["CartPole-v0.png", "CartPole-v0.pt"]
    run.wait_until_none_is_alive(2)


@pytest.mark.parametrize("start_method", METHODS)
def test_ctrl_c_while_workers_start_is_not_lost(copy, running, start_method):
    start = "            worker.start()\n"
    wait = '            print("started", flush=True)\n            time.sleep(0.2)\n'
    copy.change("utils.py", start, start + wait)
    run = running(start_method, **FOREVER)
    run.wait_for("started")
    run.press_ctrl_c()
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.printed("err")
    run.wait_until_none_is_alive(2)


def test_a_second_ctrl_c_leaves_at_once(copy, running):
    save = "    stem = env_name.replace"
    copy.change("utils.py", save, f'    print("saving", flush=True)\n    time.sleep(60)\n{save}')
    run = running("fork", **FOREVER)
    run.wait_for(" Ep: ", times=5)
    run.press_ctrl_c()
    run.wait_for("saving")
    run.press_ctrl_c()
    assert run.process.wait(2) != 0
    assert "Traceback" not in run.printed("err")
    run.wait_until_none_is_alive(2)


@pytest.mark.parametrize(
    "start_method, script",
    [("fork", "continuous_A3C.py"), *((method, SCRIPT) for method in METHODS)],
)
def test_no_worker_outlives_a_parent_that_is_killed(running, start_method, script):
    run = running(start_method, script, **FOREVER)
    run.wait_for(" Ep: ", times=3)
    run.process.kill()
    run.process.wait()
    run.wait_until_none_is_alive(5)


def test_a_folder_that_cannot_be_written_loses_no_outcome(copy):
    (copy.folder / "results").write_text("a file, not a folder")
    run = copy.run(SCRIPT, MAX_EP=5)
    assert run.returncode == 1
    assert re.search(r"^\d+ episodes in", run.stdout, re.MULTILINE)
    assert "Greedy policy" in run.stdout
    assert run.stderr.splitlines()[-1].startswith("Not saved:") and "Traceback" not in run.stderr


def test_a_full_disk_leaves_what_was_there(copy):
    assert copy.run(SCRIPT, MAX_EP=5).returncode == 0
    before = [(copy.folder / "results" / name).read_bytes() for name in copy.saved()]
    save = "    saved = save_results("
    # From here on no file can grow above 4000 bytes.
    limit = "    import resource\n    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    copy.change(SCRIPT, save, limit + save)
    run = copy.run(SCRIPT, MAX_EP=9)
    assert run.returncode == 1
    assert "Greedy policy" in run.stdout
    assert "Not saved:" in run.stderr and "Traceback" not in run.stderr
    assert [(copy.folder / "results" / name).read_bytes() for name in copy.saved()] == before
