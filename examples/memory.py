"""A3C with a memory: catch a ball that is seen only once. Run: python -m examples.memory

The network is an LSTM, the paper's "A3C LSTM": its hidden state remembers what it has seen. Net
differs from that of discrete_A3C.py, and Worker in one line: a new episode starts with an empty
memory. push_and_pull stays. To make it yours, copy this file beside utils.py and shared_adam.py.
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

ENV_NAME = "DarkCatch"  # names the folder in results/
UPDATE_GLOBAL_ITER = 10  # n, steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 20_000  # total episodes, all workers (a few more may finish)
LR = 4e-3  # initial learning rate of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # decay rates of Adam's moving averages
ENTROPY_BETA = 0.03  # weight of the entropy bonus
MAX_GRAD_NORM = None  # clip gradients to this L2 norm; None: don't clip
REWARD_SCALE = 1.0  # learn from rewards divided by this
N_WORKERS = mp.cpu_count()  # worker processes
SEED = 2  # seeds all random number generators

torch.distributions.Distribution.set_default_validate_args(False)  # no checks in each update


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


class DarkCatch(Catch):
    """Catch in the dark: the ball is seen in its first row only."""

    def observe(self):
        screen = super().observe().reshape(8, 8)
        if self.row > 0:
            screen[self.row] = 0.0
            screen[7, self.paddle] = 1.0
        return screen.ravel()


def make_env(**options):
    """Return a new environment; options: render_mode="rgb_array"."""
    return DarkCatch(**options)


env = make_env()
N_S, N_A = env.observation_space.shape[0], int(env.action_space.n)
env.close()  # each process makes its own


class Net(nn.Module):
    """Actor and critic on one LSTM.

    `state` is the memory now, `start` the memory before the n steps of the next update. Both are
    plain tensors, as buffers would be pushed to the global network.
    """

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.lstm = nn.LSTM(s_dim, 64)
        self.pi = nn.Linear(64, a_dim)
        self.v = nn.Linear(64, 1)
        set_init([self.pi, self.v])
        self.distribution = torch.distributions.Categorical
        self.forget()

    def forget(self):
        """Empty the memory, as a new episode starts."""
        self.state = self.start = (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))  # h, c

    def forward(self, x, state=None):
        """Unroll the states (n, s_dim) of n steps from the memory `state`, or from self.state.

        Returns the memory afterwards, logits (n, a_dim) and values (n, 1). self.state stays as it
        is, so that push_and_pull can ask for the value of the last state.
        """
        x, state = self.lstm(x[:, None], self.state if state is None else state)
        return state, self.pi(x[:, 0]), self.v(x[:, 0])

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Sample an action for one state (1, s_dim), and remember the state."""
        self.state, logits, _ = self.forward(s)
        if greedy:
            return logits.argmax().item()
        return F.softmax(logits, dim=1).multinomial(1).item()

    def loss_func(self, s, a, v_t):
        """Return the loss (a scalar): states (n, s_dim), actions (n,), returns v_t (n, 1).

        The n steps are unrolled again, from the memory before them. No gradient flows further back.
        """
        state, logits, values = self.forward(s, self.start)
        self.start = tuple(tensor.detach() for tensor in state)
        assert values.shape == v_t.shape, "v_t - values would broadcast"
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits)
        log_prob = m.log_prob(a)[:, None]
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """The Worker of discrete_A3C.py, but lnet must `forget` the last episode.

    And `make_env` is called without RENDER.
    """

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
            lnet.forget()
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
