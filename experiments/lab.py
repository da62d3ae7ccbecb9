"""What the experiments share: changed copies of the collection, one way to run them, data, tables.

A result belongs to the constants, the patch and the code with which it was measured: `stale` says
where one of them is another one today. Needs Linux, for /proc, and git, to apply patches.
"""

import ast
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp

from utils import CONSTANTS

ROOT = Path(__file__).resolve().parent.parent
LEARNS = {  # what learns, beside the classes, Worker.run, make_env and ROWS of a script
    "utils.py": ("set_init", "push_and_pull", "actions_to_tensor"),
    "shared_adam.py": ("SharedAdam",),
}
KEPT = (*CONSTANTS, "VALUE_WEIGHT", "FRAME_SKIP")  # the constants that are kept with a result
BLOCK = 25  # episodes averaged into one point of a curve
OLDER = " (older code)"  # marks a row that was measured with other code or constants than today's


def code_of(script, folder=ROOT):
    """Return a hash of what learns in `script`: docstrings, comments and all else do not count."""
    own = ast.parse((Path(folder) / script).read_text())
    names = [node.name for node in own.body if isinstance(node, ast.ClassDef)]
    names = [name for name in names if name != "Worker"] + ["run", "make_env", "ROWS"]
    code = []
    for file, learns in {script: names, **LEARNS}.items():
        for node in ast.walk(ast.parse((Path(folder) / file).read_text())):
            name = getattr(node, "name", None)
            if isinstance(node, ast.Assign):
                name = getattr(node.targets[0], "id", None)
            if name in learns:
                code.append(said(node))
    return hashlib.sha256(str(code).encode()).hexdigest()[:12]


def said(node):
    """Return what a syntax tree says, the same in all Pythons: that of ast.dump differs."""
    if isinstance(node, list):
        return [said(part) for part in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    return type(node).__name__, {name: said(value) for name, value in fields.items()}


def constants_of(script, changed):
    """Return the constants at the top of `script`, with the values in `changed` for its own."""
    values = {"mp": mp, **changed}
    for node in ast.parse((ROOT / script).read_text()).body:
        name = getattr(node.targets[0], "id", None) if isinstance(node, ast.Assign) else None
        if name in KEPT and name not in changed:
            exec(compile(ast.Module([node], []), script, "exec"), values)
    found = {name: values[name] for name in KEPT if name in values}
    return json.loads(json.dumps(found))  # as they are kept: a tuple becomes a list


def changed_lines(patch):
    """Return the lines that the file `patch` of experiments/ takes out and puts in."""
    if patch is None:
        return []
    text = (ROOT / "experiments" / patch).read_text()
    return re.findall(r"^[-+](?!--|\+\+).*$", text, re.MULTILINE)


class Copy:
    """The four files and examples/ in the folder `folder`, which is made where it is missing."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("discrete_A3C.py", "continuous_A3C.py", "utils.py", "shared_adam.py"):
            shutil.copy(ROOT / name, self.folder)
        code = shutil.ignore_patterns("__pycache__")
        shutil.copytree(
            ROOT / "examples", self.folder / "examples", ignore=code, dirs_exist_ok=True
        )

    def apply(self, patch):
        """Apply the file `patch` of experiments/, as `git apply` does; it must fit."""
        command = ["git", "apply", str(ROOT / "experiments" / patch)]
        outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(self.folder.resolve().parent)}
        subprocess.run(command, cwd=self.folder, env=outside, check=True)

    def change(self, file, old, new):
        """Put the text `new` in the place of `old`, which must stand in `file` once."""
        path = self.folder / file
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} has {text.count(old)} times the text {old!r}, not once.")
        path.write_text(text.replace(old, new))

    def set_constants(self, file, constants):
        """Give the constants at the top of `file` other values: {name: value}."""
        lines = (self.folder / file).read_text().splitlines(keepends=True)
        for name, value in constants.items():
            numbers = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
            if len(numbers) != 1:
                raise ValueError(f"{file} sets {name} in {len(numbers)} lines, not in one.")
            lines[numbers[0]] = f"{name} = {value!r}\n"
        (self.folder / file).write_text("".join(lines))

    def start(self, *arguments, environ=(), **options):
        """Start `python arguments` in the folder, without a display; return the process."""
        unset = {"DISPLAY", "OMP_NUM_THREADS", "MPLBACKEND", "PYTHONUNBUFFERED"}
        variables = {name: value for name, value in os.environ.items() if name not in unset}
        command = [sys.executable, *arguments]
        variables.update(environ)
        return subprocess.Popen(command, cwd=self.folder, env=variables, text=True, **options)


@dataclass
class Run:
    """What a run printed. An episode is (worker, number, moving average, return)."""

    status: int | None = None  # None: it stood still and was killed
    episodes: list = field(default_factory=list)
    times: list = field(default_factory=list)  # seconds from the start of the workers, each episode
    greedy: list = field(default_factory=list)
    rate: float = 0.0  # environment steps/s, as it says itself: do not pause it
    steps: int | None = None  # environment steps, where it says so
    memory: float = 0.0  # MB at the peak, of all its processes
    lines: list = field(default_factory=list)  # all others
    weights: dict | None = None

    @property
    def returns(self):
        return np.array([r for _, _, _, r in self.episodes])


def run(script, constants, patch=None, *, greedy=0, seconds=None, patience=None):
    """Run a copy of `script` with other `constants`, and with `patch`; return its Run.

    greedy    the number of episodes of the trained network
    seconds   Ctrl-C comes so long after the first episode
    patience  a run that prints nothing for so many seconds is killed

    SystemExit: it failed, or what it prints is not what is read here.
    """
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        copy = Copy(folder)
        copy.set_constants(script, constants)
        if patch is not None:
            copy.apply(patch)
        # The return itself beside the moving average, which is rounded.
        copy.change("utils.py", "{global_ep_r.value:.2f}", "{global_ep_r.value:.2f} | {ep_r}")
        begin = "    begin = time.perf_counter()\n"
        copy.change(script, begin, f'{begin}    print("The workers start", flush=True)\n')
        if greedy:
            returns = f"[float(evaluate(gnet, env, seed, 1)) for seed in range({greedy})]"
            end = "    print_greedy("
            copy.change(script, end, f'    print("Greedy:", {returns})\n{end}')
        module = script.removesuffix(".py").replace("/", ".")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = copy.start("-m", module, **pipes)
        try:
            max_ep = constants_of(script, constants)["MAX_EP"]
            found = listen(process, max_ep, seconds, patience)
        finally:
            process.kill()  # where listen was interrupted
            process.wait()
        weights = [path for path in copy.folder.glob("results/*.pt") if path.stat().st_size]
        if weights:
            found.weights = torch.load(weights[0], weights_only=True)
    read = found.episodes and found.rate and len(found.greedy) == greedy
    if patience is None and not (read and found.status in (0, 130)):
        said = "\n".join(found.lines[-20:])
        raise SystemExit(f"{said}\n{script}, {constants}: status {found.status}, or other lines.")
    return found


def listen(process, max_ep, seconds, patience):
    """Return the Run of `process`, read line by line while it goes on."""
    found = Run()
    lines = queue.SimpleQueue()

    def read():
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    clock = printed = looked = told = 0.0
    before = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=0.1)
        except queue.Empty:
            line = ""
        now = time.monotonic()
        clock += min(now - before, 1.0)  # a run that is paused by Ctrl-Z does not age
        before = now
        if line is None:
            break
        episode = re.match(r"(w\d\d) Ep: (\d+) \| Ep_r: (\S+) \| (\S+)$", line)
        rate = re.search(r"(\d+) env steps/s$", line)
        steps = re.match(r"(\d+) env steps in ", line)
        if line == "The workers start":
            begin = clock
        elif episode:
            worker, *numbers = episode.groups()
            found.episodes.append((worker, *map(float, numbers)))
            found.times.append(round(clock - begin, 1))
        elif line.startswith("Greedy: "):
            found.greedy = json.loads(line.removeprefix("Greedy: "))
        elif line:
            found.lines.append(line)
        if rate:
            found.rate = float(rate[1])
        if steps:
            found.steps = int(steps[1])
        if line:
            printed = clock
        if clock - looked > 0.5:
            found.memory = max(found.memory, memory(process.pid))
            looked = clock
        if found.times and clock - told > 60:
            left = found.times[-1] / len(found.times) * (max_ep - len(found.times)) / 60
            print(f"episode {len(found.times)} of {max_ep}, {left:.0f} minutes left", flush=True)
            told = clock
        if seconds is not None and found.times and clock - begin - found.times[0] > seconds:
            process.send_signal(signal.SIGINT)
            seconds = None
        # Until the first episode torch takes its time.
        if patience is not None and clock - printed > patience + 30 * (not found.episodes):
            process.kill()
            process.wait()
            return found
    found.status = process.wait()
    return found


def memory(pid):
    """Return the MB that process `pid` and its children hold now; shared pages count once."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0.0
    own = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    if own is None:
        return 0.0
    return int(own[1]) / 1024 + sum(memory(child) for child in children)


def machine():
    """Return a sentence on this machine."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    model = models[0] if models else platform.machine()
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model}, {python}, torch {torch.__version__}"


def keep(path, data):
    """Write `data` as JSON to `path`, whole or not at all: a run may be stopped at any time."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    part.replace(path)


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


@dataclass
class Row:
    """A row of a table: a script with other constants and a patch, and the seeds to run."""

    seeds: range
    constants: dict = field(default_factory=dict)
    patch: str | None = None
    script: str = "discrete_A3C.py"

    def setting(self):
        """Return what a result of this row must have been measured with."""
        constants = constants_of(self.script, {"N_WORKERS": 2, **self.constants})
        unimportant = ("SEED", "RENDER")
        constants = {name: constants[name] for name in constants if name not in unimportant}
        lines = changed_lines(self.patch)
        return {"constants": constants, "patch": lines, "code": code_of(self.script)}

    def run(self, seed, **options):
        constants = {"N_WORKERS": 2, **self.constants, "SEED": seed}
        return run(self.script, constants, self.patch, **options)


def fill(path, rows, measure):
    """Measure what is missing or stale in the data file `path`, and return all of it.

    The data are {row: {seed: result}}, `rows` are {row: Row}, and `measure(row, seed)`, of the name
    of a row, returns a result.
    """
    data = load(path)
    settings = {name: row.setting() for name, row in rows.items()}
    missing = []
    # All rows of a seed before the next seed: what else the machine does then hits all rows.
    for seed in range(max(row.seeds.stop for row in rows.values())):
        for name, row in rows.items():
            kept = data.get(name, {}).get(str(seed), {})
            setting = settings[name]
            if seed in row.seeds and any(kept.get(key) != setting[key] for key in setting):
                missing.append((name, seed))
    begin = time.perf_counter()
    for number, (name, seed) in enumerate(missing, 1):
        setting = rows[name].setting()  # now: you may edit the code while others run
        result = {**measure(name, seed), **setting, "machine": machine()}
        data.setdefault(name, {})[str(seed)] = result
        keep(path, data)
        left = (time.perf_counter() - begin) / number * (len(missing) - number) / 60
        shown = {key: value for key, value in result.items() if isinstance(value, (int, float))}
        print(f"{name}, seed {seed}: {shown}")
        print(f"run {number} of {len(missing)}, {left:.0f} minutes left", flush=True)
    return data


def results(data, rows):
    """Return {row: [result, ...]} of those of `rows` that have any, seed by seed.

    Those that are stale stand below, by the name of the row and OLDER.
    """
    today, older = {}, {}
    for name, row in rows.items():
        setting = row.setting()
        for seed in row.seeds:
            result = data.get(name, {}).get(str(seed))
            if result is not None and all(result[key] == setting[key] for key in setting):
                today.setdefault(name, []).append(result)
            elif result is not None:
                older.setdefault(name + OLDER, []).append(result)
    return {**today, **older}


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


def spread(values, digits=0):
    """Return "median (lowest to highest)" of `values`, or the value where all are the same."""
    median, low, high = (f"{f(values):.{digits}f}" for f in (np.median, min, max))
    return median if low == high else f"{median} ({low} to {high})"


def draw(curves, behind, figure, level):
    """Draw median and quartiles of the `curves` {row: (seeds, blocks)}, a panel a row.

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
