"""Measure how trained policies hold the pole beyond 200 steps. Run: python -m experiments.drift

Trains CartPole-v0 with each row of ROWS and five seeds, plays EPISODES greedy episodes of up to
STEPS steps with what was learned, and prints the table of experiments/README.md: how many end
upright, and in how many the cart leaves the track. What was measured is kept in drift.json; delete
that file to measure again (ten minutes on 2 cores).
"""

import subprocess
import tempfile
from pathlib import Path

import torch

import discrete_A3C
from experiments import knobs
from experiments.copies import Copy
from utils import v_wrap

DATA = Path(__file__).with_name("drift.json")
EPISODES = 100
STEPS = 1000  # the environment itself stops at 200
ROWS = {
    "as shipped": {},
    "the three tips": knobs.TIPS,
    "the three tips, `GAMMA = 0.9`": {**knobs.TIPS, "GAMMA": 0.9},
}
SEEDS = dict.fromkeys(ROWS, range(5))


def trained(constants, seed):
    """Train CartPole-v0 with other `constants`; return the network."""
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        copy = Copy(folder)
        copy.set_constants("discrete_A3C.py", {**constants, "SEED": seed})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = copy.start("discrete_A3C.py", **pipes)
        text, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{text[-2000:]}The run ended with status {process.returncode}.")
        net = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A)
        weights = torch.load(copy.folder / "results" / "CartPole-v0-1.pt", weights_only=True)
        net.load_state_dict(weights)
    return net


def play_on(net, episodes, steps):
    """Play greedily without a time limit; return in what share each end comes."""
    env = discrete_A3C.make_env().unwrapped
    ends = {"upright": 0, "left the track": 0, "fell": 0}
    for seed in range(episodes):
        s, _ = env.reset(seed=seed)
        end = "upright"
        for _ in range(steps):
            s, _, terminated, _, _ = env.step(net.choose_action(v_wrap(s[None]), True))
            if terminated:
                end = "left the track" if abs(s[0]) > env.x_threshold else "fell"
                break
        ends[end] += 1
    return {end: number / episodes for end, number in ends.items()}


def expected(row):
    return {**knobs.SHIPPED, **ROWS[row]}


def train_row(row, seed):
    net = trained(expected(row), seed)
    return {"constants": expected(row), **play_on(net, EPISODES, STEPS)}


def table(data):
    """Return the table in Markdown: the share of the episodes for each seed, sorted."""
    lines = ["| trained | upright to the end | left the track |", "|---|---|---|"]
    for row in ROWS:
        runs = [data[row][str(seed)] for seed in SEEDS[row]]
        cells = [row]
        for end in ("upright", "left the track"):
            cells.append(", ".join(f"{share:.0%}" for share in sorted(run[end] for run in runs)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    print(table(knobs.fill(DATA, SEEDS, train_row, expected)))


if __name__ == "__main__":
    main()
