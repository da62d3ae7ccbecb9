"""Stable-Baselines3's A2C on CartPole-v0, with its defaults and 8 environments: see benchmark.py.

python tests/benchmark_sb3.py seconds 2     prints env steps per second
python tests/benchmark_sb3.py solve 0       prints episodes and seconds to solve, with that seed
"""

import json
import sys
import time

from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Until(BaseCallback):
    """Stops after some seconds, or when the mean of 100 returns in a row is 195."""

    def __init__(self, seconds=None):
        super().__init__()
        self.limit, self.returns, self.start = seconds, [], time.perf_counter()

    def _on_step(self):
        for info in self.locals["infos"]:
            if "episode" in info:
                self.returns.append(info["episode"]["r"])
        self.seconds = time.perf_counter() - self.start
        if self.limit:
            return self.seconds < self.limit
        return len(self.returns) < 100 or sum(self.returns[-100:]) < 100 * 195


what, number = sys.argv[1:]
seed = int(number) if what == "solve" else 0
envs = make_vec_env("CartPole-v0", n_envs=8, seed=seed)
model = A2C("MlpPolicy", envs, device="cpu", seed=seed)
until = Until(float(number) if what == "seconds" else None)
model.learn(1_000_000, callback=until)
if what == "seconds":
    print(json.dumps(model.num_timesteps / until.seconds))
else:
    solved = model.num_timesteps < 1_000_000
    print(json.dumps({"solved": solved and len(until.returns), "seconds": until.seconds}))
