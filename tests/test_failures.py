"""A run never hangs, and nothing that it has learned is lost: workers and parents that die."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import episodes

METHODS = ["fork", "spawn", "forkserver"]
FOREVER = {"MAX_EP": 10**6, "N_WORKERS": 2}
AFTER_RESET = r"^            buffer_s, buffer_a, buffer_r = \[\], \[\], \[\]$"
SAME = "            buffer_s, buffer_a, buffer_r = [], [], []\n"
BUG = "            if self.name == 'w01' and self.g_ep.value > 20:\n                "


START = "    print('started', flush=True); time.sleep(0.3)\n"


class Running:
    """A copy's script while it runs, as the leader of a process group, as in a terminal."""

    def __init__(self, copy, script, start_method, **constants):
        copy.prepare(script, start_method, **constants)
        self.folder = copy.folder
        self.out = open(copy.folder / "out.txt", "w")
        self.err = open(copy.folder / "err.txt", "w")
        self.process = subprocess.Popen(
            [sys.executable, script],
            cwd=copy.folder,
            env=copy.environment(),
            stdout=self.out,
            stderr=self.err,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def printed(self, file="out"):
        # A file of its own: seek() in self.out would move where the workers write.
        return (self.folder / f"{file}.txt").read_text()

    def wait_for_episodes(self, n):
        end = time.time() + 45
        while len(re.findall(r" Ep: ", self.printed())) < n:
            assert self.process.poll() is None and time.time() < end, self.printed("err")
            time.sleep(0.02)

    def alive(self):
        """Return the processes of the group that are left, zombies aside."""
        listed = subprocess.run(
            ["ps", "-o", "stat=", "-s", str(self.process.pid)], capture_output=True, text=True
        )
        return [line for line in listed.stdout.split() if not line.startswith("Z")]

    def wait_until_none_is_alive(self, seconds):
        end = time.time() + seconds
        while self.alive():
            assert time.time() < end, self.alive()
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
def test_a_worker_that_raises(copy, start_method):
    copy.edit("discrete_A3C.py", AFTER_RESET, SAME + BUG + "1 / 0")
    run = copy.run("discrete_A3C.py", start_method, **FOREVER)
    assert run.returncode == 1
    assert len(episodes(run.stdout)) > 20
    assert copy.saved() == ["CartPole-v0.png", "CartPole-v0.pt"]
    *_, error, sentence = run.stderr.splitlines()
    assert (error, sentence) == ("ZeroDivisionError: division by zero", "Worker w01 raised this.")


DEATHS = {
    "between": "os.kill(os.getpid(), 9)",
    "with the lock": "self.g_ep.get_lock().acquire(); os.kill(os.getpid(), 9)",
    "while it writes": "os.write(self.res_queue._writer.fileno(), b'\\0\\0\\1\\0abc'); "
    "self.res_queue._wlock.acquire(); os.kill(os.getpid(), 9)",
    "by a crash": "__import__('ctypes').string_at(0)",
}


@pytest.mark.parametrize(
    "start_method, death",
    [("fork", death) for death in DEATHS] + [(method, "with the lock") for method in METHODS[1:]],
)
def test_a_worker_that_dies_without_a_word(copy, start_method, death):
    copy.edit("discrete_A3C.py", AFTER_RESET, SAME + BUG + DEATHS[death])
    run = copy.run("discrete_A3C.py", start_method, **FOREVER)
    assert run.returncode == 1
    assert len(episodes(run.stdout)) > 20
    assert copy.saved() == ["CartPole-v0.png", "CartPole-v0.pt"]
    name = "SIGSEGV" if death == "by a crash" else "SIGKILL"
    assert "w01" in run.stderr.splitlines()[-1] and name in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("start_method", METHODS)
def test_ctrl_c_stops_saves_and_says_nothing(copy, running, start_method):
    run = running("discrete_A3C.py", start_method, **FOREVER)
    run.wait_for_episodes(30)
    os.killpg(run.process.pid, signal.SIGINT)
    start = time.time()
    assert run.process.wait(10) == 130
    assert time.time() - start < 5
    assert "Traceback" not in run.printed("err") and "Error" not in run.printed("err")
    gathered = int(re.search(r"^(\d+) episodes in", run.printed(), re.MULTILINE)[1])
    # A worker may be stopped between queue and console.
    assert gathered - len(episodes(run.printed())) in (0, 1)
    assert copy.saved() == ["CartPole-v0.png", "CartPole-v0.pt"]
    run.wait_until_none_is_alive(2)


@pytest.mark.parametrize("start_method", METHODS)
def test_ctrl_c_while_workers_start_is_not_lost(copy, running, start_method):
    copy.edit(
        "utils.py",
        r"^    mask\(getattr\(signal, .SIG_UNBLOCK",
        START + '    mask(getattr(signal, "SIG_UNBLOCK',
    )
    run = running("discrete_A3C.py", start_method, **FOREVER)
    while "started" not in run.printed():
        time.sleep(0.01)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.process.wait(10) == 130
    assert "Traceback" not in run.printed("err")
    run.wait_until_none_is_alive(2)


def test_a_second_ctrl_c_leaves_at_once(copy, running):
    copy.edit(
        "utils.py",
        r"^    folder = ",
        "    print('drawing', flush=True); time.sleep(60)\n    folder = ",
    )
    run = running("discrete_A3C.py", "fork", **FOREVER)
    run.wait_for_episodes(5)
    os.killpg(run.process.pid, signal.SIGINT)
    while "drawing" not in run.printed():
        time.sleep(0.02)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.process.wait(2) != 0
    assert "Traceback" not in run.printed("err")
    run.wait_until_none_is_alive(2)


@pytest.mark.parametrize(
    "script, start_method",
    [("continuous_A3C.py", "fork"), *(("discrete_A3C.py", method) for method in METHODS)],
)
def test_no_worker_outlives_a_parent_that_is_killed(running, script, start_method):
    run = running(script, start_method, **FOREVER)
    run.wait_for_episodes(3)
    run.process.kill()
    run.process.wait()
    run.wait_until_none_is_alive(5)


LARGER = {
    "6000 units": "nn.Sequential(nn.Linear(4, 6000), nn.ReLU()), 6000",
    "10,000 observations": "nn.ZeroPad1d((0, 9996)), 10_000",
    "convolutions": "nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.ConvTranspose2d(1, 8, 42, 42), "
    "nn.ReLU(), nn.Conv2d(8, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.Flatten()), 2592",
}


@pytest.mark.parametrize("net", LARGER)
def test_larger_networks_train_under_fork(copy, net):
    script = "discrete_A3C.py"
    body = f"        self.body, width = {LARGER[net]}\n        self.{{}} = nn.Linear(width, 128)"
    copy.edit(script, r"^        self\.pi1 = .*$", body.format("pi1"))
    copy.edit(script, r"^        self\.v1 = .*$", "        self.v1 = nn.Linear(width, 128)")
    for call in ("self.pi1(x)", "self.pi1(s)", "self.v1(x)"):
        copy.edit(script, re.escape(call), call.replace("(", "(self.body(") + ")")
    run = copy.run(script, "fork", MAX_EP=6)
    assert run.returncode == 0, run.stderr
    assert len(episodes(run.stdout)) >= 6


@pytest.mark.parametrize("n_workers", [1, 16])
def test_any_number_of_workers_ends_with_all_results(copy, n_workers):
    run = copy.run("discrete_A3C.py", MAX_EP=40, N_WORKERS=n_workers)
    assert run.returncode == 0, run.stderr
    n = len(episodes(run.stdout))
    assert 40 <= n <= 40 + n_workers - 1
    assert f"{n} episodes in" in run.stdout


def test_a_folder_that_cannot_be_written_loses_no_outcome(copy):
    (copy.folder / "results").write_text("a file, not a folder")
    run = copy.run("discrete_A3C.py", MAX_EP=5)
    assert run.returncode == 1
    assert "5 episodes in" in run.stdout or "6 episodes in" in run.stdout
    assert "Greedy policy" in run.stdout
    assert run.stderr.splitlines()[-1].startswith("Not saved:") and "Traceback" not in run.stderr


def test_a_full_disk_leaves_what_was_there(copy):
    assert copy.run("discrete_A3C.py", MAX_EP=5).returncode == 0
    before = [(copy.folder / "results" / name).read_bytes() for name in copy.saved()]
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    copy.edit("discrete_A3C.py", r"^    saved = ", f"    {limit}\n    saved = ")
    run = copy.run("discrete_A3C.py", MAX_EP=9)
    assert run.returncode == 1
    assert "Greedy policy" in run.stdout
    assert "Not saved:" in run.stderr and "Traceback" not in run.stderr
    assert [(copy.folder / "results" / name).read_bytes() for name in copy.saved()] == before


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
    again = subprocess.run(
        [sys.executable, "-c", code], cwd=copy.folder, capture_output=True, text=True, timeout=60
    )
    assert float(again.stdout) == pytest.approx(printed, abs=0.06), again.stderr
    assert isinstance(
        torch.load(copy.folder / "results" / "CartPole-v0.pt", weights_only=True), dict
    )
