"""One update of A3C, number by number. Run: python -m examples.one_update

The network is that of discrete_A3C.py, the update is push_and_pull, the symbols are README.md's.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch

import copy
from pathlib import Path

import numpy as np
import torch

import discrete_A3C
from examples.watch import find_program, load
from shared_adam import SharedAdam
from utils import push_and_pull, seed_all, v_wrap

WEIGHTS = None  # fresh; or the folder of a CartPole run, "examples/weights/CartPole-v0"
SEED = 2  # of fresh weights, of the environment and of the actions
N = 5  # steps; CartPole's shortest episode has more


def on_paper():
    """Return lines: the returns and advantages of three steps, with their arithmetic."""
    gamma, rewards, values, R = 0.5, [1, 0, 2], [1, 3, 3], 4
    lines = [f"gamma = {gamma}, r_i = {rewards}, V(s_i) = {values}, R_3 = V(s_3) = {R}"]
    for i in reversed(range(3)):
        sum_ = f"{rewards[i]} + {gamma} * {R:g}"
        R = rewards[i] + gamma * R
        advantage = f"A_{i} = R_{i} - V(s_{i}) = {R:g} - {values[i]} = {R - values[i]:+g}"
        lines.append(f"R_{i} = r_{i} + gamma R_{i + 1} = {sum_} = {R:g}    {advantage}")
    return lines


@torch.no_grad()
def look(net, states):
    """Return pi (n, 2) and V(s_i) (n,)."""
    logits, values = net(v_wrap(states))
    return logits.softmax(dim=1), values[:, 0]


def update(script, gnet, done, s_, bs, ba, br):
    """Update gnet; return R_i (n,), the loss, and the log: inf clips nothing, but logs the norm."""
    lnet, seen = copy.deepcopy(gnet), []
    loss_func = lnet.loss_func

    def listen(s, a, v_t):
        seen.extend([v_t[:, 0], loss_func(s, a, v_t)])
        return seen[1]

    lnet.loss_func = listen
    opt = SharedAdam(gnet.parameters(), lr=script.LR, betas=script.BETAS)
    log = push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, script.GAMMA, max_grad_norm=np.inf)
    return seen[0], seen[1].item(), log


def one_update(script, gnet):
    """Play N steps, update gnet, and return lines that show all of it."""
    old, env = copy.deepcopy(gnet), script.make_env()
    s, _ = env.reset(seed=SEED)
    bs, ba, br = [], [], []
    for _ in range(N):
        bs.append(s)
        ba.append(gnet.choose_action(v_wrap(s)[None]))
        s, r, _, _, _ = env.step(ba[-1])
        br.append(r / script.REWARD_SCALE)
    R, loss, log = update(script, gnet, False, s, bs, ba, br)
    (pi, V), (new_pi, new_V), (_, V_N) = look(old, bs), look(gnet, bs), look(old, [s])
    A, p, new_p = R - V, pi[range(N), ba], new_pi[range(N), ba]
    names, notes = [("left", "right")[a] for a in ba], []
    lines = ["i  pole angle pi(left, right)  a_i     r_i   V(s_i)     R_i     A_i  log pi(a_i|s_i)"]
    for i in range(N):
        policy = f"{bs[i][2]:+10.3f}    {pi[i, 0]:.3f} {pi[i, 1]:.3f}  {names[i]:5}"
        critic = f"{br[i]:5.2f} {V[i]:8.3f} {R[i]:7.3f} {A[i]:+7.3f}"
        lines.append(f"{i}  {policy}  {critic}  {p[i].log():15.3f}")
    bootstrap = f"{br[-1]:g} + {script.GAMMA} * {V_N.item():.3f} = {R[-1]:.3f}"
    lines += [
        f"R_{N - 1} = r_{N - 1} + GAMMA V(s_{N}) = {bootstrap}\n",
        f"sum of A_i^2                 {N * log['value error']:8.3f}",
        f"-sum of A_i log pi(a_i|s_i)  {-(A * p.log()).sum():8.3f}",
        f"-ENTROPY_BETA * sum of H     {-script.ENTROPY_BETA * N * log['entropy']:8.3f}",
        f"loss                         {loss:8.3f}",
        f"norm of its gradient         {log['gradient norm']:8.3f}\n",
        "i  a_i       A_i  pi(a_i|s_i)       V(s_i), before -> after",
    ]
    for i in range(N):
        moves = f"{p[i]:.4f} -> {new_p[i]:.4f}"
        lines.append(f"{i}  {names[i]:5} {A[i]:+7.3f}  {moves}  {V[i]:6.3f} -> {new_V[i]:6.3f}")
        if A[i] * (new_p[i] - p[i]) < 0:
            alone = copy.deepcopy(old)
            update(script, alone, True, s, [bs[i]], [ba[i]], [R[i].item()])
            to = look(alone, bs)[0][i, ba[i]].item()
            notes.append(f"Step {i}: A is {A[i]:+.3f}, and yet pi({names[i]}) goes {moves}. This")
            notes.append(f"step alone would bring it to {to:.4f}: all steps share the weights.")
    return lines + notes


def main():
    seed_all(SEED)
    script, net = discrete_A3C, discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
    if WEIGHTS is not None:
        script, net = load(find_program(Path(WEIGHTS)), WEIGHTS)
    print("Three steps on paper:", *on_paper(), sep="\n")
    print(f"\nCartPole, n = {N}, weights: {WEIGHTS or 'fresh'}", *one_update(script, net), sep="\n")


if __name__ == "__main__":
    main()
