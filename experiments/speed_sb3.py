"""Stable-Baselines3 on CartPole-v0, A2C or PPO with the defaults, 8 environments: see speed.py.

python -m experiments.speed_sb3 A2C seconds 2     prints env steps per second
python -m experiments.speed_sb3 PPO solve 0       prints episodes and seconds to solve, one seed
"""

import json
import sys
import time

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

ALGORITHMS = {"A2C": A2C, "PPO": PPO}
MAX_STEPS = 1_000_000


class Until(BaseCallback):
    """Stops after `limit` seconds, or without a limit when 100 returns in a row average 195."""

    def __init__(self, limit=None):
        super().__init__()
        self.limit = limit
        self.returns = []
        self.start = time.perf_counter()

    def _on_step(self):
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(info["episode"]["r"])
        self.seconds = time.perf_counter() - self.start
        if self.limit is not None:
            return self.seconds < self.limit
        return len(self.returns) < 100 or sum(self.returns[-100:]) < 100 * 195


def learn(algorithm, seed, limit=None):
    envs = make_vec_env("CartPole-v0", n_envs=8, seed=seed)
    model = ALGORITHMS[algorithm]("MlpPolicy", envs, device="cpu", seed=seed)
    until = Until(limit)
    model.learn(MAX_STEPS, callback=until)
    return model.num_timesteps, until


if __name__ == "__main__":
    algorithm, what, number = sys.argv[1:]
    if what == "seconds":
        steps, until = learn(algorithm, 0, float(number))
        print(json.dumps(steps / until.seconds))
    else:
        steps, until = learn(algorithm, int(number))
        solved = len(until.returns) if steps < MAX_STEPS else None
        print(json.dumps({"solved": solved, "seconds": until.seconds}))
