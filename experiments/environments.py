"""Try other environments, two seeds each. Run: python -m experiments.environments

Each run is one of the scripts on Gymnasium, with another ENV_NAME and the constants of its row.
What it gave is kept in environments.json, and is trained again only with other constants or other
code (20 minutes on 2 cores). Needs more than the tests do: pip install "gymnasium[box2d]"
"""

from pathlib import Path

import numpy as np

from experiments import knobs

DATA = Path(__file__).with_name("environments.json")
ROWS = {
    "CartPole-v1": {**knobs.TIPS, "MAX_EP": 1000},
    "Acrobot-v1": {**knobs.TIPS, "REWARD_SCALE": 10.0, "MAX_EP": 600},
    "LunarLander-v3": {**knobs.TIPS, "REWARD_SCALE": 100.0, "MAX_EP": 1000},
    "MountainCar-v0": {**knobs.TIPS, "MAX_EP": 300},
    "MountainCarContinuous-v0": {"REWARD_SCALE": 1.0, "MAX_EP": 100},
}
SEEDS = dict.fromkeys(ROWS, range(2))


def script_of(row):
    return "continuous_A3C.py" if "Continuous" in row else "discrete_A3C.py"


def expected(row):
    """Return the constants with which `row` is run, as they are kept in the data."""
    return {"ENV_NAME": row, **ROWS[row], "N_WORKERS": 2}


def train_row(row, seed):
    """Return the mean of the last 100 returns (or of all), and that of 100 greedy episodes."""
    script = script_of(row)
    changes = [(script, "import gym\n", "import gymnasium as gym\n")]
    returns, _, seconds, greedy = knobs.play(expected(row), seed, changes, script)
    means = {"last": returns[-100:].mean(), "greedy": greedy.mean()}
    means = {name: round(float(mean), 1) for name, mean in means.items()}
    return {"constants": expected(row), "seconds": seconds, **means}


def table(data):
    """Return the table in Markdown: each number is one seed's."""
    lines = [
        "| environment | constants that are other ones | last 100 returns | greedy |",
        "|---|---|---|---|",
    ]
    for row, constants in ROWS.items():
        runs = knobs.runs_of(data, row, SEEDS[row])
        told = ", ".join(f"`{name} = {value}`" for name, value in constants.items())
        cells = [row, told]
        for key in ("last", "greedy"):
            cells.append(", ".join(f"{np.round(run[key]) + 0.0:.0f}" for run in runs))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    print(table(knobs.fill(DATA, SEEDS, train_row, expected, script_of)))


if __name__ == "__main__":
    main()
