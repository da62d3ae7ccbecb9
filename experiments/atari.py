"""Learn Atari games. Run: python -m experiments.atari

Results of examples/atari.py and of Stable-Baselines3's A2C are kept in atari.json; only what is
missing is measured. A run is stopped after MINUTES. Pong's first run is copied to
results/experiment-Pong, for examples/watch.py. Some rows only: python -m experiments.atari Pong.
Without measuring: python -m experiments.atari tables. Needs pip install scipy gymnasium ale-py, and
stable_baselines3 opencv-python-headless.
"""

import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from experiments import lab, stats
from experiments.lab import ROOT, Row

DATA = Path(__file__).with_name("atari.json")
GAMES = 100  # averaged
MINUTES = 45  # then a run is stopped
AIMS = {"Pong": 15, "Breakout": 31}  # Breakout: a human's (Mnih et al. 2013)
SCRIPT = "examples/atari.py"
BREAKOUT = {
    "ENV_NAME": "ALE/Breakout-v5",
    "MAX_EP": 5000,
    "BETAS": (0.98, 0.999),  # averages over 50 gradients, not 12
    "ENTROPY_BETA": 0.001,
    "OWN_INIT": True,
    "NO_OPS": 30,
}
LEARNED = {
    "Pong": Row(range(3), script=SCRIPT),
    "Pong, `OWN_INIT = True`": Row(range(1), {"OWN_INIT": True}, script=SCRIPT),
    "Breakout": Row(range(3), BREAKOUT, script=SCRIPT),
    "Pong, Stable-Baselines3 A2C": Row(range(1), script=None),
}
# A minute of Pong each, in turn.
SPEED = {
    "atari.py, 2 workers": Row(range(5), {"SAVE_MINUTES": 1}, script=SCRIPT),
    "Stable-Baselines3 A2C, 8 environments": Row(range(5), script=None),
}
ROWS = {**LEARNED, **SPEED}


def measure(name, seed):
    """Return the steps/s of a row of SPEED; of others the games, and the millions of steps."""
    row = ROWS[name]
    minutes = 1.5 if name in SPEED else MINUTES  # atari.py first tells its speed after a minute
    if row.script is None:
        games, rate = learn_with_peer(seed, minutes)
    else:
        games, rate = learn(row, seed, minutes)
    if name in SPEED:
        return {"steps/s": rate}
    return {"seed": seed, "games": games, "steps": round(rate * games[-1][0] / 1e6, 2)}


def learn(row, seed, minutes):
    """Return the games [seconds, return] of a run of examples/atari.py, and its steps/s."""
    stopped = []

    def stop(*_):
        stopped.append(True)
        raise KeyboardInterrupt  # which train passes on to the run

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(round(60 * minutes))
    with row.run(seed, may_fail=True) as run:
        signal.alarm(0)
        if run.code != 0 and not stopped:  # a fault, or your own Ctrl-C: no result
            raise SystemExit(run.errors)
        returns = lab.returns_of(run)
        if row is ROWS["Pong"] and seed == 0:
            shutil.copytree(run.folder, ROOT / "results" / "experiment-Pong", dirs_exist_ok=True)
    games = [[round(seconds, 1), int(r)] for seconds, r in zip(run.times, returns)]
    rates = re.findall(r"(\d+) steps/s", "\n".join(run.lines))  # printed every SAVE_MINUTES
    return games, int(rates[-1])


def learn_with_peer(seed, minutes):
    """Return the same of Stable-Baselines3's A2C, which stops at Pong's aim."""
    import ale_py
    import gymnasium
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    torch.set_num_threads(2)
    options = {"frameskip": 1, "repeat_action_probability": 0}  # its wrapper skips 4 frames
    envs = make_atari_env("ALE/Pong-v5", n_envs=8, seed=seed, env_kwargs=options)
    # RL Zoo's constants for Atari, but 8 environments, not 16
    optimizer = {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"eps": 1e-5}}
    zoo = {"ent_coef": 0.01, "vf_coef": 0.25, "policy_kwargs": optimizer}
    model = A2C("CnnPolicy", VecFrameStack(envs, 4), device="cpu", seed=seed, **zoo)
    returns, times, rate = lab.train_peer(model, AIMS["Pong"], 60 * minutes)
    return [[round(seconds, 1), int(r)] for seconds, r in zip(times, returns)], round(rate)


def tables(data):
    """Return the table in Markdown: a line a run."""
    lines = []
    for name, runs in lab.results(data, LEARNED).items():
        for run in runs:
            seconds, returns = np.array(run["games"]).T
            seconds = seconds[GAMES - 1 :]
            averages = np.convolve(returns, np.ones(GAMES), "valid") / GAMES
            aim = next((AIMS[game] for game in AIMS if name.startswith(game)), np.inf)
            reached = np.flatnonzero(averages >= aim)
            aimed = "-"
            if len(reached):
                aimed = f"{run['steps'] * seconds[reached[0]] / seconds[-1]:.2f}"
            cells = [f"{name}, seed {run['seed']}", f"{run['steps']:.2f}", aimed]
            lines.append([*cells, f"{averages.max():.1f}", f"{averages[-1]:.1f}"])
    heads = ["run", "million steps", "million steps to the aim", "highest mean", "last mean"]
    parts, rates = [lab.table(heads, lines)], []
    for name, runs in lab.results(data, SPEED).items():
        rates.append([name, stats.spread([run["steps/s"] for run in runs], 0, (0, 100))])
    return "\n\n".join([*parts, lab.table(["Pong", "env steps/s"], rates)])


def main():
    data = lab.fill(DATA, ROWS, measure, sys.argv[1:])
    print(tables(data))


if __name__ == "__main__":
    main()
