"""A3C with discrete actions: learns to balance CartPole-v0. Run: python discrete_A3C.py

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", Algorithm S3:

    R_i  = r_i + GAMMA r_{i+1} + ... + GAMMA^(n-i) R    R = 0 if s_n is terminal, V(s_n) if not
    A_i  = R_i - V(s_i)                                 the advantage, a constant to the actor
    loss = sum over i of  A_i^2 - log pi(a_i|s_i) A_i - ENTROPY_BETA H(pi(.|s_i))
"""

import os
import random

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, evaluate, follow_parent, make_env, run_workers
from utils import push_and_pull, record, save_results, seed_all, set_init, v_wrap

ENV_NAME = "CartPole-v0"
UPDATE_GLOBAL_ITER = 5  # n, the steps between two updates
GAMMA = 0.9  # discount factor
MAX_EP = 3000  # episodes of all workers together
LR = 1e-4  # learning rate of Adam
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus
MAX_GRAD_NORM = None  # 40 clips the gradient to that L2 norm
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 0  # of all random numbers
RENDER = False  # True: worker w00 shows its environment
FALL_REWARD = -1.0 if "CartPole" in ENV_NAME else None  # to learn from: CartPole pays 1 for a fall
env = make_env(gym.make, ENV_NAME, gym.spaces.Discrete)
N_S, N_A = env.observation_space.shape[0], int(env.action_space.n)


class Net(nn.Module):
    """Actor and critic: states (n, s_dim) to logits (n, a_dim) and values (n, 1)."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.pi1 = nn.Linear(s_dim, 128)
        self.pi2 = nn.Linear(128, a_dim)
        self.v1 = nn.Linear(s_dim, 128)
        self.v2 = nn.Linear(128, 1)
        set_init([self.pi1, self.pi2, self.v1, self.v2])
        self.distribution = torch.distributions.Categorical

    def forward(self, x):
        pi1 = F.relu(self.pi1(x))
        logits = self.pi2(pi1)
        v1 = F.relu(self.v1(x))
        values = self.v2(v1)
        return logits, values

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Draw an action, an int, for one state (1, s_dim); greedy: take the likeliest."""
        logits, _ = self.forward(s)
        if greedy:
            return logits.argmax().item()
        probs = F.softmax(logits, dim=1).tolist()[0]
        return random.choices(range(self.a_dim), probs)[0]  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, s_dim), their actions and returns (n, 1)."""
        logits, values = self.forward(s)
        if values.shape != v_t.shape:
            raise ValueError(f"Values {values.shape}, returns {v_t.shape}: give states (n, s_dim).")
        td = (v_t - values).detach()  # the advantage
        c_loss = F.mse_loss(values, v_t, reduction="sum")  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits, validate_args=False)
        a_loss = -(m.log_prob(a) * td[:, 0]).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name` (S3, one thread of it; tutorial: "Training Loop")."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name):
        super().__init__(name=name if isinstance(name, str) else f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.n_steps = mp.Value("q", 0, lock=False)  # env steps so far
        self.seed = torch.randint(2**31, ()).item()  # its own: a fork copies the generators

    def run(self):
        follow_parent()
        seed_all(self.seed)
        env = make_env(gym.make, ENV_NAME, gym.spaces.Discrete, RENDER and self.name == "w00")
        env.reset(seed=self.seed)
        gnet, opt = self.gnet, self.opt
        lnet = Net(N_S, N_A)  # the local network
        lnet.load_state_dict(gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward
                ep_r += r
                if terminated and FALL_REWARD is not None:
                    r = FALL_REWARD
                buffer_a.append(a)
                buffer_r.append(r)
                # S3: until terminal or t_max; a time limit (truncated) is not terminal
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    self.n_steps.value += len(buffer_s)
                    push_and_pull(opt, lnet, gnet, terminated, s_, buffer_s, buffer_a, buffer_r,
                                  GAMMA, max_grad_norm=MAX_GRAD_NORM)  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []
                    if terminated or truncated:
                        break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name)


if __name__ == "__main__":
    title = check_constants(UPDATE_GLOBAL_ITER, GAMMA, MAX_EP, LR, BETAS, ENTROPY_BETA,
                            MAX_GRAD_NORM, N_WORKERS, SEED, RENDER)  # fmt: skip
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # the global network
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # the global optimizer
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    workers = [Worker(gnet, opt, global_ep, global_ep_r, res_queue, i) for i in range(N_WORKERS)]
    res, seconds, failure = run_workers(workers, res_queue)
    saved = save_results(gnet, res, ENV_NAME, title, env.spec.reward_threshold)
    speed = sum(w.n_steps.value for w in workers) / seconds
    print(f"{len(res)} episodes in {seconds:.1f} s, {speed:.0f} env steps/s")
    if failure is None:
        greedy = [evaluate(gnet, env, SEED + episode, episodes=1) for episode in range(10)]
        mean, spread = sum(greedy) / 10, f"{min(greedy):.1f} to {max(greedy):.1f}"
        print(f"Greedy policy: mean return {mean:.1f} over 10 episodes, {spread}")
        plt.show()
    raise SystemExit(failure or int(not saved))
