"""Show what is asynchronous in A3C: the age of gradients. Run: python -m experiments.asynchrony

The age of a gradient is the number of updates by other workers between its pull and its push.
Trains CartPole as shipped with 1, 2, 4 and 8 workers, with push_and_pull and opt.step wrapped from
outside, and draws asynchrony.png. What was measured is kept in asynchrony.json (a minute on 2
cores); remove it to measure again.
"""

import json
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch.multiprocessing as mp

import discrete_A3C as script
import utils
from shared_adam import SharedAdam

FOLDER = Path(__file__).parent
DATA = FOLDER / "asynchrony.json"
WORKERS = (1, 2, 4, 8)
EPISODES = 300
KEPT = 300  # updates of each worker whose times are kept
SHOWN = 0.012  # seconds of the upper picture
PARTS = {"act": "tab:blue", "gradients": "tab:orange", "Adam": "tab:green", "pull": "tab:red"}


class Worker(script.Worker):
    """Notes of each update when it was acted, computed, stepped and pulled, and its age."""

    def run(self):
        updates = []
        count = self.opt.state[next(self.gnet.parameters())]["step"]
        push_and_pull, step = script.push_and_pull, self.opt.step
        pulled = {"at": time.perf_counter(), "count": count.item()}

        def timed_step():
            pulled["computed"], pulled["age"] = time.perf_counter(), count.item() - pulled["count"]
            step()
            pulled["stepped"] = time.perf_counter()

        def timed_push_and_pull(*arguments, **options):
            acted = time.perf_counter()
            push_and_pull(*arguments, **options)
            end = time.perf_counter()
            times = [pulled["at"], acted, pulled["computed"], pulled["stepped"], end]
            updates.append((times, pulled["age"]))
            pulled.update(at=end, count=count.item())

        self.opt.step, script.push_and_pull = timed_step, timed_push_and_pull
        super().run()
        self.res_queue.put((self.name, [age for _, age in updates], updates[-KEPT:]))


def measure(n_workers):
    """Return {worker: (ages of its gradients, times of its last updates)}."""
    utils.seed_all(script.SEED)
    gnet = script.Net(script.N_S, script.N_A).share_memory()
    opt = SharedAdam(gnet.parameters(), lr=script.LR, betas=script.BETAS)
    shared = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    res = []
    utils.run_workers([Worker(gnet, opt, *shared, i) for i in range(n_workers)], shared[2], res)
    return {result[0]: result[1:] for result in res if isinstance(result, tuple)}


def draw(data):
    fig, (life, ages) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
    two = data["2"]
    begin = max(updates[0][0][0] for _, updates in two.values())
    for row, (_, updates) in enumerate(two.values()):
        for times, age in updates:
            if begin <= times[0] and times[-1] <= begin + SHOWN:
                for (part, color), start, end in zip(PARTS.items(), times, times[1:]):
                    width = 1000 * (end - start)
                    life.barh(row, width, left=1000 * (start - begin), color=color)
                life.text(1000 * (times[2] - begin), row + 0.45, f"{age:.0f}", size=8)
    for part, color in PARTS.items():
        life.barh(0, 0, color=color, label=part)
    life.set(yticks=range(len(two)), yticklabels=two, xlabel="Milliseconds", ylim=(-0.6, 1.8))
    life.set_title("Two workers, and the age of each gradient (updates by others)", size=10)
    life.legend(ncols=4, loc="upper right", fontsize=8)
    for n, workers in data.items():
        found = Counter(round(age) for own, _ in workers.values() for age in own)
        share = [found[age] / found.total() for age in range(21)]
        mean = sum(age * k for age, k in found.items()) / found.total()
        ages.plot(range(21), share, marker=".", label=f"{n} workers, mean {mean:.1f}")
    ages.set(xlabel="Age of a gradient", ylabel="Share", xticks=range(0, 21, 2))
    ages.legend()
    fig.savefig(FOLDER / "asynchrony.png", dpi=80)


if __name__ == "__main__":
    script.MAX_EP = EPISODES  # forked workers see it
    if not DATA.exists():
        DATA.write_text(json.dumps({n: measure(n) for n in WORKERS}))
    draw(json.loads(DATA.read_text()))
