"""Measure speed, and the time to solve CartPole. Run: python -m experiments.speed

Compares the steps/s of the scripts, stock parts and the cluster, and the time in which A3C and
Stable-Baselines3 solve CartPole. All take turns, round after round: what else the machine does hits
all alike. To compare lines of your own, make them a patch in variants/ and a row below. Results are
kept in speed.json: remove it to measure all of them again. Prints the tables of
experiments/README.md. Some rows only: python -m experiments.speed quick. Without measuring:
python -m experiments.speed tables. Needs pip install scipy ray stable_baselines3.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from experiments import lab, learning, stats
from experiments.lab import Row

DATA = Path(__file__).with_name("speed.json")
ROUNDS = range(10)
SEEDS = range(5)  # of the runs until CartPole is solved
# Episodes of a run, some seconds each. Nothing is learned, so that all of CartPole's are short.
SCRIPTS = {
    "CartPole": ("discrete_A3C.py", {"LR": 1e-9, "MAX_EP": 600}),
    "Pendulum": ("continuous_A3C.py", {"LR": 1e-9, "MAX_EP": 100}),
}
STOCK = "variants/stock_parts.patch"
ROWS = {}
for env, (script, short) in SCRIPTS.items():
    one = {**short, "N_WORKERS": 1}
    ROWS[f"{env}, 1 worker of stock parts"] = Row(ROUNDS, one, STOCK, script)
    ROWS[f"{env}, 1 worker"] = Row(ROUNDS, one, script=script)
    ROWS[f"{env}, 2 workers"] = Row(ROUNDS, short, script=script)
# What the numbers of episodes.csv cost: n is 5 here, so updates are frequent.
short = {**SCRIPTS["CartPole"][1], "N_WORKERS": 1}
ROWS["CartPole again, 1 worker without the log"] = Row(ROUNDS, short, "variants/no_log.patch")
ROWS["CartPole again, 1 worker"] = Row(ROUNDS, short)
# More episodes, as its workers begin seconds apart.
short = {"LR": 1e-9, "MAX_EP": 2000, "N_WORKERS": 2}
ROWS["Cluster, `N_WORKERS = 2`"] = Row(range(5), short, script="examples/cluster.py")
# Who solves CartPole first.
PEERS = {
    "Stable-Baselines3 A2C, 8 environments": "A2C",
    "Stable-Baselines3 PPO, 8 environments": "PPO",
}
SOLVING = {
    "quick": Row(SEEDS, learning.QUICK),
    "n = 10, 0.99, 1e-3": Row(SEEDS, learning.LARGE_LR),
    **{name: Row(SEEDS, script=None) for name in PEERS},
}
MAX_STEPS, N_ENVS = 1_000_000, 8  # of Stable-Baselines3


def measure(name, number):
    """Return the steps/s of a row of ROWS, or when one of SOLVING has solved CartPole."""
    if name in PEERS:
        return learn(PEERS[name], number)
    with {**ROWS, **SOLVING}[name].run(number) as run:
        if name in ROWS:
            return {"steps/s": steps_per_second(run)}
        return solved_at(lab.returns_of(run), run.times)


def steps_per_second(run):
    """Return the environment steps/s of a run of CartPole or Pendulum, from its first episode on.

    A step of CartPole pays 1, and an episode of Pendulum has 200 steps.
    """
    returns = lab.returns_of(run)[1:]
    steps = returns.sum() if "CartPole" in run.folder.name else 200 * len(returns)
    return round(steps / (run.times[-1] - run.times[0]))


def solved_at(returns, times):
    """Return the episode at which CartPole is solved, and the seconds since the first one."""
    solved = learning.solving_episode(returns, learning.LEVELS["CartPole-v0"])
    seconds = None if solved is None else round(times[solved - 1] - times[0], 1)
    return {"solved": solved, "seconds": seconds}


def learn(algorithm, seed):
    """Let Stable-Baselines3's A2C or PPO solve CartPole-v0: its defaults, but 8 environments."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    returns, times = [], []

    class Until(BaseCallback):
        def _on_step(self):
            for info in self.locals["infos"]:
                if "episode" in info:
                    returns.append(info["episode"]["r"])
                    times.append(time.perf_counter())
            return len(returns) < 100 or sum(returns[-100:]) < 100 * 195

    torch.set_num_threads(1)
    envs = make_vec_env("CartPole-v0", n_envs=N_ENVS, seed=seed)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", envs, device="cpu", seed=seed)
    model.learn(MAX_STEPS, callback=Until())
    told = {"version": stable_baselines3.__version__, "n_envs": N_ENVS, "MAX_STEPS": MAX_STEPS}
    return {**solved_at(returns, times), **told}


def tables(data):
    """Return the tables of steps/s and of the time to solve CartPole."""
    results = lab.results(data, ROWS)
    rates, above, before = [], "", []
    for name, runs in results.items():
        rate = [run["steps/s"] for run in runs]
        ratio = "-"
        if name.partition(",")[0] == above.partition(",")[0]:  # the same environment, in turn
            ratio = stats.spread(np.divide(rate, before), 2)
        rates.append([name, str(len(runs)), stats.spread(rate), ratio])
        above, before = name, rate
    heads = ["contestant", "rounds", "env steps/s", "times the row above"]
    parts = [lab.table(heads, rates)]
    times = []
    for name, runs in lab.results(data, SOLVING).items():
        solved = sum(run["solved"] is not None for run in runs)
        cells = [f"{solved} of {len(runs)}"]
        for key, digits in (("solved", 0), ("seconds", 1)):
            # Who did not solve it counts as later than all others.
            values = [run[key] or np.inf for run in runs]
            cells.append(stats.spread(values, digits, (0, 100)))
        times.append([name, *cells])
    heads = ["contestant", "solved", "by episode", "by second"]
    return "\n\n".join([*parts, lab.table(heads, times)])


def main():
    print(tables(lab.fill(DATA, {**ROWS, **SOLVING}, measure, sys.argv[1:])))


if __name__ == "__main__":
    main()
