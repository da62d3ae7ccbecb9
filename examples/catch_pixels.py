"""A3C from images: Catch in 80 x 80 pixels. Run: python -m examples.catch_pixels

A network for images differs in two methods, __init__ and forward: drawing actions and the loss go
through forward and stay. Images are (channels, height, width), as Conv2d wants them.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import discrete_A3C
from examples.catch import SEED, Catch, train


class PixelCatch(Catch):
    """Catch, each of its 8 x 8 places drawn as 10 x 10 pixels."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1, 80, 80), np.float32)

    def observe(self):
        screen = super().observe().reshape(1, 8, 8)
        return screen.repeat(10, axis=1).repeat(10, axis=2)


class Net(discrete_A3C.Net):
    """The paper's two convolutions, then the layers of discrete_A3C.py."""

    def __init__(self, s_dim, a_dim):
        super().__init__(32 * 8 * 8, a_dim)
        self.conv1 = nn.Conv2d(s_dim[0], 16, 8, stride=4)  # to 16 x 19 x 19
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)  # to 32 x 8 x 8

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return super().forward(x.flatten(1))


if __name__ == "__main__":
    torch.manual_seed(SEED)
    train(Net((1, 80, 80), 3), PixelCatch(), "CatchPixels")
