"""A3C with continuous actions: learns to swing up Pendulum-v1. Run: python continuous_A3C.py

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", Algorithm S3:

    R_i  = r_i + GAMMA r_{i+1} + ... + GAMMA^(n-i) R    R = 0 if s_n is terminal, V(s_n) if not
    A_i  = R_i - V(s_i)                                 the advantage, a constant to the actor
    loss = sum over i of  A_i^2 - log pi(a_i|s_i) A_i - ENTROPY_BETA H(pi(.|s_i))
"""

import os
import time
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import gym
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, check_env, check_finite, check_shapes, evaluate, follow_parent
from utils import print_greedy, push_and_pull, record, run_workers, save_results, seed_all
from utils import set_init, show_picture, v_wrap

ENV_NAME = "Pendulum-v1"
UPDATE_GLOBAL_ITER = 20  # n, the steps between two updates
GAMMA = 0.95  # discount factor
MAX_EP = 5000  # episodes of all workers together; those under way at the end come on top
LR = 5e-4  # learning rate of Adam at the start; it falls to 0 over the run
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus (section 4 of the paper, not in S3)
MAX_GRAD_NORM = None  # or a number, such as 40: a longer gradient is scaled down to this L2 norm
REWARD_SCALE = 16.0  # rewards are divided by this to learn from; Pendulum pays 0 to -16.3 a step
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 2  # of all random numbers
RENDER = False  # True: worker w00 shows its environment


def make_env(render=False):
    """Return a new environment. `render`: True for a window, or a render mode of Gym's."""
    options = {}
    if render:
        options["render_mode"] = "human" if render is True else render
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date")  # CartPole-v0 is meant
        return gym.make(ENV_NAME, disable_env_checker=True, **options)


try:
    env = make_env()
    N_S, N_A = env.observation_space.shape[0], env.action_space.shape[0]
    A_LOW, A_HIGH = env.action_space.low, env.action_space.high
    A_MID, A_HALF = v_wrap((A_HIGH + A_LOW) / 2), v_wrap((A_HIGH - A_LOW) / 2)
    A_TYPE = "float64" if RENDER and ENV_NAME == "Pendulum-v1" else A_LOW.dtype  # gym draws it
    env.close()  # each worker makes its own
except Exception:  # main says what is wrong with ENV_NAME
    N_S, N_A = None, None


class Net(nn.Module):
    """Actor and critic of states (n, s_dim) (tutorial: "Neural Network Architecture")."""

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
        mu = A_MID + A_HALF * torch.tanh(mu)
        sigma = A_HALF * (F.softplus(sigma) + 1e-3)
        v1 = F.relu(self.v1(x))
        values = self.v2(v1)
        return mu, sigma, values  # (n, a_dim), (n, a_dim), (n, 1)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Draw an action for one state (1, s_dim); greedy: take the likeliest."""
        mu, sigma, _ = self.forward(s)
        check_finite("policy", (mu + sigma).max().item(), self, s)
        if greedy:
            return mu[0].numpy().clip(A_LOW, A_HIGH)  # rounding may lead out of them
        return (mu + sigma * torch.randn_like(mu))[0].numpy()  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, s_dim), actions (n, ...) and returns (n, 1)."""
        mu, sigma, values = self.forward(s)
        m = self.distribution(mu, sigma, validate_args=False)
        check_shapes(s, a, v_t, values, m)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        log_prob = m.log_prob(a).view(len(a), -1)
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name`: one thread of S3 (tutorial: "Training Loop")."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.n_steps = mp.Value("q", 0, lock=False)  # S3: initialize t; the parent reads it
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent: each worker's differs

    def run(self):
        follow_parent()
        seed_all(self.seed)
        env = make_env(RENDER and self.name == "w00")
        env.reset(seed=self.seed)
        gnet, opt = self.gnet, self.opt
        lnet = Net(N_S, N_A)  # the local network
        lnet.load_state_dict(gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealed to 0 as in the paper's experiments (its supplement); S3 does not say so.
            opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                buffer_a.append(a)
                a = a.clip(A_LOW, A_HIGH).astype(A_TYPE)  # for env; the loss needs it as drawn
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


if __name__ == "__main__":
    check_constants(globals())
    env = check_env(ENV_NAME, make_env, gym.spaces.Box)
    threshold = env.spec.reward_threshold if env.spec else None  # of the picture's dashed line
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # the global network
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
        saved = save_results(gnet, res, ENV_NAME, title, threshold)
        steps = sum(worker.n_steps.value for worker in workers)
        print(f"{len(res)} episodes in {seconds:.1f} s, {steps / seconds:.0f} env steps/s")
    print_greedy(gnet, env, SEED, before)
    show_picture()
    if not saved:
        raise SystemExit(1)  # save_results has said why
