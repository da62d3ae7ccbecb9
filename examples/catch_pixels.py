"""A3C from images: Catch in 80 x 80 pixels. Run: python -m examples.catch_pixels

A network for images differs from that of discrete_A3C.py in __init__ and forward; acting and the
loss go through forward, and stay. Images are (channels, height, width), as Conv2d wants them, with
values from 0 to 1. To make it yours, copy this file beside utils.py and shared_adam.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch, or forked workers may hang

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, evaluate, follow_parent, new_run, push_and_pull, record
from utils import run_workers, save_results, seed_all, set_init, v_wrap

ENV_NAME = "CatchPixels"  # names the folder in results/
UPDATE_GLOBAL_ITER = 10  # n, steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 6000  # total episodes, all workers (a few more may finish)
LR = 1e-3  # initial learning rate of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # decay rates of Adam's moving averages
ENTROPY_BETA = 0.1  # weight of the entropy bonus; high, to try all columns
MAX_GRAD_NORM = None  # clip gradients to this L2 norm; None: don't clip
REWARD_SCALE = 1.0  # learn from rewards divided by this
N_WORKERS = mp.cpu_count()  # worker processes
SEED = 2  # seeds all random number generators

torch.distributions.Distribution.set_default_validate_args(False)  # no checks in each update


class PixelCatch(gym.Env):
    """Catch of examples/catch.py, each of its 8 x 8 places drawn as 10 x 10 pixels."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    action_space = gym.spaces.Discrete(3)  # left, stay, right
    observation_space = gym.spaces.Box(0.0, 1.0, (1, 80, 80), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def observe(self):
        screen = np.zeros((1, 8, 8), np.float32)
        screen[0, self.row, self.ball] = 1.0
        screen[0, 7, self.paddle] = 1.0
        return screen.repeat(10, axis=1).repeat(10, axis=2)

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
        """Return the screen as a picture (80, 80, 3)."""
        return np.uint8(255 * self.observe().reshape(80, 80, 1)).repeat(3, axis=2)


def make_env(**options):
    """Return a new environment; options: render_mode="rgb_array"."""
    return PixelCatch(**options)


env = make_env()
N_S, N_A = env.observation_space.shape, int(env.action_space.n)
env.close()  # each process makes its own


class Net(nn.Module):
    """Actor and critic of images (n, *s_dim), on the paper's two convolutions."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.conv1 = nn.Conv2d(s_dim[0], 16, 8, stride=4)  # to 16 x 19 x 19
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)  # to 32 x 8 x 8
        self.pi1 = nn.Linear(32 * 8 * 8, 128)
        self.pi2 = nn.Linear(128, a_dim)
        self.v1 = nn.Linear(32 * 8 * 8, 128)
        self.v2 = nn.Linear(128, 1)
        set_init([self.pi1, self.pi2, self.v1, self.v2])
        self.distribution = torch.distributions.Categorical

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = x.flatten(1)
        pi1 = F.relu(self.pi1(x))
        logits = self.pi2(pi1)
        v1 = F.relu(self.v1(x))
        values = self.v2(v1)
        return logits, values  # (n, a_dim), (n, 1)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Sample an action for one image (1, *s_dim); greedy: return the most probable one."""
        logits, _ = self.forward(s)
        if greedy:
            return logits.argmax().item()
        return F.softmax(logits, dim=1).multinomial(1).item()

    def loss_func(self, s, a, v_t):
        """Return the loss (a scalar): images (n, *s_dim), actions (n,), returns v_t (n, 1)."""
        logits, values = self.forward(s)
        assert values.shape == v_t.shape, "v_t - values would broadcast"
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits)
        log_prob = m.log_prob(a)[:, None]
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """The Worker of discrete_A3C.py, but `make_env` is called without RENDER."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent, so workers differ

    def run(self):
        follow_parent()
        seed_all(self.seed)
        env = make_env()
        env.reset(seed=self.seed)
        lnet = Net(N_S, N_A)  # local network
        lnet.load_state_dict(self.gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealing is not in S3, but in the paper's experiments.
            self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may reuse its array
                a = lnet.choose_action(v_wrap(s)[None])  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    # At a time limit (truncated) rewards would go on, so it does not count as done.
                    push_and_pull(
                        self.opt, lnet, self.gnet, terminated, s_,
                        buffer_s, buffer_a, buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM,
                    )  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
                if terminated or truncated:
                    break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name)
        env.close()


if __name__ == "__main__":
    constants = check_constants(globals())
    env = make_env()
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # global network
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    workers = [Worker(gnet, opt, global_ep, global_ep_r, res_queue, i) for i in range(N_WORKERS)]
    run = new_run(ENV_NAME)
    print(f"Before training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    res = []
    try:
        run_workers(workers, res_queue, res)
    finally:  # also after Ctrl-C or an error
        save_results(run, gnet, res, constants)
    print(f"After training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    env.close()
    plt.show()
