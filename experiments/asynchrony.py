"""Show what is asynchronous: the age of gradients. Run: python -m experiments.asynchrony

The age of a gradient is the number of updates by other workers between its pull and its push.
CartPole is trained as shipped, up to UPDATES; push_and_pull and opt.step are wrapped from outside.
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch.multiprocessing as mp

import discrete_A3C as script
from experiments import lab
from shared_adam import SharedAdam
from utils import run_workers, seed_all

DATA = Path(__file__).with_name("asynchrony.json")
ROWS = {f"N_WORKERS = {n}": lab.Row(range(1), {"N_WORKERS": n}) for n in (1, 2, 4, 8)}
UPDATES = 40_000  # of all workers; the first half, until all have begun, does not count
SHOWN = 0.012  # seconds of the life of two workers


class Worker(script.Worker):
    """Notes the age of each gradient, and when act, gradients, Adam and pull begin and end."""

    def run(self):
        self.updates, self.end, self.pulled = [], time.perf_counter(), self.gnet.count.value
        self.step, self.push_and_pull = self.opt.step, script.push_and_pull
        self.opt.step, script.push_and_pull = self.timed_step, self.timed_push_and_pull
        super().run()
        self.res_queue.put((self.name, self.updates[len(self.updates) // 2 :]))

    def timed_step(self):
        self.age, begin = self.gnet.count.value - self.pulled, time.perf_counter()
        self.step()
        self.adam = [begin, time.perf_counter()]
        with self.gnet.count.get_lock():
            self.gnet.count.value += 1

    def timed_push_and_pull(self, *arguments, **options):
        begin, acted = self.end, time.perf_counter()
        numbers = self.push_and_pull(*arguments, **options)
        self.end, self.pulled = time.perf_counter(), self.gnet.count.value
        self.updates.append([self.age, begin, acted, *self.adam, self.end])
        if self.pulled >= UPDATES:
            self.g_ep.value = script.MAX_EP
        return numbers


def measure(name, seed):
    """Return how often each age was seen, and the updates of SHOWN seconds, a list a worker."""
    seed_all(seed)
    gnet = script.Net(script.N_S, script.N_A).share_memory()
    gnet.count = mp.Value("i", 0)  # updates of all workers; Adam's own `step` may lose some
    opt = SharedAdam(gnet.parameters(), lr=script.LR, betas=script.BETAS)
    shared = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    workers = [Worker(gnet, opt, *shared, i) for i in range(ROWS[name].constants["N_WORKERS"])]
    run_workers(workers, shared[2], res := [])
    lives = [np.array(life) for _, life in sorted(r for r in res if isinstance(r, tuple))]
    ages, begins = np.concatenate(lives)[:, :2].T
    begin = np.median(begins)
    lives = [life - [0, *[begin] * 5] for life in lives]
    lives = [life[(life[:, -1] > 0) & (life[:, 1] < SHOWN)].round(6).tolist() for life in lives]
    return {"ages": np.bincount(ages.astype(int)).tolist(), "lives": lives}


def draw(data):
    fig, (life, share) = plt.subplots(2, 1, figsize=(8, 5.5), layout="constrained")
    for row, updates in enumerate(data["N_WORKERS = 2"]["0"]["lives"]):
        ages, *times = np.reshape(updates, (-1, 6)).T
        for i, part in enumerate(["act", "gradients", "Adam", "pull"]):
            bars = np.transpose([times[i], times[i + 1] - times[i]]) * 1000
            life.broken_barh(bars, (row - 0.3, 0.6), color=f"C{i}", label=part if row else None)
        for age, t in zip(ages, times[2]):
            life.text(1000 * t, row + 0.35, f"{age:.0f}", clip_on=True)
    life.legend(ncols=4, loc="upper center")
    life.set(xlim=(0, 1000 * SHOWN), ylim=(-0.5, 2.1), yticks=(0, 1), yticklabels=("w00", "w01"))
    life.set(xlabel="Milliseconds", title="Two workers; above each update, the age of its gradient")
    for name, [run] in lab.results(data, ROWS).items():
        shares = np.divide(run["ages"], sum(run["ages"]))
        mean = shares @ range(len(shares))
        share.plot(shares, ".-", label=f"{name}: {shares[0]:.0%} fresh, mean age {mean:.1f}")
    share.set(xlabel="Age of a gradient: updates by others", ylabel="Share", xlim=(-0.5, 15.5))
    share.legend()
    fig.savefig(DATA.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    draw(lab.fill(DATA, ROWS, measure, sys.argv[1:]))
