"""What the tests share: a copy of the collection to change and run, and a simple environment."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch

import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gym
import numpy as np
import pytest

from examples.train import change

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 600  # seconds; only ends a run that hangs
GYM_SAYS = ("Gym has been", "Please upgrade", "Users of this", "See the migration")


class CountingEnv(gym.Env):
    """Pays `reward` a step; after `length` steps it terminates, or a time limit truncates it."""

    def __init__(self, size=4, length=7, truncates=False, reward=1.0):
        self.size, self.length, self.truncates, self.reward = size, length, truncates, reward
        self.seeds, self.actions, self.closed = [], [], 0

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return np.full(self.size, self.t, dtype=np.float32)

    def step(self, action):
        self.actions.append(action)
        self.t += 1
        ended, limit = self.t == self.length, self.truncates
        return self.observe(), self.reward, ended and not limit, ended and limit, {}

    def close(self):
        self.closed += 1


class Copy:
    """The four files and examples/ in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("discrete_A3C.py", "continuous_A3C.py", "utils.py", "shared_adam.py"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "examples", folder / "examples")

    def change(self, file, old, new):
        """Replace the text `old`, which must stand in `file` once."""
        text = (self.folder / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        (self.folder / file).write_text(text.replace(old, new), encoding="utf-8")

    def set(self, file, start_method=None, **constants):
        """Change constants at the top of `file`; let it start its workers by start_method."""
        text = (self.folder / file).read_text(encoding="utf-8")
        (self.folder / file).write_text(change(text, constants), encoding="utf-8")
        if start_method is not None:
            main = 'if __name__ == "__main__":\n'
            self.change(file, main, f'{main}    mp.set_start_method("{start_method}")\n')

    def start(self, *arguments):
        """Start `python arguments` in the folder, in a session of its own and without a display."""
        # Unbuffered, the lines of two processes mix.
        unset = {"DISPLAY", "OMP_NUM_THREADS", "PYTHONPATH", "PYTHONUNBUFFERED"}
        environ = {name: value for name, value in os.environ.items() if name not in unset}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**environ, "MPLBACKEND": "agg"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A job in the background ignores Ctrl-C, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def end(self, process):
        """Wait until no process of a run is left; return status, stdout and stderr."""
        try:
            # The pipes close when the last process that writes to them has ended.
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        lines = [line for line in stderr.splitlines() if line and not line.startswith(GYM_SAYS)]
        return process.returncode, stdout, "\n".join(lines)

    def run(self, *arguments):
        return self.end(self.start(*arguments))

    def saved(self, run, column="return"):
        """Return a column of episodes.csv, one of the four files that a run saves."""
        folder = self.folder / "results" / run
        names = {path.name for path in folder.iterdir() if path.suffix != ".py"}
        assert names == {"constants.json", "curves.png", "episodes.csv", "weights.pt"}
        with open(folder / "episodes.csv", encoding="utf-8") as file:
            return np.array([float(row[column]) for row in csv.DictReader(file)])


def wait_for(process, text):
    """Read the lines of a run until one has this text; return them."""
    lines = []
    while not lines or text not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    return "".join(lines)


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)
