"""A run never hangs, and nothing that it has learned is lost: workers and parents that die."""

import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from conftest import episodes, kill_session, processes_of

METHODS = ["fork", "spawn", "forkserver"]
FOREVER = {"MAX_EP": 10**6, "N_WORKERS": 2}
SCRIPT = "discrete_A3C.py"
FILES = {".csv", ".png", ".pt"}
# Two workers that each import torch, on a machine that has more to do.
pytestmark = pytest.mark.timeout(150)


def use_broken_environment(copy, death=None):
    """Let the copy's script learn the environment of broken.py."""
    shutil.copy(Path(__file__).with_name("broken.py"), copy.folder)
    copy.set_constants("broken.py", {"DEATH": death})
    copy.set_constants(SCRIPT, {"ENV_NAME": "broken:Broken-v0"})


def contents(copy):
    """Return the files in results/: {name: bytes}."""
    return {name: (copy.folder / "results" / name).read_bytes() for name in copy.saved()}


def earlier_run(copy, env_name):
    """Put the files of an earlier run into results/, and return them as `contents` does."""
    (copy.folder / "results").mkdir()
    for ending in FILES:
        (copy.folder / "results" / f"{env_name}-1{ending}").write_bytes(b"an earlier run")
    return contents(copy)


def assert_saved_whole(copy, run_name, n_episodes, before=()):
    """Check that results/ holds the files `before` and three of a run of `n_episodes`."""
    files = contents(copy)
    assert set(files) == {*before, *(run_name + ending for ending in FILES)}
    assert all(files[name] == before[name] for name in before)
    weights = torch.load(copy.folder / "results" / f"{run_name}.pt", weights_only=True)
    assert len(weights) == 8 and all(tensor.isfinite().all() for tensor in weights.values())
    rows = files[f"{run_name}.csv"].decode().splitlines()[2:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, n_episodes + 1))
    picture = files[f"{run_name}.png"]
    assert picture.startswith(b"\x89PNG") and b"IEND" in picture[-12:]


def gathered(stdout):
    """Return the number of episodes that a run says it has gathered, checked with its lines."""
    number = int(re.search(r"^(\d+) episodes in \d+\.\d s", stdout, re.MULTILINE)[1])
    # A worker may be stopped between queue and console.
    assert number - len(episodes(stdout)) in (0, 1)
    return number


def assert_saved_in_spite_of(run, copy, number=1, before=()):
    """Check that a run whose worker w01 died has saved what it learned; return the last line."""
    assert run.returncode == 1, run.stderr
    assert gathered(run.stdout) >= 20 and "Greedy policy" not in run.stdout
    assert_saved_whole(copy, f"broken-Broken-v0-{number}", gathered(run.stdout), before)
    last = run.stderr.splitlines()[-1]
    assert last.startswith("Worker w01 died: ")
    return last


# test_workers.py lets workers of all start methods die; here whole scripts go on from there.
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_worker_that_raises(copy, forks, start_method):
    use_broken_environment(copy, "raise")
    run = copy.run(SCRIPT, start_method, timeout=140, **FOREVER)
    assert "exitcode=1" in assert_saved_in_spite_of(run, copy)
    assert "Process w01:\nTraceback" in run.stderr
    assert "ZeroDivisionError: a bug in the environment" in run.stderr


@pytest.mark.parametrize(
    "start_method, death, signal_name",
    [("fork", "kill", "SIGKILL"), ("forkserver", "crash", "SIGSEGV")],
)
def test_a_worker_that_dies_without_a_word(copy, forks, start_method, death, signal_name):
    use_broken_environment(copy, death)
    run = copy.run(SCRIPT, start_method, timeout=140, **FOREVER)
    assert signal_name in assert_saved_in_spite_of(run, copy)


def test_a_worker_that_dies_with_the_lock_in_its_hands(copy, run_here):
    use_broken_environment(copy)
    before = earlier_run(copy, "broken-Broken-v0")
    count = "        global_ep.value += 1"
    death = (
        "        if name == 'w01' and global_ep.value > 20:\n            os.kill(os.getpid(), 9)\n"
    )
    copy.change("utils.py", count, death + count)
    run = run_here(SCRIPT, **FOREVER)
    assert "SIGKILL" in assert_saved_in_spite_of(run, copy, 2, before)


def test_a_loss_that_diverges_ends_the_run_and_leaves_the_weights_finite(copy, run_here):
    use_broken_environment(copy, "diverge")
    run = run_here(SCRIPT, **FOREVER)
    assert_saved_in_spite_of(run, copy)
    cause = r"^FloatingPointError: The loss is inf: a reward is 1e\+30\. Look at the environment, "
    assert re.search(cause, run.stderr, re.MULTILINE)


def test_a_worker_that_dies_before_any_episode_leaves_an_earlier_run_as_it_was(copy, run_here):
    use_broken_environment(copy, "at once")
    before = earlier_run(copy, "broken-Broken-v0")
    run = run_here(SCRIPT, **FOREVER)
    assert run.returncode == 1
    assert "\nNothing to save: no episode has ended.\n0 episodes in" in f"\n{run.stdout}"
    assert "ZeroDivisionError: a bug in the first step" in run.stderr
    assert re.match(r"Worker w0[01] died: ", run.stderr.splitlines()[-1])
    assert contents(copy) == before


class Running:
    """A copy's script while it runs, as the leader of a session, as in a terminal."""

    def __init__(self, copy, start_method, script=SCRIPT, **constants):
        copy.prepare(script, start_method, **constants)
        self.folder = copy.folder
        self.out = open(copy.folder / "out.txt", "w")
        self.err = open(copy.folder / "err.txt", "w")
        pipes = {"stdout": self.out, "stderr": self.err}
        self.process = copy.start(script, start_new_session=True, **pipes)

    def printed(self, file="out"):
        # A file of its own: seek() in self.out would move where the workers write.
        return (self.folder / f"{file}.txt").read_text()

    def wait_for(self, text, times=1):
        """Wait until `text` is printed so often."""
        end = time.monotonic() + 120
        while self.printed().count(text) < times:
            assert self.process.poll() is None and time.monotonic() < end, self.printed("err")
            time.sleep(0.02)

    def press_ctrl_c(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_until_none_is_alive(self, seconds):
        end = time.monotonic() + seconds
        while processes_of(self.process.pid):
            assert time.monotonic() < end, processes_of(self.process.pid)
            time.sleep(0.05)


@pytest.fixture
def running(copy, forks):
    started = []

    def start(*args, **constants):
        started.append(Running(copy, *args, **constants))
        return started[-1]

    yield start
    for run in started:
        kill_session(run.process.pid)
        run.process.wait()
        run.out.close()
        run.err.close()


def press_again_before(copy, file, line):
    """Let the copy itself press Ctrl-C once more before it comes to `line` of `file`."""
    indent = line[: len(line) - len(line.lstrip())]
    press = f"{indent}os.killpg(0, 2)\n{indent}time.sleep(0.05)\n"
    copy.change(file, line, f'{indent}print("again", flush=True)\n{press}{line}')


@pytest.mark.parametrize("start_method", METHODS)
def test_ctrl_c_stops_and_saves_at_once_however_often_it_is_pressed(copy, running, start_method):
    # While the workers are stopped, before anything is saved, and between two files.
    press_again_before(copy, "utils.py", "        ended.set()\n        if reader")
    press_again_before(copy, SCRIPT, "        seconds = time")
    press_again_before(copy, "utils.py", "        picture = io.BytesIO()\n")
    run = running(start_method, **FOREVER)
    run.wait_for(" Ep: ", times=30)
    run.press_ctrl_c()
    begin = time.monotonic()
    run.wait_for("Saving ...")
    assert time.monotonic() - begin < 3
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.printed("err") and "Error" not in run.printed("err")
    assert run.printed().count("again\n") == 3
    assert_saved_whole(copy, "CartPole-v0-1", gathered(run.printed()))
    assert "Greedy policy" not in run.printed()
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
    run.wait_until_none_is_alive(2)


@pytest.mark.parametrize(
    "start_method, script",
    [("fork", "continuous_A3C.py"), ("spawn", SCRIPT), ("forkserver", SCRIPT)],
)
def test_no_worker_outlives_a_parent_that_is_killed(running, start_method, script):
    run = running(start_method, script, **FOREVER)
    run.wait_for("w00 Ep: ")
    run.wait_for("w01 Ep: ")
    run.process.kill()
    run.process.wait()
    run.wait_until_none_is_alive(5)


def test_a_folder_that_cannot_be_written_loses_no_outcome(copy, run_here):
    (copy.folder / "results").write_text("a file, not a folder")
    run = run_here(SCRIPT, MAX_EP=5)
    assert run.returncode == 1
    assert gathered(run.stdout) >= 5
    assert "Greedy policy: mean return" in run.stdout
    assert run.stderr.splitlines()[-1].startswith("Not saved: ") and "Traceback" not in run.stderr
    assert (copy.folder / "results").read_text() == "a file, not a folder"


@pytest.fixture
def file_limit():
    """Lift the limit to the size of files after a test that sets one."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_full_disk_leaves_what_was_there_and_nothing_else(copy, run_here, file_limit):
    before = earlier_run(copy, "CartPole-v0")
    save = "        saved = save_results("
    # From here on no file can grow above 4000 bytes.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, (4000, {hard}))"
    copy.change(SCRIPT, save, f"        import resource\n        {limit}\n{save}")
    run = run_here(SCRIPT, MAX_EP=9)
    assert run.returncode == 1
    assert "Greedy policy: mean return" in run.stdout
    assert run.stderr.splitlines()[-1].startswith("Not saved: ") and "Traceback" not in run.stderr
    assert contents(copy) == before
