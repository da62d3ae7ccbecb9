"""What the experiments share: patched copies of the collection, data files and tables.

A result is kept with its constants, its patch and a fingerprint: what a short run of its program
learns, the same each time. It is measured again if one of them has changed. A fingerprint sees
neither speed nor what only several workers do: to measure that again, remove the data file.
Applying patches needs git.
"""

import ast
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
from functools import cache
from pathlib import Path

import gym
import matplotlib.pyplot as plt
import numpy as np
import torch

from examples.train import change, train

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 25  # episodes averaged into one point of a curve
GREEDY = 100  # episodes of the greedy policy
SHORT = {"continuous_A3C.py": 2, "examples/atari.py": 1}  # episodes of a fingerprint; others: 30
PRECISION = 2e-5  # of a fingerprint: other processors round differently


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


@cache
def first_weights(script, patch, constants):
    """Return the weights before training: those of a run that learns nothing."""
    with copy(patch) as folder:
        nothing = {**ast.literal_eval(constants), "MAX_EP": 1, "LR": 1e-12}
        return weights_of(train(script, nothing, folder))


@cache
def fingerprint_of(script, patch, constants):
    """Return what one worker learns: returns, greedy mean, and the norm of the weights' change."""
    constants = ast.literal_eval(constants)
    with copy(patch) as folder:
        run = train(script, constants, folder)
        if run.code == 1 and patch is not None:  # some mistakes are errors
            return run.errors.splitlines()[-1]
        if run.code != 0:
            sys.exit(run.errors)
        # Rows that differ in other constants have the same first weights and play the same game.
        kept = ("ENV_NAME", "N_WORKERS", "NO_OPS", "OWN_INIT", "SEED")
        first = repr({name: constants[name] for name in kept if name in constants})
        norm = (weights_of(run) - first_weights(script, patch, first)).norm().item()
        return [*returns_of(run), run.greedy or 0.0, norm]


@dataclass
class Row:
    """A row of a table: a script with other constants and a patch, and the seeds to run."""

    seeds: range
    constants: dict = field(default_factory=dict)
    patch: str | None = None  # a path in experiments/
    script: str = "discrete_A3C.py"

    def setting(self):
        """Return what a result of this row must have been measured with, as JSON keeps it."""
        text = change((ROOT / self.script).read_text(), {"N_WORKERS": 2, **self.constants})
        constants = {}
        for node in ast.parse(text).body:
            name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
            if name.isupper() and name not in ("SEED", "RENDER"):
                constants[name] = ast.literal_eval(node.value)
        lines = []
        if self.patch is not None:
            text = (ROOT / "experiments" / self.patch).read_text()
            lines = re.findall(r"^[-+](?!--|\+\+).*$", text, re.MULTILINE)
        return json.loads(json.dumps({"constants": constants, "patch": lines}))

    def fingerprint(self):
        short = {"N_WORKERS": 1, "SEED": 0, "MAX_EP": SHORT.get(self.script, 30)}
        return fingerprint_of(self.script, self.patch, repr({**self.constants, **short}))

    def learns_as(self, result):
        """Return whether `result` was measured with what this row is and learns today."""
        if "fingerprint" not in result or not self.setting().items() <= result.items():
            return False
        then, now = result["fingerprint"], self.fingerprint()
        if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
            return np.allclose(then, now, PRECISION, 0.0, equal_nan=True)
        return then == now

    @contextmanager
    def run(self, seed, may_fail=False):
        """Yield the sweep.Run of a copy of the script; its folder is there only inside of `with`.

        The greedy policy plays GREEDY episodes, not 10. A run that fails, or that Ctrl-C stops,
        ends this program unless it may fail.
        """
        with copy(self.patch) as folder:
            utils = folder / "utils.py"
            before, episodes, after = utils.read_text().partition("episodes=10,")
            assert episodes, "evaluate has another default"
            utils.write_text(f"{before}episodes={GREEDY},{after}")
            run = train(self.script, {"N_WORKERS": 2, **self.constants, "SEED": seed}, folder)
            if run.code != 0 and not may_fail:
                print(run.errors, file=sys.stderr)
                sys.exit(run.code)
            yield run


def returns_of(run):
    """Return the returns (episodes,) that a run has saved."""
    return np.loadtxt(run.folder / "returns.csv", delimiter=",", skiprows=1, usecols=1, ndmin=1)


def weights_of(run):
    """Return the weights that a run has saved, as one vector."""
    weights = torch.load(run.folder / "weights.pt")
    return torch.cat([w.flatten() for w in weights.values()]).double()


def steps_per_second(run):
    """Return the environment steps/s of a run of CartPole or Pendulum, from its first episode on.

    A step of CartPole pays 1, and an episode of Pendulum has 200 steps.
    """
    returns = returns_of(run)[1:]
    steps = returns.sum() if "CartPole" in run.folder.name else 200 * len(returns)
    return round(steps / (run.times[-1] - run.times[0]))


def machine():
    """Return a sentence on this machine."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    model = models[0] if models else platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} x {model}, {versions}, gym {gym.__version__}, NumPy {np.__version__}"


def keep(path, data):
    """Write data as JSON to path, whole or not at all: a run may be stopped at any time."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    part.replace(path)


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def fill(path, rows, measure):
    """Measure what is missing or stale in the data file path, and return all of it.

    The data are {row: {seed: result}}, rows are {row: Row}, and measure(row, seed), of the name of
    a row, returns a result.
    """
    data, batch = load(path), time.strftime("%Y-%m-%d %H:%M")
    missing = []
    # All rows of a seed before the next seed: what else the machine does then hits all rows.
    for seed in range(max(row.seeds.stop for row in rows.values())):
        for name, row in rows.items():
            kept = data.get(name, {}).get(str(seed), {})
            if seed in row.seeds and not row.learns_as(kept):
                missing.append((name, seed))
    begin = time.perf_counter()
    for number, (name, seed) in enumerate(missing, 1):
        fingerprint_of.cache_clear()  # you may edit the code while others run
        first_weights.cache_clear()
        today = {**rows[name].setting(), "fingerprint": rows[name].fingerprint()}
        result = {**measure(name, seed), **today, "batch": batch, "machine": machine()}
        data.setdefault(name, {})[str(seed)] = result
        keep(path, data)
        left = (time.perf_counter() - begin) / number * (len(missing) - number) / 60
        shown = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        print(f"{name}, seed {seed}: {shown}")
        print(f"run {number} of {len(missing)}, {left:.0f} minutes left", flush=True)
    return data


def results(data, rows):
    """Return {row: [result, ...]} of those of `rows` that have any, seed by seed.

    Results of other constants or another patch, or without a fingerprint, are left out.
    """
    found = {}
    for name, row in rows.items():
        kept = [data.get(name, {}).get(str(seed), {}) for seed in row.seeds]
        setting = row.setting()
        runs = [run for run in kept if setting.items() <= run.items() and "fingerprint" in run]
        if runs:
            found[name] = runs
    return found


def table(heads, lines):
    """Return a table in Markdown of `lines`, each a list of cells."""
    text = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    text.insert(1, "|---" * len(heads) + "|")
    return "\n".join(text)


def share(k, n):
    """Return "k of n" with its 95% interval (Wilson's score interval)."""
    z = 1.96
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (k * (n - k) / n + z**2 / 4) ** 0.5
    return f"{k} of {n} ({max(0.0, middle - half):.0%} to {min(1.0, middle + half):.0%})"


def difference(a, b, times=10_000):
    """Return mean(a) - mean(b), its 95% interval (bootstrap) and its p (permutation test)."""
    rng = np.random.default_rng(0)
    both = rng.permuted(np.tile(np.concatenate([a, b]), (times, 1)), axis=1)
    null = both[:, : len(a)].mean(axis=1) - both[:, len(a) :].mean(axis=1)
    found = a.mean() - b.mean()
    p = (1 + np.sum(np.abs(null) >= abs(found) - 1e-9)) / (1 + times)
    drawn = [rng.choice(x, (times, len(x))).mean(axis=1) for x in (a, b)]
    return found, np.percentile(drawn[0] - drawn[1], [2.5, 97.5]), p


def holm(chances):
    """Return p values corrected for their number (Holm's method)."""
    corrected, highest = np.ones(len(chances)), 0.0
    for rank, i in enumerate(np.argsort(chances)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[i]))
        corrected[i] = highest
    return corrected


def spread(values, digits=0):
    """Return "median (quartile to quartile)" of `values`, or the median if all three are equal."""
    low, median, high = (f"{x:.{digits}f}" for x in np.percentile(values, [25, 50, 75]))
    return median if low == high else f"{median} ({low} to {high})"


def draw(curves, behind, figure, level):
    """Draw median and quartiles of the curves {row: (seeds, blocks)}, a panel a row.

    behind: {row: the row that is drawn in gray behind it}; level: where a dashed line is.
    """
    n_columns = 4
    n_rows = -(-len(curves) // n_columns)
    fig = plt.figure(figsize=(13, 0.5 + 2.4 * n_rows), layout="constrained")
    axes = fig.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, (name, runs) in zip(axes, curves.items()):
        if behind[name] in curves:
            median = np.median(curves[behind[name]], axis=0)
            ax.plot(np.arange(1, 1 + len(median)) * BLOCK, median, color="silver")
        low, median, high = np.percentile(runs, [25, 50, 75], axis=0)
        episodes = np.arange(1, 1 + len(median)) * BLOCK
        ax.fill_between(episodes, low, high, alpha=0.3, linewidth=0)
        ax.plot(episodes, median)
        ax.axhline(level, color="gray", linestyle="--", linewidth=0.8)
        ax.set_title(name.replace("`", ""), size=9)
    for ax in axes[len(curves) :]:
        ax.remove()
    fig.supxlabel(f"Episode (gray: as shipped, or quick; dashed: {level})")
    fig.supylabel(f"Means of {BLOCK} returns: median and quartiles of the seeds", size=9)
    fig.savefig(figure, dpi=80)
