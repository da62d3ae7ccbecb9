"""Show what is asynchronous: the age of gradients. Run: python -m experiments.asynchrony

The age of a gradient is the number of updates by others between its pull and its push. CartPole is
trained as shipped with 1, 2, 4 and 8 workers; push_and_pull and opt.step are wrapped from outside.
What was measured is kept in asynchrony.json; remove it to measure again (a minute on 2 cores).
"""

import json
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch.multiprocessing as mp

import discrete_A3C as script
import utils
from experiments.lab import machine
from shared_adam import SharedAdam

FOLDER = Path(__file__).parent
DATA = FOLDER / "asynchrony.json"
WORKERS = (1, 2, 4, 8)
UPDATES = 5000  # of each worker, of which the times of the last KEPT are kept
KEPT = 200
SHOWN = 0.012  # seconds
PARTS = {"act": "tab:blue", "gradients": "tab:orange", "Adam": "tab:green", "pull": "tab:red"}


class Worker(script.Worker):
    """Notes five times of each update, the ends of PARTS, and its age."""

    def run(self):
        self.updates, self.step, self.push_and_pull = [], self.opt.step, script.push_and_pull
        self.count = self.opt.state[next(self.gnet.parameters())]["step"]  # of all updates
        self.end, self.pulled = time.perf_counter(), self.count.item()
        self.opt.step, script.push_and_pull = self.timed_step, self.timed_push_and_pull
        super().run()
        self.res_queue.put((self.name, [age for _, age in self.updates], self.updates[-KEPT:]))

    def timed_step(self):
        self.times = [time.perf_counter()]
        self.age = self.count.item() - self.pulled
        self.step()
        self.times.append(time.perf_counter())

    def timed_push_and_pull(self, *arguments, **options):
        begin, acted = self.end, time.perf_counter()
        self.push_and_pull(*arguments, **options)
        self.end, self.pulled = time.perf_counter(), self.count.item()
        self.updates.append(([begin, acted, *self.times, self.end], self.age))
        if len(self.updates) == UPDATES:
            self.g_ep.value = script.MAX_EP  # enough for all


def measure(n_workers):
    """Return {worker: (ages of its gradients, its last updates)}."""
    utils.seed_all(script.SEED)
    gnet = script.Net(script.N_S, script.N_A).share_memory()
    opt = SharedAdam(gnet.parameters(), lr=script.LR, betas=script.BETAS)
    shared, res = (mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()), []
    utils.run_workers([Worker(gnet, opt, *shared, i) for i in range(n_workers)], shared[2], res)
    return {result[0]: result[1:] for result in res if isinstance(result, tuple)}


def draw(data):
    fig, (life, ages) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
    begin = max(updates[0][0][0] for _, updates in data["2"].values())
    for row, (_, updates) in enumerate(data["2"].values()):
        for times, age in updates:
            if begin <= times[0] and times[-1] <= begin + SHOWN:
                starts = [1000 * (t - begin) for t in times]
                widths = [end - start for start, end in zip(starts, starts[1:])]
                life.barh([row] * 4, widths, left=starts[:-1], color=list(PARTS.values()))
                life.text(starts[2], row + 0.45, f"{age:.0f}", size=8)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in PARTS.values()]
    life.legend(handles, PARTS, ncols=4, loc="upper right", fontsize=8)
    life.set(yticks=range(2), yticklabels=data["2"], xlabel="Milliseconds", ylim=(-0.6, 2))
    life.set_title("Two workers; above a bar: the age of the gradient", size=10)
    for n in map(str, WORKERS):
        found = Counter(round(age) for own, _ in data[n].values() for age in own)
        share = [found[age] / found.total() for age in range(21)]
        mean = sum(age * k for age, k in found.items()) / found.total()
        ages.plot(share, marker=".", label=f"{n} workers, mean {mean:.1f}")
        print(f"{n} workers: mean {mean:.2f}, fresh {share[0]:.0%}, one old {share[1]:.0%}")
    ages.set(xlabel="Age of a gradient (updates by others)", ylabel="Share", xlim=(-0.5, 20.5))
    ages.legend()
    fig.savefig(FOLDER / "asynchrony.png", dpi=80)


if __name__ == "__main__":
    if not DATA.exists():
        data = {n: measure(n) for n in WORKERS}
        DATA.write_text(json.dumps({**data, "machine": machine()}))
    draw(json.loads(DATA.read_text()))
