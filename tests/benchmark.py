"""Speed and memory: the two scripts beside a bare environment, stock parts and Stable-Baselines3.

    python tests/benchmark.py

Each contestant is a process of its own, and all take turns, round after round: what a machine does
besides hits all alike. Medians are printed, as the README's tables (about 20 minutes). Stock parts:
validated distributions, value head and autograd also to act, the default Adam, and load_state_dict
to pull. Stable-Baselines3 takes part where it is installed: benchmark_sb3.py. Needs fork and /proc:
Linux.
"""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "results"))

import continuous_A3C
import discrete_A3C
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from knobs import TIPS, train
from shared_adam import SharedAdam
from utils import run_workers, v_wrap

ROUNDS = 9
SECONDS = 2.0  # of a round
SEEDS = range(10)  # of the runs until CartPole is solved


class StockAdam(torch.optim.Adam):
    def __init__(self, params, lr, betas):
        super().__init__(params, lr=lr, betas=betas)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.tensor(0.0).share_memory_(),
                    "exp_avg": torch.zeros_like(p).share_memory_(),
                    "exp_avg_sq": torch.zeros_like(p).share_memory_(),
                }


class StockDiscreteNet(discrete_A3C.Net):
    def choose_action(self, s):
        logits, _ = self.forward(s)
        return self.distribution(F.softmax(logits, dim=1).detach()).sample().numpy()[0]

    def loss_func(self, s, a, v_t):
        logits, values = self.forward(s)
        td = v_t - values
        m = self.distribution(F.softmax(logits, dim=1))
        a_loss = -m.log_prob(a) * td.detach().squeeze(1) - discrete_A3C.ENTROPY_BETA * m.entropy()
        return (td.pow(2).squeeze(1) + a_loss).sum()


class StockContinuousNet(continuous_A3C.Net):
    def choose_action(self, s):
        mu, sigma, _ = self.forward(s)
        return self.distribution(mu.detach(), sigma.detach()).sample().numpy()[0]

    def loss_func(self, s, a, v_t):
        mu, sigma, values = self.forward(s)
        td = v_t - values
        m = self.distribution(mu, sigma)
        a_loss = -m.log_prob(a) * td.detach() - continuous_A3C.ENTROPY_BETA * m.entropy()
        return td.pow(2).sum() + a_loss.sum()


def stock_push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, max_grad_norm=None):
    v_s_ = 0.0 if done else lnet.forward(v_wrap(s_[None, :]))[-1].detach().numpy()[0, 0]
    buffer_v_target = []
    for r in br[::-1]:
        v_s_ = r + gamma * v_s_
        buffer_v_target.append(v_s_)
    buffer_v_target.reverse()
    a = np.array(ba)
    a = v_wrap(a, dtype=np.int64) if a.dtype == np.int64 else v_wrap(np.vstack(ba))
    loss = lnet.loss_func(v_wrap(np.vstack(bs)), a, v_wrap(np.array(buffer_v_target)[:, None]))
    lnet.zero_grad()
    loss.backward()
    for lp, gp in zip(lnet.parameters(), gnet.parameters()):
        gp.grad = lp.grad
    opt.step()
    lnet.load_state_dict(gnet.state_dict())


class Clock:
    """In the place of the episode counter: a worker runs while the round lasts."""

    def __init__(self, max_ep):
        self.max_ep, self.end = max_ep, time.perf_counter() + SECONDS

    @property
    def value(self):
        return 0 if time.perf_counter() < self.end else self.max_ep


def bare(module):
    """Return the steps per second of `module`'s environment under one action and nothing else."""
    env, n = module.env, 0
    env.reset(seed=0)
    action = env.action_space.sample()
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        _, _, terminated, truncated, _ = env.step(action)
        n += 1
        if terminated or truncated:
            env.reset()
    return n / (time.perf_counter() - start)


def a3c(module, n_workers, net=None, adam=SharedAdam, push=None):
    """Return the env steps per second of `module`'s workers, with stock parts where given."""
    torch.manual_seed(0)
    module.Net, module.push_and_pull = net or module.Net, push or module.push_and_pull
    module.record = lambda *args: None
    gnet = module.Net(module.N_S, module.N_A).share_memory()
    opt = adam(gnet.parameters(), lr=module.LR, betas=module.BETAS)
    clock, queue = Clock(module.MAX_EP), mp.SimpleQueue()
    workers = [module.Worker(gnet, opt, clock, None, queue, i) for i in range(n_workers)]
    _, seconds, failure = run_workers(workers, queue)
    assert failure is None, failure
    return sum(w.n_steps.value for w in workers) / seconds


STOCK = {"adam": StockAdam, "push": stock_push_and_pull}
SPEED = {
    "CartPole, environment alone": lambda: bare(discrete_A3C),
    "CartPole, 1 worker": lambda: a3c(discrete_A3C, 1),
    "CartPole, 2 workers": lambda: a3c(discrete_A3C, 2),
    "CartPole, 1 worker of stock parts": lambda: a3c(discrete_A3C, 1, StockDiscreteNet, **STOCK),
    "Pendulum, environment alone": lambda: bare(continuous_A3C),
    "Pendulum, 1 worker": lambda: a3c(continuous_A3C, 1),
    "Pendulum, 2 workers": lambda: a3c(continuous_A3C, 2),
    "Pendulum, 1 worker of stock parts": lambda: a3c(
        continuous_A3C, 1, StockContinuousNet, **STOCK
    ),
}
SOLVE = {"as shipped, 2 workers": {}, "the three tips, 2 workers": {**TIPS, "MAX_EP": 1000}}
SB3 = "Stable-Baselines3 A2C, 8 environments"


def megabytes(pid):
    """Return the memory of a process and its children: a page of k processes counts 1/k in each."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0.0
    own = re.search(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
    return int(own[1]) / 1024 + sum(map(megabytes, children)) if own else 0.0


def measure(command):
    """Run a contestant; return what its last line says, and its peak memory in MB."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, megabytes(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0, command
    return json.loads(process.stdout.read().splitlines()[-1]), peak


def compare_speed(contestants):
    rounds = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, command in contestants.items():
            rounds[name].append(measure(command))
    print(f"\nMedians of {ROUNDS} rounds of {SECONDS:g} s, in turn")
    print("| contestant | env steps/s | peak memory, MB |\n|---|---|---|")
    for name, results in rounds.items():
        rate, memory = (statistics.median(column) for column in zip(*results))
        print(f"| {name} | {rate:.0f} | {memory:.0f} |")
    for env in ("CartPole", "Pendulum"):
        pairs = zip(rounds[f"{env}, 1 worker"], rounds[f"{env}, 1 worker of stock parts"])
        ratio = statistics.median(ours[0] / stock[0] for ours, stock in pairs)
        print(f"{env}: {ratio:.2f} times the steps/s of stock parts (median of the rounds)")


def compare_solving(contestants):
    runs = {name: [] for name in contestants}
    for seed in SEEDS:
        for name, command in contestants.items():
            runs[name].append(measure([*command, seed])[0])
    print(f"\nCartPole-v0, until 100 returns in a row average 195: medians of {len(SEEDS)} seeds")
    print("| contestant | solved | episodes | seconds (fastest to slowest) |\n|---|---|---|---|")
    for name, results in runs.items():
        solved = [run for run in results if run["solved"]]
        episodes = statistics.median([run["solved"] for run in solved] or [float("nan")])
        seconds = sorted(run["seconds"] for run in solved) or [float("nan")]
        spread = f"{statistics.median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})"
        print(f"| {name} | {len(solved)} of {len(results)} | {episodes:.0f} | {spread} |")


def main():
    speed = {name: (__file__, name) for name in SPEED}
    solve = {name: (__file__, name) for name in SOLVE}
    if importlib.util.find_spec("stable_baselines3"):
        sb3 = Path(__file__).with_name("benchmark_sb3.py")
        speed[f"CartPole, {SB3}"] = (sb3, "seconds", SECONDS)
        solve[SB3] = (sb3, "solve")
    compare_speed(speed)
    compare_solving(solve)


if __name__ == "__main__":
    mp.set_start_method("fork")
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] in SPEED:
        print(json.dumps(SPEED[sys.argv[1]]()))
    else:
        print(json.dumps(train(SOLVE[sys.argv[1]], int(sys.argv[2]))))
