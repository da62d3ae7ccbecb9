"""A3C with a memory: catch a ball that is seen only once. Run: python -m examples.memory

The network is an LSTM, as in the paper's "A3C LSTM": what it has seen goes on in a hidden state.
Beside the environment, Net differs from that of discrete_A3C.py, and Worker in one line more;
push_and_pull stays as it is. To make it yours, copy this file beside utils.py and shared_adam.py.
"""

import os
import random
import time

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import gym
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, check_finite, check_shapes, evaluate, follow_parent
from utils import print_greedy, push_and_pull, record, run_workers, save_results, seed_all
from utils import set_init, show_picture, v_wrap

ENV_NAME = "DarkCatch"  # of the files in results/
UPDATE_GLOBAL_ITER = 10  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 20_000  # episodes of all workers together; those under way at the end come on top
LR = 4e-3  # learning rate of Adam at the start; it falls to 0 over the run
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.03  # weight of the entropy bonus (section 4 of the paper, not in S3)
MAX_GRAD_NORM = None  # or a number, such as 40: a longer gradient is scaled down to this L2 norm
REWARD_SCALE = 1.0  # rewards are divided by this to learn from
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 2  # of all random numbers


class Catch(gym.Env):
    """A ball falls through eight rows, one a step. Be under it in the last: it pays 1, else -1."""

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
        """Return the screen as a picture (80, 80, 3), for examples/watch.py."""
        screen = np.uint8(255 * self.observe().reshape(8, 8, 1))
        return screen.repeat(10, axis=0).repeat(10, axis=1).repeat(3, axis=2)


class DarkCatch(Catch):
    """Catch in the dark: the ball is seen in its first row only."""

    def observe(self):
        screen = super().observe().reshape(8, 8)
        if self.row > 0:
            screen[self.row] = 0.0
            screen[7, self.paddle] = 1.0
        return screen.ravel()


def make_env(render=False):
    """Return a new environment, one that makes pictures if `render`."""
    return DarkCatch("rgb_array" if render else None)


env = make_env()
N_S, N_A = env.observation_space.shape[0], int(env.action_space.n)


class Net(nn.Module):
    """Actor and critic on one LSTM, whose hidden state is a memory of the episode.

    `state` is the memory now; `start` is that before the first of the n steps of the next update.
    Both are plain tensors: as buffers, they would be pushed to the global network.
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
        """Empty the memory: a new episode begins."""
        self.state = self.start = (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))  # h, c

    def forward(self, x, state=None):
        """Go through states (n, s_dim), one step after another, from the memory `state`.

        Returns the memory afterwards, logits (n, a_dim) and values (n, 1). Without a `state` it
        goes on from `self.state`. That stays where it is, so push_and_pull may ask for the value of
        the last state, and the worker still has that state before it.
        """
        x, state = self.lstm(x[:, None], self.state if state is None else state)
        return state, self.pi(x[:, 0]), self.v(x[:, 0])

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Draw an action for one state (1, s_dim), and keep it in memory; greedy: the likeliest."""
        self.state, logits, _ = self.forward(s)
        probs = F.softmax(logits, dim=1)[0].tolist()
        check_finite("policy", sum(probs), self, s)
        if greedy:
            return logits.argmax().item()
        return random.choices(range(self.a_dim), probs)[0]  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, s_dim), actions (n,) and returns (n, 1).

        The n steps are unrolled once more, from the memory at their beginning, which then moves on
        to their end. It is a constant to the gradients: none flows past the n steps.
        """
        state, logits, values = self.forward(s, self.start)
        self.start = tuple(tensor.detach() for tensor in state)
        m = self.distribution(logits=logits, validate_args=False)
        check_shapes(s, a, v_t, values, m)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        log_prob = m.log_prob(a).view(len(a), -1)
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name`, as in discrete_A3C.py but for `FALL_REWARD` and `make_env`.

    At the beginning of an episode its network must `forget` the last one.
    """

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.n_steps = mp.Value("q", 0, lock=False)  # S3: initialize t; the parent reads it
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent: each worker's differs

    def run(self):
        follow_parent()
        seed_all(self.seed)
        env = make_env()
        env.reset(seed=self.seed)
        gnet, opt = self.gnet, self.opt
        lnet = Net(N_S, N_A)  # the local network
        lnet.load_state_dict(gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealed to 0 as in the paper's experiments (its supplement); S3 does not say so.
            opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, _ = env.reset()  # S3: get state
            lnet.forget()
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                self.n_steps.value += 1  # S3: t = t + 1
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                # S3: until terminal or t_max; a time limit (truncated) is not terminal
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    push_and_pull(opt, lnet, gnet, terminated, s_, buffer_s, buffer_a, buffer_r,
                                  GAMMA, max_grad_norm=MAX_GRAD_NORM)  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []
                    if terminated or truncated:
                        break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name)


class Forgetful(gym.Wrapper):
    """An environment whose reset() makes `net` forget, for evaluate: it knows of no memory."""

    def __init__(self, env, net):
        super().__init__(env)
        self.net = net

    def reset(self, **options):
        self.net.forget()
        return self.env.reset(**options)


if __name__ == "__main__":
    check_constants(globals())
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # the global network
    env = Forgetful(env, gnet)
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer; workers set its lr
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    workers = [Worker(gnet, opt, global_ep, global_ep_r, res_queue, i) for i in range(N_WORKERS)]
    before = evaluate(gnet, env, SEED)
    res = []
    begin = time.perf_counter()
    try:
        run_workers(workers, res_queue, res)
    finally:
        seconds = time.perf_counter() - begin
        title = (
            f"{UPDATE_GLOBAL_ITER = }, {GAMMA = }, {MAX_EP = }, {LR = }, {BETAS = }, "
            f"{ENTROPY_BETA = }, {MAX_GRAD_NORM = }, {REWARD_SCALE = }, "
            f"{N_WORKERS = }, {SEED = }"
        )
        saved = save_results(gnet, res, ENV_NAME, title)
        steps = sum(worker.n_steps.value for worker in workers)
        print(f"{len(res)} episodes in {seconds:.1f} s, {steps / seconds:.0f} env steps/s")
    print_greedy(gnet, env, SEED, before)
    show_picture()
    if not saved:
        raise SystemExit(1)  # save_results has said why
