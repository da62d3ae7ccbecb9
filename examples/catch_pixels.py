"""A3C from images: catches a ball in 80 x 80 pixels. Run: python -m examples.catch_pixels

Images are (channels, height, width), as Conv2d wants them, with values from 0 to 1. `diff
discrete_A3C.py examples/catch_pixels.py` shows what they change. To make it yours, copy this file
beside utils.py and shared_adam.py and set ENV_NAME.

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning": Algorithm S3, with the
entropy bonus of section 4. A worker updates after n steps, or at the end of an episode, with

    R_n  = V(s_n), or 0 if s_n is terminal
    R_i  = r_i + GAMMA R_{i+1}                          for i = n-1, ..., 0
    A_i  = R_i - V(s_i)                                 the advantage; detached in the actor's term
    loss = sum over i of  A_i^2 - log pi(a_i|s_i) A_i - ENTROPY_BETA H(pi(.|s_i))
"""

import os
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch, or forked workers may hang

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import push_and_pull, record, set_init, v_wrap  # A3C itself
from utils import check_constants, follow_parent, run_workers, seed_all  # a run
from utils import evaluate, new_run, save_results  # its results

ENV_NAME = "examples.catch:PixelCatch-v0"
UPDATE_GLOBAL_ITER = 10  # n: steps per update
GAMMA = 0.99  # discount factor
MAX_EP = 6000  # total episodes, all workers (a few more may finish)
LR = 1e-3  # of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # Adam's decay rates, as for CartPole; the tutorial's are (0.9, 0.99)
ENTROPY_BETA = 0.1  # weight of the entropy bonus; high, to try all columns
MAX_GRAD_NORM = None  # clip gradients to this L2 norm; None: don't clip
REWARD_SCALE = 1.0  # learn from rewards divided by this
N_WORKERS = mp.cpu_count()  # worker processes
SEED = 2  # seeds all random number generators
RENDER = False  # show the environment of worker w00

warnings.filterwarnings("ignore", message=".*out of date")  # gym recommends CartPole-v1


def make_env(**options):
    """Return a new environment; options are those of gym.make, such as render_mode="human"."""
    # The checker of gym 0.26 fails with NumPy 2.
    return gym.make(ENV_NAME, disable_env_checker=True, **options)


env = make_env()
N_S, N_A = env.observation_space.shape, int(env.action_space.n)
env.close()  # each process makes its own


class Net(nn.Module):
    """Actor and critic on the paper's two convolutions; s_dim is (channels, height, width)."""

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
        return F.softmax(logits, dim=1).multinomial(1).item()  # as distribution.sample(), faster

    def loss_func(self, s, a, v_t):
        """Return the loss of images s (n, *s_dim), actions a (n,), returns v_t (n, 1)."""
        logits, values = self.forward(s)
        advantage = v_t - values
        c_loss = advantage.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits)
        log_prob = m.log_prob(a)[:, None]  # (n, 1); (n,) times (n, 1) would be (n, n)
        assert log_prob.shape == values.shape == v_t.shape, "A_i log pi(a_i|s_i) would broadcast"
        a_loss = -(log_prob * advantage.detach()).sum()  # S3: accumulate gradients, actor
        entropy = m.entropy().sum()
        self.log = {"entropy": entropy.item() / len(s), "value error": c_loss.item() / len(s)}
        return c_loss + a_loss - ENTROPY_BETA * entropy


class Worker(mp.Process):
    """An actor-learner, one thread of S3 (tutorial: "Training Loop"); name is its number."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent, so workers differ

    def run(self):
        follow_parent()  # end when the parent ends; leave Ctrl-C to it
        torch.set_num_threads(1)  # in case torch was imported before OMP_NUM_THREADS was set
        seed_all(self.seed)
        env = make_env(render_mode="human") if RENDER and self.name == "w00" else make_env()
        env.reset(seed=self.seed)  # seeds the environment; later resets go on from it
        lnet = Net(N_S, N_A)  # local network
        lnet.load_state_dict(self.gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealing is not in S3, but in the paper's experiments.
            self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r, log = 0.0, []
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may reuse its array
                a = lnet.choose_action(v_wrap(s)[None])  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    # Pass terminated only: at a time limit (truncated) the return still bootstraps.
                    numbers = push_and_pull(
                        self.opt, lnet, self.gnet, terminated, s_,
                        buffer_s, buffer_a, buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM,
                    )  # fmt: skip
                    log.append(numbers)
                    buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
                if terminated or truncated:
                    break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name, log)
        env.close()


if __name__ == "__main__":
    check_constants(globals())
    env = make_env()
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # global network
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    workers = [Worker(gnet, opt, global_ep, global_ep_r, res_queue, i) for i in range(N_WORKERS)]
    run = new_run(ENV_NAME, globals().get("__file__"))
    print(f"Before training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    res = []
    try:
        run_workers(workers, res_queue, res)
    finally:  # also after Ctrl-C or an error
        save_results(run, gnet, res, globals())
    print(f"After training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    env.close()
    plt.show()
