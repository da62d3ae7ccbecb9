"""Your own environment, learned by A3C: catch a falling ball. Run: python -m examples.catch

To make it yours, copy this file and rewrite Catch: its two spaces, reset() and step(). What follows
is the worker of discrete_A3C.py, which takes the environment as an argument. (If a name is all you
want to change, discrete_A3C.py learns it too: ENV_NAME = "examples.catch:Catch-v0".)
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import copy

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp

from discrete_A3C import Net
from shared_adam import SharedAdam
from utils import evaluate, follow_parent, push_and_pull, record, run_workers, save_results
from utils import seed_all, v_wrap

UPDATE_GLOBAL_ITER = 10  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 6000  # episodes of all workers together
LR = 1e-3  # learning rate of Adam
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 0  # of all random numbers


class Catch(gym.Env):
    """A ball falls through eight rows, one a step. Be under it in the last: it pays 1, else -1."""

    action_space = gym.spaces.Discrete(3)  # left, stay, right
    observation_space = gym.spaces.Box(0.0, 1.0, (64,), np.float32)

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


gym.register("Catch-v0", entry_point=Catch)


class Worker(mp.Process):
    """Actor-learner number `name`: any environment, and a copy of any network."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name, env):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt, self.env = gnet, opt, env
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.seed = torch.randint(2**31, ()).item()  # its own: a fork copies the generators

    def run(self):
        follow_parent()
        seed_all(self.seed)
        env, gnet, opt = self.env, self.gnet, self.opt
        env.reset(seed=self.seed)
        lnet = copy.deepcopy(gnet)  # the local network
        while self.g_ep.value < MAX_EP:
            s, _ = env.reset()
            buffer_s, buffer_a, buffer_r = [], [], []
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None]))
                s_, r, terminated, truncated, _ = env.step(a)
                ep_r += r
                buffer_a.append(a)
                buffer_r.append(r)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    push_and_pull(
                        opt, lnet, gnet, terminated, s_, buffer_s, buffer_a, buffer_r, GAMMA
                    )
                    buffer_s, buffer_a, buffer_r = [], [], []
                    if terminated or truncated:
                        break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name)


def train(gnet, env, name):
    """Train `gnet` in copies of `env`; save weights and picture in results/ under `name`."""
    gnet.share_memory()
    opt = SharedAdam(gnet.parameters(), lr=LR)
    shared = [gnet, opt, mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()]
    workers = [Worker(*shared, i, env) for i in range(N_WORKERS)]
    res, seconds, failure = run_workers(workers, shared[-1])
    title = f"{UPDATE_GLOBAL_ITER = }, {GAMMA = }, {LR = }, {N_WORKERS = }, {SEED = }"
    saved = save_results(gnet, res, name, title)
    print(f"{len(res)} episodes in {seconds:.1f} s")
    if failure is None:
        score = evaluate(gnet, env, SEED, episodes=100)
        print(f"Greedy policy: mean return {score:.2f} over 100 episodes")
        plt.show()
    raise SystemExit(failure or int(not saved))


if __name__ == "__main__":
    seed_all(SEED)
    train(Net(64, 3), Catch(), "Catch")
