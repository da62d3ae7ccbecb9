"""Your own environment: catch a falling ball. It has no training code: discrete_A3C.py learns it.

Write a class with two spaces, reset and step; register it; and name module and environment at the
top of discrete_A3C.py. These constants learn it:

    ENV_NAME = "examples.catch:Catch-v0"
    UPDATE_GLOBAL_ITER = 10
    GAMMA = 0.99
    MAX_EP = 10000
    LR = 1e-3
    ENTROPY_BETA = 0.1  # high, to try all columns

PixelCatch-v0 and DarkCatch-v0 are what catch_pixels.py and memory.py learn: the same game, seen
in another way.
"""

import gym
import numpy as np


class Catch(gym.Env):
    """A ball falls one row per step. In the last row, the reward is 1 if it is caught, else -1.

    The observation is an 8 x 8 grid, flattened to (64,): 1 where the ball or the paddle is, else 0.
    """

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
        """Return the observation as a picture, (8, 8, 3) here."""
        screen = self.observe()
        side = int(screen.size**0.5)
        return np.uint8(255 * screen.reshape(side, side, 1)).repeat(3, axis=2)


class PixelCatch(Catch):
    """Catch as an image (1, 80, 80): each cell is a square of 10 x 10 pixels."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1, 80, 80), np.float32)

    def observe(self):
        screen = super().observe().reshape(1, 8, 8)
        return screen.repeat(10, axis=1).repeat(10, axis=2)


class DarkCatch(Catch):
    """Catch in the dark: the ball is only seen in the first row."""

    def observe(self):
        screen = super().observe().reshape(8, 8)
        if self.row > 0:
            screen[self.row] = 0.0
            screen[7, self.paddle] = 1.0
        return screen.ravel()


gym.register("Catch-v0", entry_point=Catch)
gym.register("PixelCatch-v0", entry_point=PixelCatch)
gym.register("DarkCatch-v0", entry_point=DarkCatch)
