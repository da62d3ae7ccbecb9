"""An environment alone, under one action and without learning: see speed.py.

python -m experiments.speed_bare discrete_A3C 2     prints env steps per second
"""

import importlib
import json
import sys
import time


def step_for(env, seconds):
    """Return the steps per second of `env`."""
    env.reset(seed=0)
    action = env.action_space.sample()
    n = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        _, _, terminated, truncated, _ = env.step(action)
        n += 1
        if terminated or truncated:
            env.reset()
    return n / (time.perf_counter() - start)


if __name__ == "__main__":
    script, seconds = sys.argv[1:]
    print(json.dumps(step_for(importlib.import_module(script).make_env(), float(seconds))))
