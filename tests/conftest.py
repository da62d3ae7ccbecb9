"""What the tests share: copies of the scripts to run, an environment that is easy to count."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import gc
import importlib
import multiprocessing.forkserver
import re
import runpy
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import gym
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from experiments import lab
from experiments.lab import ROOT
from shared_adam import SharedAdam


class CountingEnv:
    """Pays 1 a step and ends after `length` steps: terminated, or truncated by a time limit."""

    spec = None  # as of each environment that gym.make has not made
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=7, truncates=False):
        self.length = length
        self.truncates = truncates
        self.t = 0
        self.seeds = []
        self.actions = []

    def reset(self, seed=None):
        self.seeds.append(seed)
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return np.full(4, self.t, dtype=np.float32)

    def step(self, action):
        self.actions.append(action)
        self.t += 1
        ended = self.t == self.length
        return self.observe(), 1.0, ended and not self.truncates, ended and self.truncates, {}


OURS = {"discrete_A3C", "continuous_A3C", "utils", "shared_adam", "stock", "examples"}

SharedAdam([torch.zeros(1)])  # so that forks need not load what PyTorch loads with an optimizer


def fork(copy, *arguments, environ=(), **options):
    """Start as lab.Copy.start does, but as a fork of this process, which has loaded torch."""

    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        os.closerange(3, 4096)  # with one of them Popen waits for an exec, which never comes
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # not pytest's
        # What other tests have made here is not this process's.
        gc.freeze()
        importlib.reload(multiprocessing.resource_tracker)
        importlib.reload(multiprocessing.forkserver)
        multiprocessing.process.ORIGINAL_DIR = os.getcwd()
        others = [path for path in sys.path if Path(path).resolve() != ROOT]
        sys.path[:] = [str(copy.folder), *others]
        os.environ.pop("PYTHONUNBUFFERED", None)  # with it, half a line may be the last one
        os.environ.update(environ)
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]  # the copy has its own
        mp.set_start_method("fork", force=True)
        plt.switch_backend("agg")
        code = None
        try:
            if arguments[0] == "-m":
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc().rstrip()
        gc.collect()  # locks, which spawned workers have opened by name, are given back
        if isinstance(code, str):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if isinstance(code, str) else code or 0)

    return subprocess.Popen("fork", cwd=copy.folder, preexec_fn=run, text=True, **options)


@pytest.fixture
def forks(monkeypatch):
    """Let copies start as forks: Python and torch need not be loaded again."""
    monkeypatch.setattr(lab.Copy, "start", fork)


class Copy(lab.Copy):
    """A copy of the collection to prepare and to run."""

    def prepare(self, script, start_method=None, gymnasium=False, **constants):
        self.set_constants(script, constants)
        if gymnasium:
            self.change(script, "import gym\n", "import gymnasium as gym\n")
        if start_method is not None:
            main = 'if __name__ == "__main__":\n'
            start = f'    mp.set_start_method("{start_method}", force=True)\n'
            self.change(script, main, main + start)

    def run(self, script, start_method=None, gymnasium=False, environ=(), timeout=55, **constants):
        """Run the prepared `script`, a file at the top, to its end; return code, stdout, stderr."""
        self.prepare(script, start_method, gymnasium, **constants)
        return self.run_python(script, environ=environ, timeout=timeout)

    def run_python(self, *arguments, environ=(), timeout=55):
        """Run `python arguments` in the folder to its end; return code, stdout and stderr."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.start(*arguments, environ=environ, **pipes)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def saved(self):
        """Return the names of the files in results/."""
        return sorted(path.name for path in (self.folder / "results").iterdir())


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


@pytest.fixture
def run_here(copy, monkeypatch, capfd):
    """Run a prepared script of the copy in this process, which need not import torch again.

    Its workers are forks. Returns code, stdout and stderr, as Copy.run does.
    """

    def run(script, **constants):
        copy.prepare(script, **constants)
        monkeypatch.chdir(copy.folder)
        monkeypatch.syspath_prepend(copy.folder)
        for name in ("utils", "shared_adam", "broken"):  # the copy's, not those of other tests
            monkeypatch.delitem(sys.modules, name, raising=False)
        plt.switch_backend("agg")
        code = 0
        try:
            runpy.run_path(str(copy.folder / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        stdout, stderr = capfd.readouterr()
        if isinstance(code, str):  # so Python ends with a sentence
            code, stderr = 1, f"{stderr}{code}\n"
        return subprocess.CompletedProcess(script, code, stdout, stderr)

    yield run
    sys.modules.pop("broken", None)
    gym.envs.registry.pop("Broken-v0", None)


def episodes(stdout):
    """Return the moving averages of the episode lines in `stdout`, checked for form and order."""
    lines = [line for line in stdout.splitlines() if " Ep: " in line]
    found = [re.fullmatch(r"w\d\d Ep: (\d+) \| Ep_r: (-?\d+\.\d\d)", line) for line in lines]
    assert all(found), lines
    assert [int(match[1]) for match in found] == list(range(1, len(lines) + 1))
    return [float(match[2]) for match in found]


def processes_of(session):
    """Return the numbers of the processes of a session that are left, zombies aside."""
    left = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # In parentheses stands a name, which may hold spaces and parentheses of its own.
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            state, _parent, _group, its_session = fields[:4]
            if int(its_session) == session and state not in "ZX":
                left.append(int(path.parent.name))
    return left


def kill_session(session):
    """Kill the processes of a session, and those that they start meanwhile."""
    while left := processes_of(session):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
