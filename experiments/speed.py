"""Measure speed and memory, and the time to solve CartPole. Run: python -m experiments.speed

Compares the two scripts with a bare environment, with stock parts and with Stable-Baselines3 where
it is installed. Each contestant is a process of its own, and all take turns, round after round:
what a machine does besides hits all alike. What was measured is kept in speed.json, so that a run
that was stopped goes on. Other code is measured from the start, and so is all without that file.
Prints the tables of experiments/README.md. Takes a quarter of an hour on 2 cores. Needs Linux, for
/proc; its row of OMP_NUM_THREADS needs Python below 3.14, where workers are forked.
"""

import importlib.util
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import knobs
from experiments.copies import ROOT, Copy, code_of

ROUNDS = 7
SECONDS = 3  # of a round, from the first episode on: the start of the workers is a small share
SEEDS = range(10)  # of the runs until CartPole is solved
PENDULUM_SEEDS = range(5)  # of the runs until 100 returns of Pendulum average PENDULUM_SOLVED
PENDULUM_SOLVED = -250
BEFORE = None  # "../before": a folder with an earlier version of the four files, to compare with

DATA = Path(__file__).with_name("speed.json")
FILES = ("discrete_A3C.py", "continuous_A3C.py", "utils.py", "shared_adam.py")
LATE = "`OMP_NUM_THREADS` below `import torch`"
SCRIPTS = {"CartPole": "discrete_A3C.py", "Pendulum": "continuous_A3C.py"}
SB3 = {
    "A2C": "Stable-Baselines3 A2C, 8 environments",
    "PPO": "Stable-Baselines3 PPO, 8 environments",
}
SOLVING = {
    "as shipped, 2 workers": {},
    "the three tips, 2 workers": knobs.TIPS,
}

# Stock parts, as lines of the scripts that change (old, new): validated distributions, and value
# head and autograd also to act. The other parts stand in stock.py.
STOCK_IMPORTS = [
    ("from shared_adam import SharedAdam\n", "from stock import SharedAdam, push_and_pull\n"),
    ("from utils import push_and_pull, record", "from utils import record"),
    ("    @torch.no_grad()\n", ""),
]
STOCK_LINES = {
    "discrete_A3C.py": [
        (
            "        probs = F.softmax(logits, dim=1)[0].tolist()\n"
            '        check_finite("policy", sum(probs), self, s)\n',
            "",
        ),
        (
            "        return random.choices(range(self.a_dim), probs)[0]",
            "        probs = F.softmax(logits, dim=1).detach()\n"
            "        return self.distribution(probs).sample().numpy()[0]",
        ),
        (
            "        m = self.distribution(logits=logits, validate_args=False)\n",
            "        m = self.distribution(F.softmax(logits, dim=1))\n",
        ),
    ],
    "continuous_A3C.py": [
        ("return mu[0].numpy()", "return mu[0].detach().numpy()"),
        (
            "        return (mu + sigma * torch.randn_like(mu))[0].numpy()",
            "        m = self.distribution(mu.detach(), sigma.detach())\n"
            "        return m.sample().numpy()[0]",
        ),
        (
            "        m = self.distribution(mu, sigma, validate_args=False)\n",
            "        m = self.distribution(mu, sigma)\n",
        ),
    ],
}

# A mistake of many A3C programs that costs speed: OMP_NUM_THREADS is set below `import torch`.
OPENMP_TOO_LATE = [
    ("discrete_A3C.py", 'os.environ["OMP_NUM_THREADS"] = "1"', ""),
    (
        "discrete_A3C.py",
        "import torch.nn.functional as F\n",
        'import torch.nn.functional as F\n\nos.environ["OMP_NUM_THREADS"] = "1"\n',
    ),
    ("utils.py", "        torch.set_num_threads(1)", "        #"),  # which covers up the mistake
]


def shipped(folder, script):
    """Return a copy of the collection in `folder`."""
    return Copy(folder)


def stock(folder, script):
    """Return a copy whose `script` is put together from stock parts."""
    copy = Copy(folder)
    shutil.copy(Path(__file__).with_name("stock.py"), copy.folder)
    for old, new in STOCK_IMPORTS + STOCK_LINES[script]:
        copy.change(script, old, new)
    return copy


def too_late(folder, script):
    """Return a copy whose discrete_A3C.py sets OMP_NUM_THREADS too late."""
    copy = Copy(folder)
    for change in OPENMP_TOO_LATE:
        copy.change(*change)
    return copy


def before(folder, script):
    """Return a copy with the four files of the folder BEFORE."""
    copy = Copy(folder)
    for name in FILES:
        shutil.copy(Path(BEFORE) / name, copy.folder)
    return copy


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


def run_script(script, prepare, n_workers):
    """Run `script` of the copy that `prepare` makes until Ctrl-C; return steps/s and peak MB."""
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        copy = prepare(folder, script)
        copy.set_constants(script, {"MAX_EP": 10**9, "N_WORKERS": n_workers})
        printed = copy.folder / "printed"
        with open(printed, "w") as output:
            process = copy.start(script, stdout=output, stderr=subprocess.STDOUT)
        peak = 0.0
        first = None
        while process.poll() is None:
            now = time.monotonic()
            peak = max(peak, memory(process.pid))
            if first is None and " Ep: 1 " in printed.read_text():
                first = now
            if first is not None and now - first >= SECONDS:
                process.send_signal(signal.SIGINT)
                process.wait()
            time.sleep(0.1)
        text = printed.read_text()
    if process.returncode != 130:  # what follows Ctrl-C
        raise SystemExit(f"{text[-2000:]}{script} ended with status {process.returncode}.")
    return float(
        re.search(r"^\d+ episodes in \S+ s, (\d+) env steps/s", text, re.MULTILINE)[1]
    ), peak


def run_module(name, *arguments):
    """Run a module of experiments/; return the value that it prints, and its peak memory in MB."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    printed = process.stdout.read()
    if process.returncode != 0:
        raise SystemExit(f"python -m experiments.{name} ended with status {process.returncode}.")
    return json.loads(printed.splitlines()[-1]), peak


def solve_a3c(constants, seed):
    result = knobs.train(constants, seed)
    return {"solved": result["solved"], "seconds": result["seconds"]}


def solve_pendulum(seed):
    returns, times, _, _ = knobs.play({"N_WORKERS": 2}, seed, script="continuous_A3C.py")
    solved = knobs.solving_episode(returns, PENDULUM_SOLVED)
    seconds = None if solved is None else round(float(times[solved - 1]), 1)
    return {"solved": solved, "seconds": seconds}


def solve_sb3(algorithm, seed):
    result, _ = run_module("speed_sb3", algorithm, "solve", seed)
    return result


def has_sb3():
    return importlib.util.find_spec("stable_baselines3") is not None


def speed_contestants():
    """Return (name, function, its arguments) of what is timed in rounds."""
    contestants = []
    for env, script in SCRIPTS.items():
        module = script.removesuffix(".py")
        contestants += [
            (f"{env}, environment alone", run_module, ("speed_bare", module, SECONDS)),
            (f"{env}, 1 worker", run_script, (script, shipped, 1)),
            (f"{env}, 2 workers", run_script, (script, shipped, 2)),
            (f"{env}, 1 worker of stock parts", run_script, (script, stock, 1)),
        ]
        if BEFORE is not None:
            contestants.append((f"{env}, 1 worker, before", run_script, (script, before, 1)))
    late = ("discrete_A3C.py", too_late, 2)
    contestants.append((f"CartPole, 2 workers, {LATE}", run_script, late))
    if has_sb3():
        for algorithm, name in SB3.items():
            arguments = ("speed_sb3", algorithm, "seconds", SECONDS)
            contestants.append((f"CartPole, {name}", run_module, arguments))
    return contestants


def solving_contestants():
    """Return (name, function, its arguments but for the seed) of what solves CartPole."""
    contestants = []
    for name, constants in SOLVING.items():
        contestants.append((name, solve_a3c, (constants,)))
    if has_sb3():
        for algorithm, name in SB3.items():
            contestants.append((name, solve_sb3, (algorithm,)))
    return contestants


def speed_table(rounds):
    """Return the table of {name: [(steps/s, MB), ...]}, and round by round the ratios, as text."""
    number = max(len(results) for results in rounds.values())
    lines = [f"Medians of {number} rounds, in turn:", ""]
    lines += ["| contestant | env steps/s | peak memory, MB |", "|---|---|---|"]
    for name, results in rounds.items():
        rates, megabytes = zip(*results)
        rate = statistics.median(rates)
        lines.append(f"| {name} | {rate:.0f} | {statistics.median(megabytes):.0f} |")
    lines.append("")
    for env in SCRIPTS:
        one, two = f"{env}, 1 worker", f"{env}, 2 workers"
        for ours, other, what in (
            (one, f"{env}, 1 worker of stock parts", "stock parts"),
            (two, one, "1 worker"),
            (one, f"{env}, 1 worker, before", "before"),
        ):
            if ours in rounds and other in rounds:
                pairs = zip(rounds[ours], rounds[other])
                ratios = [our_rate / rate for (our_rate, _), (rate, _) in pairs]
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                lines.append(f"- {ours}: {spread} times the steps/s of {what}")
    return "\n".join(lines)


def solving_table(what, runs):
    """Return the table of {name: [{"solved": episodes or None, "seconds": ...}, ...]}."""
    number = max(len(results) for results in runs.values())
    lines = [f"Until {what}, medians of those of {number} seeds that got there:", ""]
    lines.append("| contestant | solved | episodes | seconds (fastest to slowest) |")
    lines.append("|---|---|---|---|")
    for name, results in runs.items():
        solved = [run for run in results if run["solved"]]
        cells = [name, f"{len(solved)} of {len(results)}", "-", "-"]
        if solved:
            seconds = [run["seconds"] for run in solved]
            cells[2] = f"{statistics.median([run['solved'] for run in solved]):.0f}"
            cells[3] = (
                f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(data):
    """Return what was measured in Markdown: three tables, and the ratios of the first."""
    mean = f"the mean of 100 returns of Pendulum-v1 is {PENDULUM_SOLVED}"
    parts = [
        speed_table(data["speed"]),
        solving_table("CartPole-v0 is solved", data["solving"]),
        solving_table(mean, data["solving Pendulum"]),
    ]
    return "\n\n".join(parts)


def measurements():
    """Return (kind, name, number of the result, function, its arguments), in turn."""
    found = []
    for number in range(ROUNDS):
        for name, function, arguments in speed_contestants():
            found.append(("speed", name, number, function, arguments))
    for number, seed in enumerate(SEEDS):
        for name, function, arguments in solving_contestants():
            found.append(("solving", name, number, function, (*arguments, seed)))
    for number, seed in enumerate(PENDULUM_SEEDS):
        name = "as shipped, 2 workers"
        found.append(("solving Pendulum", name, number, solve_pendulum, (seed,)))
    return found


def main():
    code = {script: code_of(script) for script in SCRIPTS.values()}
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    if data.get("code") != code:
        data = {"code": code, "seconds of a round": SECONDS}
        data.update({"speed": {}, "solving": {}, "solving Pendulum": {}})
    missing = [m for m in measurements() if len(data[m[0]].get(m[1], [])) <= m[2]]
    begin = time.perf_counter()
    for done, (kind, name, _, function, arguments) in enumerate(missing, 1):
        result = function(*arguments)
        if kind == "speed":
            rate, megabytes = result
            result = [round(rate, 1), round(megabytes, 1)]
        data[kind].setdefault(name, []).append(result)
        knobs.keep(DATA, data)
        left = (time.perf_counter() - begin) / done * (len(missing) - done) / 60
        text = f"{done} of {len(missing)}, {left:.0f} minutes left"
        print(f"{name}: {result}: {text}", flush=True)
    print(table(data))


if __name__ == "__main__":
    main()
