"""Env steps per second of the two scripts beside the same algorithm from stock parts.

    python tests/benchmark.py

One worker, rounds in turn, medians and their ratio: what a machine does besides hits all alike.
Stock parts: validated distributions, value head and autograd also to act, the default Adam, and
load_state_dict to pull.
"""

import contextlib
import io
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import continuous_A3C
import discrete_A3C
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from shared_adam import SharedAdam
from utils import v_wrap

ROUNDS = 30
SECONDS = 0.5  # of a round


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

    def __init__(self, module):
        self.module, self.end = module, time.perf_counter() + SECONDS

    @property
    def value(self):
        return 0 if time.perf_counter() < self.end else self.module.MAX_EP


def steps_per_second(module, net, adam, push_and_pull):
    torch.manual_seed(0)
    shipped = module.Net, module.push_and_pull, module.record
    module.Net, module.push_and_pull = net, push_and_pull
    module.record = lambda *args: None
    try:
        gnet = net(module.N_S, module.N_A).share_memory()
        opt = adam(gnet.parameters(), lr=module.LR, betas=module.BETAS)
        average, queue = mp.Value("d", 0.0), mp.SimpleQueue()
        worker = module.Worker(gnet, opt, None, average, queue, 0)
        start, worker.g_ep = time.perf_counter(), Clock(module)
        worker.run()
        return worker.n_steps.value / (time.perf_counter() - start)
    finally:
        module.Net, module.push_and_pull, module.record = shipped


def environment_alone(module):
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


def main():
    torch.set_num_threads(1)
    for module, stock in (
        (discrete_A3C, StockDiscreteNet),
        (continuous_A3C, StockContinuousNet),
    ):
        contestants = {
            "environment alone": lambda module=module: environment_alone(module),
            "this collection": lambda module=module: steps_per_second(
                module, module.Net, SharedAdam, module.push_and_pull
            ),
            "stock parts": lambda module=module, stock=stock: steps_per_second(
                module, stock, StockAdam, stock_push_and_pull
            ),
        }
        rates = {name: [] for name in contestants}
        for _ in range(ROUNDS):
            for name, contestant in contestants.items():
                with contextlib.redirect_stdout(io.StringIO()):
                    rates[name].append(contestant())
        print(f"{module.ENV_NAME}, env steps per second, median of {ROUNDS} rounds")
        for name, values in rates.items():
            print(f"  {name:18} {statistics.median(values):9.0f}")
        ratios = [a / b for a, b in zip(rates["this collection"], rates["stock parts"])]
        print(f"  this collection / stock parts: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
