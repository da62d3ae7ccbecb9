"""A3C with continuous actions: swings up Pendulum-v1. Run: python continuous_A3C.py

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning": Algorithm S3, with the
entropy bonus of section 4. A worker updates after n steps, or at the end of an episode, with

    R_n  = V(s_n), or 0 if s_n is terminal
    R_i  = r_i + GAMMA R_{i+1}                          for i = n-1, ..., 0
    A_i  = R_i - V(s_i)                                 the advantage; detached in the actor's term
    loss = sum over i of  A_i^2 - log pi(a_i|s_i) A_i - ENTROPY_BETA H(pi(.|s_i))
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
from utils import push_and_pull, record, set_init, v_wrap  # A3C itself
from utils import check_constants, check_env, follow_parent, run_workers, seed_all  # a run
from utils import evaluate, new_run, save_results  # its results

ENV_NAME = "Pendulum-v1"
UPDATE_GLOBAL_ITER = 20  # n: steps per update
GAMMA = 0.95  # discount factor
MAX_EP = 5000  # total episodes, all workers (a few more may finish)
LR = 5e-4  # annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # Adam's decay rates, as for CartPole; the tutorial's are (0.9, 0.99)
ENTROPY_BETA = 0.01  # weight of the entropy bonus
MAX_GRAD_NORM = None  # clip gradients to this L2 norm; None: don't clip
REWARD_SCALE = 16.0  # learn from rewards divided by this; Pendulum's are -16.3 to 0
N_WORKERS = mp.cpu_count()  # worker processes
SEED = 2  # seeds all random number generators
RENDER = False  # show the environment of worker w00


class ClipAction(gym.ActionWrapper):
    """The environment gets the clipped action; the buffer keeps the sampled one, for log pi."""

    def action(self, a):
        # pygame can't scale the arrow that Pendulum draws by a float32.
        dtype = "float64" if ENV_NAME == "Pendulum-v1" else A_LOW.dtype
        return a.clip(A_LOW, A_HIGH).astype(dtype)


def make_env(**options):
    """Return a new environment; options are those of gym.make, such as render_mode="human"."""
    # The checker of gym 0.26 fails with NumPy 2.
    return ClipAction(gym.make(ENV_NAME, disable_env_checker=True, **options))


env = check_env(make_env(), "Box")
N_S, N_A = env.observation_space.shape[0], env.action_space.shape[0]
A_LOW, A_HIGH = env.action_space.low, env.action_space.high
# Middle and half width of the range of actions, (a_dim,)
A_MID, A_HALF = v_wrap((A_HIGH + A_LOW) / 2), v_wrap((A_HIGH - A_LOW) / 2)
env.close()  # each process makes its own


class Net(nn.Module):
    """Actor and critic (tutorial: "Neural Network Architecture")."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.pi1 = nn.Linear(s_dim, 128)
        self.pi2 = nn.Linear(128, 2 * a_dim)
        self.v1 = nn.Linear(s_dim, 128)
        self.v2 = nn.Linear(128, 1)
        set_init([self.pi1, self.pi2, self.v1, self.v2])
        self.distribution = torch.distributions.Normal

    def forward(self, x):
        pi1 = F.relu(self.pi1(x))
        mu, sigma = self.pi2(pi1).chunk(2, dim=-1)
        mu = A_MID + A_HALF * torch.tanh(mu)  # mean, inside the range
        sigma = A_HALF * (F.softplus(sigma) + 1e-3)  # standard deviation; log pi needs it above 0
        v1 = F.relu(self.v1(x))
        values = self.v2(v1)
        return mu, sigma, values  # (n, a_dim), (n, a_dim), (n, 1)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Sample an action for one state (1, s_dim); greedy: return the mean."""
        mu, sigma, _ = self.forward(s)
        if greedy:
            return mu[0].numpy()
        return torch.normal(mu, sigma)[0].numpy()

    def loss_func(self, s, a, v_t):
        """Return the loss of states s (n, s_dim), actions a (n, a_dim), returns v_t (n, 1)."""
        mu, sigma, values = self.forward(s)
        advantage = v_t - values
        c_loss = advantage.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(mu, sigma)
        log_prob = m.log_prob(a).sum(1, keepdim=True)  # dimensions are independent: (n, 1)
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
