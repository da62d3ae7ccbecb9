"""What the tests share: copies of the scripts to run, an environment that is easy to count."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gym
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class CountingEnv:
    """Pays 1 a step and ends after `length` steps: terminated, or truncated by a time limit."""

    spec = SimpleNamespace(reward_threshold=None)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=7, truncates=False):
        self.length, self.truncates, self.t = length, truncates, 0
        self.seeds, self.actions = [], []

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


class Copy:
    """The four files in a folder of their own, with constants edited as a user edits them."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("discrete_A3C.py", "continuous_A3C.py", "utils.py", "shared_adam.py"):
            shutil.copy(ROOT / name, folder)

    def edit(self, script, pattern, replacement):
        path = self.folder / script
        text, n = re.subn(pattern, lambda _: replacement, path.read_text(), flags=re.MULTILINE)
        assert n, f"{script} has no line like {pattern}"
        path.write_text(text)

    def prepare(self, script, start_method=None, gymnasium=False, **constants):
        for name, value in constants.items():
            self.edit(script, rf"^{name} = .*$", f"{name} = {value!r}")
        if gymnasium:
            self.edit(script, r"^import gym$", "import gymnasium as gym")
        if start_method:
            main = 'if __name__ == "__main__":\n'
            self.edit(script, main, f'{main}    mp.set_start_method("{start_method}")\n')

    def environment(self):
        variables = {"DISPLAY", "OMP_NUM_THREADS", "MPLBACKEND", "PYTHONUNBUFFERED"}
        return {name: value for name, value in os.environ.items() if name not in variables}

    def run(self, script, start_method=None, gymnasium=False, environ=(), timeout=55, **constants):
        self.prepare(script, start_method, gymnasium, **constants)
        return subprocess.run(
            [sys.executable, script],
            cwd=self.folder,
            env={**self.environment(), **dict(environ)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def saved(self):
        return sorted(path.name for path in (self.folder / "results").iterdir())


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


def episodes(stdout):
    """Return the moving averages of the episode lines in `stdout`, checked for form and order."""
    lines = [line for line in stdout.splitlines() if " Ep: " in line]
    found = [re.fullmatch(r"w\d\d Ep: (\d+) \| Ep_r: (-?\d+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found) if not match]
    assert [int(match[1]) for match in found] == list(range(1, len(lines) + 1))
    return [int(match[2]) for match in found]
