"""Measure what clipping does to the gradients of CartPole. Run: python -m experiments.clipping

Prints the norms of the gradients, of all and of the actor's part alone, and how many seeds solve
CartPole-v0 where actor and critic are clipped together, as MAX_GRAD_NORM does, and separately. What
was measured is kept in clipping.json; delete that file to measure again (a few minutes on 2 cores).
"""

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from experiments import knobs
from experiments.copies import Copy

DATA = Path(__file__).with_name("clipping.json")
CLIP = 40  # the tutorial's
# Where the local gradients are complete: prints the norm of the actor's and of the critic's.
PRINT = (
    "utils.py",
    "    if max_grad_norm is not None:\n",
    "    for part in ('pi', 'v'):\n"
    "        grads = [p.grad for name, p in lnet.named_parameters() if name.startswith(part)]\n"
    "        print(part, torch.nn.utils.get_total_norm(grads).item())\n"
    "    if max_grad_norm is not None:\n",
)
CLIPS = (
    "        torch.nn.utils.clip_grad_norm_(lnet.parameters(), max_grad_norm, "
    "error_if_nonfinite=True)\n"
)
SEPARATELY = (
    "utils.py",
    CLIPS,
    "        for part in ('pi', 'v'):\n"
    "            own = [p for name, p in lnet.named_parameters() if name.startswith(part)]\n"
    "            torch.nn.utils.clip_grad_norm_(own, max_grad_norm)\n",
)
NORMS = {  # {row: constants}
    "as shipped": {"MAX_EP": 1500, "N_WORKERS": 1},
    "the three tips": {**knobs.TIPS, "MAX_EP": 500, "N_WORKERS": 1},
}
CLIPPED = {**knobs.TIPS, "MAX_GRAD_NORM": CLIP, "MAX_EP": 1500}
SOLVING = {  # {row: changed lines}
    "clipped together": [],
    "clipped separately": [SEPARATELY],
}
SEEDS = {**dict.fromkeys(NORMS, range(1)), **dict.fromkeys(SOLVING, range(5))}


def norms(constants, seed):
    """Return the norms of the actor's and of the critic's gradients, each (updates,)."""
    with tempfile.TemporaryDirectory(prefix="clipping-") as folder:
        copy = Copy(folder)
        copy.set_constants("discrete_A3C.py", {**constants, "SEED": seed})
        copy.change(*PRINT)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = copy.start("discrete_A3C.py", **pipes)
        text, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{text[-2000:]}The run ended with status {process.returncode}.")
    found = []
    for part in ("pi", "v"):
        found.append(np.array(re.findall(rf"^{part} (\S+)$", text, re.MULTILINE), dtype=float))
    return found


def expected(row):
    return {**knobs.SHIPPED, **NORMS.get(row, CLIPPED)}


def measure(row, seed):
    if row in SOLVING:
        return knobs.train(CLIPPED, seed, SOLVING[row])
    actor, critic = norms(expected(row), seed)
    both = np.hypot(actor, critic)
    return {
        "constants": expected(row),
        "updates": len(both),
        "above": round(float((both > CLIP).mean()), 3),
        "median": round(float(np.median(both)), 1),
        "actor": round(float(np.median(actor)), 1),
    }


def tables(data):
    """Return the two tables in Markdown."""
    lines = [
        f"| one worker, `SEED = 0` | updates | norm above {CLIP} | median norm | actor alone |",
        "|---|---|---|---|---|",
    ]
    for row in NORMS:
        run = data[row]["0"]
        cells = [f"{row}, {expected(row)['MAX_EP']} episodes", f"{run['updates']}"]
        cells += [f"{run['above']:.0%}", f"{run['median']}", f"{run['actor']}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| the three tips, 1500 episodes | solved | final moving average |",
        "|---|---|---|",
    ]
    for row in SOLVING:
        runs = [data[row][str(seed)] for seed in SEEDS[row]]
        solved = sum(run["solved"] is not None for run in runs)
        averages = knobs.spread([run["moving average"] for run in runs])
        lines.append(f"| {row} | {solved} of {len(runs)} | {averages} |")
    return "\n".join(lines)


def main():
    print(tables(knobs.fill(DATA, SEEDS, measure, expected)))


if __name__ == "__main__":
    main()
