"""Measure the mistakes that are not about learning. Run: python -m experiments.faults

Each mistake is a patch, and runs beside the right code with the same seeds; you can apply it too:
git apply experiments/mistakes/NAME.patch && python discrete_A3C.py. What was measured is kept in
faults.json, and measured again only where constants, patch or code are other ones (a quarter of an
hour on 2 cores). Prints the table of experiments/README.md. Needs Python below 3.14, where workers
are forked: without a fork OMP_NUM_THREADS is never too late.
"""

import re
from pathlib import Path

from experiments import lab
from experiments.lab import Row

DATA = Path(__file__).with_name("faults.json")
PATIENCE = 10  # seconds without a new line until a run counts as standing still
SECONDS = 3  # of a run whose steps/s are measured


def rate(row, seed):
    return {"steps/s": row.run(seed, seconds=SECONDS).rate}


def beginning(row, seed):
    """Return the first three returns of each of two workers."""
    episodes = row.run(seed).episodes
    return {name: [r for w, _, _, r in episodes if w == name][:3] for name in ("w00", "w01")}


def end(row, seed):
    """Return how a run ends: its episodes, those that reach the parent, and what it says."""
    run = row.run(seed, patience=PATIENCE)
    text = "\n".join(run.lines)
    reached = re.search(r"^(\d+) episodes in ", text, re.MULTILINE)
    errors = re.findall(r"^\w+Error: .*", text, re.MULTILINE)
    died = re.findall(r"^Worker w\d\d died", text, re.MULTILINE)
    return {
        "episodes": len(run.episodes),
        "reached": int(reached[1]) if reached else None,
        "status": run.status,
        "said": (errors + died)[:1],
    }


def numbers(row, seed):
    """Return how many numbers of episodes are printed more than once, and how many never."""
    found = [number for _, number, _, _ in row.run(seed).episodes]
    counts = [found.count(number) for number in range(1, int(max(found)) + 1)]
    return {"twice": sum(n > 1 for n in counts), "never": counts.count(0)}


def tell_rate(runs):
    return f"{lab.spread([run['steps/s'] for run in runs])} steps/s"


def tell_beginning(runs):
    same = sum(run["w00"] == run["w01"] for run in runs)
    return f"the workers begin with the same three returns in {same} of {len(runs)} seeds"


def tell_end(runs):
    if len({run["status"] for run in runs}) > 1:
        raise ValueError(f"Some of these runs end and some do not: {runs}")
    episodes = lab.spread([run["episodes"] for run in runs])
    if runs[0]["status"] is None:
        return f"stands still after episode {episodes}"
    if runs[0]["status"] != 0:
        return f"ends after {episodes} episodes: ``{runs[0]['said'][0]}``"
    return f"ends; {lab.spread([run['reached'] for run in runs])} returns reach the parent"


def tell_numbers(runs):
    twice, never = (lab.spread([run[key] for run in runs]) for key in ("twice", "never"))
    return f"{twice} numbers of 3000 come more than once, {never} never"


SEEDS = range(3)
SHORT = {"LR": 1e-9, "MAX_EP": 200}  # nothing is learned, so the episodes stay short
MANY = {"LR": 1e-9, "N_WORKERS": 8}
DIES = "variants/worker_dies.patch"
FAULTS = {  # {mistake: (measure, tell, patch, constants, patch of the right one)}
    "`OMP_NUM_THREADS` below `import torch`": (rate, tell_rate, "threads", {}, None),
    "Adam's `step` is an int": (end, tell_end, "int_step", SHORT, None),
    "all workers have one seed": (beginning, tell_beginning, "one_seed", {"MAX_EP": 50}, None),
    "the queue is not read before all are done": (
        end, tell_end, "unread_queue", {"LR": 1e-9}, None,
    ),
    "the parent stops at the first worker that is done": (
        end, tell_end, "first_done", {**MANY, "MAX_EP": 200}, None,
    ),
    "the parent waits for a worker that died": (end, tell_end, "dead_worker", SHORT, DIES),
    "counter and average have a lock each": (numbers, tell_numbers, "two_locks", MANY, None),
}  # fmt: skip
ROWS = {}
for name, (_, _, patch, constants, right) in FAULTS.items():
    rows = Row(SEEDS, constants, right), Row(SEEDS, constants, f"mistakes/{patch}.patch")
    ROWS.update(zip((f"{name}: right", f"{name}: wrong"), rows))


def measure(name, seed):
    return FAULTS[name.rpartition(":")[0]][0](ROWS[name], seed)


def table(data):
    """Return the table in Markdown: right beside wrong."""
    lines = []
    results = lab.results(data, ROWS)
    for name, (_, tell, _, _, _) in FAULTS.items():
        runs = [results.get(f"{name}: {which}") for which in ("right", "wrong")]
        if all(runs):
            lines.append([name, *map(tell, runs)])
    return lab.table(["mistake", "right", "with the mistake"], lines)


def main():
    print(table(lab.fill(DATA, ROWS, measure)))


if __name__ == "__main__":
    main()
