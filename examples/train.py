"""Run a program with other constants at its top: for sweep.py, and for a program of your own."""

import ast
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """What a run of a program has left and printed."""

    code: int | None = None  # exit code
    seconds: float = 0.0
    folder: Path | None = None  # results/NAME-1; None: it saved nothing
    average: float | None = None  # the last moving average
    greedy: float | None = None  # mean return of the greedy policy after training
    times: list = field(default_factory=list)  # seconds until each episode was printed
    lines: list = field(default_factory=list)  # all that it printed
    errors: str = ""


def change(text, constants):
    """Return the text of a program with other constants, {name: value}, at its top.

    Raises ValueError if the program does not have one of them.
    """
    lines = text.splitlines(keepends=True)
    missing = dict(constants)
    for node in reversed(ast.parse(text).body):  # from the end, so that line numbers stay right
        name = getattr(node.targets[0], "id", None) if isinstance(node, ast.Assign) else None
        if name in missing:
            lines[node.lineno - 1 : node.end_lineno] = [f"{name} = {missing.pop(name)!r}\n"]
    if missing:
        raise ValueError(f"the program has no {', '.join(missing)}")
    return "".join(lines)


def train(program, constants, folder=ROOT):
    """Run a changed copy of `program`, a path in `folder`, to its end; return a Run."""
    run = Run()
    text = change((folder / program).read_text(encoding="utf-8"), constants)
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryFile("w+") as errors:
        copy = Path(temporary, Path(program).name)
        copy.write_text(text, encoding="utf-8")
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}
        environ["PYTHONUNBUFFERED"] = ""  # unbuffered, the lines of two processes mix
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(copy)],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C does not reach it: we send it once
        )
        while True:
            try:
                for line in process.stdout:
                    run.lines.append(line.rstrip("\n"))
                    if " Ep: " in line:
                        run.times.append(time.perf_counter() - begin)
                run.code = process.wait()
                break
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
        run.seconds = time.perf_counter() - begin
        errors.seek(0)
        run.errors = errors.read()
    printed = "\n".join(run.lines)
    if saved := re.search(r"^Saved (.+): weights\.pt", printed, re.MULTILINE):
        run.folder = Path(saved[1])
    if averages := re.findall(r"^w\d+ Ep: \d+ \| Ep_r: (-?\d+\.\d+)$", printed, re.MULTILINE):
        run.average = float(averages[-1])
    if greedy := re.search(r"^After training, .* returns (\S+)", printed, re.MULTILINE):
        run.greedy = float(greedy[1])
    return run
