"""Your own environment: catch a falling ball. It has no training code: discrete_A3C.py learns it.

Write a class with two spaces, reset and step; register it; and name module and environment at the
top of discrete_A3C.py. These constants learn it:

    ENV_NAME = "examples.catch:Catch-v0"
    UPDATE_GLOBAL_ITER = 10
    GAMMA = 0.99
    MAX_EP = 10000
    LR = 1e-3
    ENTROPY_BETA = 0.1  # high, to try all columns
"""

import gym
import numpy as np


class Catch(gym.Env):
    """A ball falls one row a step. Be under it in the last row: the reward is 1, else -1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    action_space = gym.spaces.Discrete(3)  # left, stay, right
    observation_space = gym.spaces.Box(0.0, 1.0, (64,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def observe(self):
        screen = np.zeros((8, 8), np.float32)
        screen[self.row, self.ball] = 1.0
        screen[7, self.paddle] = 1.0
        return screen.ravel()

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.row = 0
        self.ball, self.paddle = self.np_random.integers(8, size=2)
        return self.observe(), {}

    def step(self, action):
        self.row += 1
        self.paddle = min(max(self.paddle + action - 1, 0), 7)
        terminated = self.row == 7
        reward = 0.0
        if terminated:
            reward = 1.0 if self.paddle == self.ball else -1.0
        return self.observe(), reward, terminated, False, {}

    def render(self):
        """Return the screen as a picture (8, 8, 3)."""
        return np.uint8(255 * self.observe().reshape(8, 8, 1)).repeat(3, axis=2)


gym.register("Catch-v0", entry_point=Catch)
