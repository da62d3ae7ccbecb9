"""An environment that goes wrong as DEATH says: in worker w01 after its twentieth episode.

Tests put it beside the scripts: ENV_NAME = "broken:Broken-v0".
"""

import ctypes
import os
from multiprocessing import current_process

import gym
import numpy as np

DEATH = None  # "raise", "kill", "crash", "diverge", or "at once": in each worker's first step


class Broken(gym.Env):
    """Episodes of four steps, each of which pays 1. Notes in rendered.txt who renders, and how."""

    metadata = {"render_modes": ["human"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.episode = 0  # resets so far: a worker's first one only sets the seed
        with open("rendered.txt", "a") as file:
            file.write(f"{current_process().name} {render_mode}\n")

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.step_number = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action):
        reward = 1.0
        if DEATH == "at once" and current_process().name != "MainProcess":
            raise ZeroDivisionError("a bug in the first step")
        if current_process().name == "w01" and self.episode > 21:
            if DEATH == "raise":
                raise ZeroDivisionError("a bug in the environment")
            if DEATH == "kill":
                os.kill(os.getpid(), 9)
            if DEATH == "crash":
                ctypes.string_at(0)
            if DEATH == "diverge":
                reward = 1e30
        self.step_number += 1
        s = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return s, reward, self.step_number == 4, False, {}


gym.register("Broken-v0", entry_point=Broken)
