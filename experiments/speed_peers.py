"""What the scripts are compared with in speed.py: a bare environment, and Stable-Baselines3.

python -m experiments.speed_peers environment discrete_A3C 3 0     steps/s without learning
python -m experiments.speed_peers A2C 0                            until CartPole-v0 is solved
"""

import importlib
import json
import sys
import time

MAX_STEPS = 1_000_000


def step(module, seconds):
    """Return the steps/s of the environment of `module`, a script, under one action."""
    env = importlib.import_module(module).make_env()
    env.reset(seed=0)
    action = env.action_space.sample()
    n = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        _, _, terminated, truncated, _ = env.step(action)
        n += 1
        if terminated or truncated:
            env.reset()
    return {"steps/s": round(n / (time.perf_counter() - begin))}


def learn(algorithm, seed):
    """Let Stable-Baselines3 learn CartPole-v0 until it is solved, by A2C or PPO.

    Its settings are its defaults, except for 8 environments. The clock starts with the end of the
    first episode, as it does for the scripts.
    """
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

    envs = make_vec_env("CartPole-v0", n_envs=8, seed=seed)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", envs, device="cpu", seed=seed)
    model.learn(MAX_STEPS, callback=Until())
    seconds = times[-1] - times[0]
    solved = len(returns) if model.num_timesteps < MAX_STEPS else None
    return {"solved": solved, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    what, *arguments, number = sys.argv[1:]
    if what == "environment":
        print(json.dumps(step(arguments[0], float(arguments[1]))))
    else:
        print(json.dumps(learn(what, int(number))))
