"""Measure the mistakes that are not about learning. Run: python -m experiments.faults

Each mistake is a patch, and runs beside the right code with the same seeds; you can apply it too:
git apply experiments/mistakes/NAME.patch && python discrete_A3C.py. Results are kept in
faults.json: remove it to measure all of them again. Prints the table of experiments/README.md.
Needs Python below 3.14, where workers are forked: without a fork, OMP_NUM_THREADS is never too
late.
"""

import os
import re
import signal
from pathlib import Path

from experiments import lab
from experiments.lab import Row
from experiments.learning import QUICK

DATA = Path(__file__).with_name("faults.json")
STOP = 90  # seconds until Ctrl-C comes to a run that may stand still
STILL = 15  # seconds without an episode before it


def rate(row, seed):
    with row.run(seed) as run:
        return {"steps/s": lab.steps_per_second(run)}


def beginning(row, seed):
    """Return the first three returns of each of two workers."""
    with row.run(seed) as run:
        paid = list(zip(episodes_of(run), lab.returns_of(run)))
    return {name: [r for (w, _), r in paid if w == name][:3] for name in ("w00", "w01")}


def numbers(row, seed):
    """Return how many numbers of episodes are printed more than once, and how many never."""
    with row.run(seed) as run:
        found = [int(number) for _, number in episodes_of(run)]
    counts = [found.count(number) for number in range(1, max(found) + 1)]
    return {"twice": sum(n > 1 for n in counts), "never": counts.count(0)}


def episodes_of(run):
    """Return the worker and the number of each episode that was printed."""
    return re.findall(r"^(w\d+) Ep: (\d+)", "\n".join(run.lines), re.MULTILINE)


def end(row, seed):
    """Return how a run ends: its episodes, those that reach the parent, and what it says."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C, which train passes on
    signal.alarm(STOP)
    with row.run(seed, may_fail=True) as run:
        signal.alarm(0)
        if run.code == 130 and run.seconds - run.times[-1] < STILL:
            raise SystemExit("It did not stand still yet: use a larger STOP.")
        reached = len(lab.returns_of(run))
    said = re.findall(r"^\w+Error: .*", run.errors, re.MULTILINE)
    return {"episodes": len(run.times), "reached": reached, "status": run.code, "said": said[:1]}


def tell_rate(runs):
    return f"{lab.spread([run['steps/s'] for run in runs])} steps/s"


def tell_beginning(runs):
    same = sum(run["w00"] == run["w01"] for run in runs)
    return f"the workers begin with the same three returns in {same} of {len(runs)} seeds"


def tell_end(runs):
    [status] = {run["status"] for run in runs}  # all end in the same way
    episodes = lab.spread([run["episodes"] for run in runs])
    if status == 130:
        return f"stands still after episode {episodes}"
    if status != 0:
        return f"ends after {episodes} episodes: ``{runs[0]['said'][0]}``"
    return f"ends; {lab.spread([run['reached'] for run in runs])} returns reach the parent"


def tell_numbers(runs):
    twice, never = (lab.spread([run[key] for run in runs]) for key in ("twice", "never"))
    return f"{twice} numbers of 3000 come more than once, {never} never"


SEEDS = range(3)
SHORT = {"LR": 1e-9, "MAX_EP": 200}  # nothing is learned, so the episodes stay short
MANY = {"LR": 1e-9, "N_WORKERS": 8}
LONG = {**QUICK, "MAX_EP": 300, "N_WORKERS": 8}  # the episodes get long, so many are under way
DIES = "variants/worker_dies.patch"
FAULTS = {  # {mistake: (measure, tell, patch, constants, patch of the right one)}
    "`OMP_NUM_THREADS` below `import torch`": (rate, tell_rate, "threads", SHORT, None),
    "Adam's `step` is an int": (end, tell_end, "int_step", SHORT, None),
    "all workers have one seed": (beginning, tell_beginning, "one_seed", {"MAX_EP": 50}, None),
    "the queue is not read before all are done": (
        end, tell_end, "unread_queue", {"LR": 1e-9}, None,
    ),
    "the parent stops at the first worker that is done": (
        end, tell_end, "first_done", LONG, None,
    ),
    "the parent waits for a worker that died": (end, tell_end, "dead_worker", SHORT, DIES),
    "counter and average have a lock each": (numbers, tell_numbers, "two_locks", MANY, None),
}  # fmt: skip
ROWS = {}
for name, (_, _, patch, constants, right) in FAULTS.items():
    ROWS[f"{name}: right"] = Row(SEEDS, constants, right)
    ROWS[f"{name}: wrong"] = Row(SEEDS, constants, f"mistakes/{patch}.patch")


def measure(name, seed):
    return FAULTS[name.rpartition(":")[0]][0](ROWS[name], seed)


def tables(data):
    """Return the table in Markdown: right beside wrong."""
    lines = []
    results = lab.results(data, ROWS)
    for name, (_, tell, _, _, _) in FAULTS.items():
        runs = [results.get(f"{name}: {which}") for which in ("right", "wrong")]
        if all(runs):
            lines.append([name, *map(tell, runs)])
    return lab.table(["mistake", "right", "with the mistake"], lines)


def main():
    os.environ.pop("OMP_NUM_THREADS", None)  # or the first mistake would do nothing
    print(tables(lab.fill(DATA, ROWS, measure)))


if __name__ == "__main__":
    main()
