"""What the experiments share: patched copies of the collection, data files and learning curves.

Data are {row: {seed: result}}. A result is kept with its constants, patch, batch (when the program
was started), machine and commit, and counts for the row of its name: if you change what a row
learns, remove its results, and it is measured again. Applying patches needs git.
"""

import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch

from examples.train import train

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 25  # episodes averaged into one point of a curve
GREEDY = 100  # episodes of the greedy policy


@contextmanager
def copy(patch=None):
    """Yield a temporary copy of the collection with a patch of experiments/ applied: its folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "examples").mkdir()
        for path in [*ROOT.glob("*.py"), *ROOT.glob("examples/*.py")]:
            shutil.copy(path, folder / path.relative_to(ROOT))
        if patch is not None:
            # Inside of another repository, git would apply nothing and say nothing.
            environ = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
            command = ["git", "apply", ROOT / "experiments" / patch]
            subprocess.run(command, cwd=folder, env=environ, check=True)
        yield folder


@dataclass
class Row:
    """A row of a table: a script with other constants and a patch, and the seeds to run."""

    seeds: range
    constants: dict = field(default_factory=dict)
    patch: str | None = None  # a path in experiments/
    script: str | None = "discrete_A3C.py"  # None: no program of this collection

    @contextmanager
    def run(self, seed, may_fail=False):
        """Yield the train.Run of a copy of the script; its folder is there only inside of `with`.

        The greedy policy plays GREEDY episodes, not 10. A run that fails, or that Ctrl-C stops,
        ends this program unless it may fail.
        """
        with copy(self.patch) as folder:
            for path in (folder / "utils.py", folder / self.script):  # memory.py has its own
                text = path.read_text(encoding="utf-8")
                text = text.replace("episodes=10,", f"episodes={GREEDY},")
                path.write_text(text, encoding="utf-8")
            run = train(self.script, {"N_WORKERS": 2, **self.constants, "SEED": seed}, folder)
            if run.code != 0 and not may_fail:
                print(run.errors, file=sys.stderr)
                sys.exit(run.code)
            yield run


def column_of(run, name):
    """Return a column (episodes,) of the episodes.csv that a run has saved."""
    with open(run.folder / "episodes.csv", encoding="utf-8") as file:
        return np.array([float(row[name]) for row in csv.DictReader(file)])


def returns_of(run):
    return column_of(run, "return")


def train_peer(model, aim, seconds=np.inf):
    """Train a model of Stable-Baselines3 until 100 returns in a row average `aim`.

    Returns the returns (n,), the seconds (n,) at which their episodes end, and the steps/s.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    returns, times, begin = [], [], time.perf_counter()

    class Until(BaseCallback):
        def _on_step(self):
            now = time.perf_counter() - begin
            for info in self.locals["infos"]:
                if "episode" in info:
                    returns.append(info["episode"]["r"])
                    times.append(now)
            return now < seconds and (len(returns) < 100 or sum(returns[-100:]) < 100 * aim)

    model.learn(10_000_000, callback=Until())
    return np.array(returns), np.array(times), model.num_timesteps / (time.perf_counter() - begin)


def machine():
    """Return a sentence on this machine."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    model = models[0] if models else platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} x {model}, {versions}, gym {gym.__version__}, NumPy {np.__version__}"


def commit():
    """Return the commit of the collection, with "-dirty" if files have changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.check_output(command, cwd=ROOT, text=True).strip()


def load(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def fill(path, rows, measure, names):
    """Measure what is missing in the data file path, and return all of it.

    rows are {row: Row}; measure(row, seed), of the name of a row, returns a result. names are the
    rows to measure; none: all of them; ["tables"]: nothing is measured.
    """
    data, missing = load(path), []
    if names == ["tables"]:
        return data
    wanted = {name: rows[name] for name in names or rows}
    # All rows of a seed before the next seed: what else the machine does then hits all rows.
    for seed in range(max(row.seeds.stop for row in wanted.values())):
        for name, row in wanted.items():
            if seed in row.seeds and str(seed) not in data.get(name, {}):
                missing.append((name, seed))
    if not missing:
        return data
    batch = time.strftime("%Y-%m-%d %H:%M")
    origin = {"commit": commit(), "batch": batch, "machine": machine()}
    for number, (name, seed) in enumerate(missing, 1):
        row = rows[name]
        told = {"constants": row.constants, "patch": row.patch}
        result = {**told, **origin, **measure(name, seed)}
        data.setdefault(name, {})[str(seed)] = result
        part = path.with_name(f"{path.name}.part")  # whole or not at all: you may stop it
        part.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
        part.replace(path)
        shown = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        print(f"Run {number} of {len(missing)}: {name}, seed {seed}: {shown}", flush=True)
    return data


def results(data, rows):
    """Return {row: [result, ...]} of those of `rows` that have any, seed by seed."""
    found = {}
    for name, row in rows.items():
        kept = data.get(name, {})
        runs = [kept[str(seed)] for seed in row.seeds if str(seed) in kept]
        if runs:
            found[name] = runs
    return found


def table(heads, lines):
    """Return a table in Markdown of `lines`, each a list of cells."""
    text = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    text.insert(1, "|---" * len(heads) + "|")
    return "\n".join(text)


def draw_curves(curves, behind, figure, level, sharex):
    """Draw median and quartiles of the curves {row: (seeds, blocks)}, a panel a row.

    behind: {row: the curves whose median is drawn in gray}; level: where a dashed line is.
    """
    n_rows = -(-len(curves) // 4)
    fig = plt.figure(figsize=(13, 0.8 + 2.2 * n_rows), layout="constrained")
    axes = fig.subplots(n_rows, 4, sharex=sharex, sharey=True, squeeze=False).ravel()
    for ax, (name, runs) in zip(axes, curves.items()):
        low, median, high = np.percentile(runs, [25, 50, 75], axis=0)
        gray = np.median(behind[name], axis=0)
        ax.plot(np.arange(1, 1 + len(gray)) * BLOCK, gray, color="silver")
        episodes = np.arange(1, 1 + len(median)) * BLOCK
        ax.fill_between(episodes, low, high, alpha=0.3, linewidth=0)
        ax.plot(episodes, median)
        ax.axhline(level, color="gray", linestyle="--", linewidth=0.8)
        ax.set_title(name.replace("`", ""), size=9)
        if not sharex:
            ax.set_xlim(0, episodes[-1])
    for ax in axes[len(curves) :]:
        ax.remove()
    told = f"Means of {BLOCK} returns: median and quartiles of the seeds"
    fig.supxlabel(f"Episode. {told}. Gray: what the row is compared with. Dashed: {level}", size=10)
    fig.supylabel("Return", size=10)
    fig.savefig(figure, dpi=75)
