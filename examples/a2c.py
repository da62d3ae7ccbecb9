"""A2C: A3C without the first A (asynchronous). Run: python -m examples.a2c

To be read beside discrete_A3C.py, whose network, loss and n-step returns it uses. There, each
worker steps an environment of its own and updates the weights whenever it has n steps. Here, one
process steps N_ENVS environments together: one forward pass chooses all actions, and one update
learns from all n * N_ENVS steps. No gradient is stale, and nothing is shared; but there are fewer
updates for the same number of steps, so LR is higher.

ENV_NAME is that of discrete_A3C.py: change it there.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch

import queue
import signal
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

import discrete_A3C
from discrete_A3C import ENV_NAME, N_A, N_S, Net, make_env
from utils import check_constants, evaluate, new_run, record, save_results, seed_all, v_wrap

UPDATE_GLOBAL_ITER = 20  # n: steps per update, in each environment
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # total episodes, all environments (a few more may finish)
LR = 8e-3  # of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # Adam's decay rates
ENTROPY_BETA = 0.01  # weight of the entropy bonus
REWARD_SCALE = 10.0  # learn from rewards divided by this
N_ENVS = 8  # environments that step together
SEED = 2  # seeds all random number generators

discrete_A3C.ENTROPY_BETA = ENTROPY_BETA  # loss_func reads it there


@torch.no_grad()
def choose_actions(net, s):
    """Sample an action for each of the states s (N_ENVS, s_dim); return a list."""
    logits, _ = net(v_wrap(s))
    return F.softmax(logits, dim=1).multinomial(1)[:, 0].tolist()


@torch.no_grad()
def values_of(net, s):
    """Return V(s) of the states s (n, s_dim) as an array (n,)."""
    return net(v_wrap(s))[-1][:, 0].numpy()


def play(net, envs, s, ep_r):
    """Play n steps in all environments, from the states s (N_ENVS, s_dim).

    ep_r (N_ENVS,) has the returns so far of the episodes under way; it is updated. Returns the
    states after the n steps, the arguments of loss_func (the N_ENVS samples of the first step,
    then those of the second, and so on), and the list of returns of the episodes that ended.
    """
    shape = UPDATE_GLOBAL_ITER, len(envs)
    buffer_s, buffer_a, finished = [], [], []
    buffer_r, ended = np.zeros(shape), np.zeros(shape, bool)
    final_values = np.zeros(shape)  # V of an episode's final state; 0 if it is terminal
    for step in range(UPDATE_GLOBAL_ITER):
        buffer_s.append(s)
        a = choose_actions(net, s)  # S3: perform a_t
        buffer_a.append(a)
        states = []
        for i, env in enumerate(envs):
            s_, r, terminated, truncated, _ = env.step(a[i])  # S3: receive reward and new state
            ep_r[i] += r
            buffer_r[step, i] = r / REWARD_SCALE
            if terminated or truncated:
                ended[step, i] = True
                if not terminated:  # at a time limit the return bootstraps
                    final_values[step, i] = values_of(net, s_[None])[0]
                finished.append(ep_r[i])
                ep_r[i] = 0.0
                s_, _ = env.reset()  # the episode ends, but not the n steps
            states.append(s_)
        s = np.stack(states)

    R = values_of(net, s)  # S3: bootstrap from last state
    returns = np.zeros(shape)
    for step in reversed(range(UPDATE_GLOBAL_ITER)):  # S3: for i, backwards
        R = np.where(ended[step], final_values[step], R)  # returns stop at an episode's end
        R = buffer_r[step] + GAMMA * R  # S3: R = r_i + gamma R
        returns[step] = R
    a, v_t = v_wrap(np.concatenate(buffer_a), np.int64), v_wrap(returns).view(-1, 1)
    return s, (v_wrap(np.concatenate(buffer_s)), a, v_t), finished


if __name__ == "__main__":
    check_constants(globals())
    env = make_env()
    seed_all(SEED)
    net = Net(N_S, N_A)  # acts and learns: no local network
    opt = torch.optim.Adam(net.parameters(), lr=LR, betas=BETAS)
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), queue.SimpleQueue()
    envs = [make_env() for _ in range(N_ENVS)]
    s = np.stack([env.reset(seed=torch.randint(2**31, ()).item())[0] for env in envs])
    ep_r = np.zeros(N_ENVS)
    run = new_run(f"{ENV_NAME}-A2C", globals().get("__file__"))
    print(f"Before training, the greedy policy returns {evaluate(net, env, SEED).mean():.2f}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))  # saves: see finally
    try:
        while global_ep.value < MAX_EP:
            opt.param_groups[0]["lr"] = LR * (1.0 - global_ep.value / MAX_EP)
            s, batch, finished = play(net, envs, s, ep_r)
            opt.zero_grad()  # clears the right gradients: here, opt and loss have the same network
            net.loss_func(*batch).backward()
            opt.step()
            for episode_return in finished:
                record(global_ep, global_ep_r, episode_return, res_queue, "w00", [net.log])
    finally:  # also after Ctrl-C or an error
        res = [res_queue.get() for _ in range(res_queue.qsize())]
        save_results(run, net, res, globals())
    print(f"After training, the greedy policy returns {evaluate(net, env, SEED).mean():.2f}")
    env.close()
    plt.show()
