"""Train with other constants, from a program of your own:

from examples.train import train

run = train("discrete_A3C.py", {"LR": 1e-3, "MAX_EP": 100})
print(run.average, run.greedy, run.folder)
"""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """What a run of a program has left and printed.

    code     exit code: 0 at its end, 130 after Ctrl-C, else it died
    seconds  from its start to its end
    folder   its folder, results/NAME-1 (a Path); None: it saved nothing
    average  last moving average of the returns; None: no episode ended
    greedy   mean return of the greedy policy after training; None: it did not get there
    times    seconds until each episode was printed
    lines    all that it printed
    errors   all that it wrote to stderr
    """

    code: int | None = None
    seconds: float = 0.0
    folder: Path | None = None
    average: float | None = None
    greedy: float | None = None
    times: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    errors: str = ""


def find_constants(text):
    """Return {name: node} of what a program sets once, on a line of its own at its top."""
    tree = ast.parse(text.encode())
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names = Counter(node.id for node in names if isinstance(node.ctx, ast.Store))
    lines = Counter()
    for node in tree.body:
        lines.update({node.lineno, node.end_lineno})
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            name = getattr(node.targets[0], "id", None)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            name = getattr(node.target, "id", None)
        else:
            continue
        if names[name] == 1 and lines[node.lineno] == lines[node.end_lineno] == 1:
            constants[name] = node
    return constants


def change(text, constants):
    """Return the text of a program with other constants, {name: value}, at its top.

    Raises ValueError if it does not set one of them as NAME = value, on a line of its own.
    """
    found = find_constants(text)
    for name in constants:
        if name not in found:
            line = f"on a line of its own at its top: {name} = value"
            raise ValueError(f"{name}: the program must set it, and only once, {line}")
    lines = text.encode().splitlines(keepends=True)  # ast counts bytes
    for name, node in reversed(found.items()):  # from the end, so that line numbers stay right
        if name in constants:
            value = node.value
            before = lines[value.lineno - 1][: value.col_offset]
            after = lines[value.end_lineno - 1][value.end_col_offset :]
            line = before + repr(constants[name]).encode() + after
            lines[value.lineno - 1 : value.end_lineno] = [line]
    return b"".join(lines).decode()


def train(program, constants, folder=ROOT):
    """Train with `program`, a path in `folder`, and other constants {name: value}; return a Run.

    A copy runs, hidden beside the program, so that it finds the files that lie there. Ctrl-C ends
    it, not the program that calls train. Raises ValueError as `change` does.
    """
    path = Path(folder, program).absolute()
    copy = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}.py")
    copy.write_text(change(path.read_text(encoding="utf-8"), constants), encoding="utf-8")
    try:
        run = run_program(copy, folder)
    finally:
        copy.unlink()
    for script in Path(folder).glob(f"results/*/{copy.name}"):  # where new_run has put it
        script.rename(script.with_name(path.name))
    if run.folder is not None:
        path = run.folder / "constants.json"
        saved = {**json.loads(path.read_text(encoding="utf-8")), "EXIT_CODE": run.code}
        path.write_text(json.dumps(saved, indent=2), encoding="utf-8")
    return run


def run_program(path, folder):
    """Run the program `path` in `folder` to its end; return a Run."""
    run, interrupted = Run(), False
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}
    environ["PYTHONUNBUFFERED"] = ""  # unbuffered, the lines of two processes mix
    environ["PYTHONIOENCODING"] = "utf-8:surrogateescape"  # in a pipe, else the locale's
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, str(path)],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C does not reach it: we send it once
        )
        while run.code is None:
            try:
                for line in process.stdout:
                    run.lines.append(line.rstrip("\n"))
                    if " Ep: " in line:
                        run.times.append(time.perf_counter() - begin)
                run.code = process.wait()
            except KeyboardInterrupt:
                interrupted = True
                process.send_signal(signal.SIGINT)
        errors.seek(0)
        run.errors = errors.read()
    if interrupted:
        run.code = 130  # -2 while it still imports
    run.seconds = time.perf_counter() - begin
    printed = "\n".join(run.lines)
    if saved := re.search(r"^Saved (.+): weights\.pt", printed, re.MULTILINE):
        run.folder = Path(folder, os.fsdecode(saved[1].encode()))
    if averages := re.findall(r"^w\d+ Ep: \d+ \| Ep_r: (\S+)$", printed, re.MULTILINE):
        run.average = float(averages[-1])
    if greedy := re.search(r"^After training, .* returns (\S+)", printed, re.MULTILINE):
        run.greedy = float(greedy[1])
    return run


def is_whole(folder):
    """Return whether a run in results/ is complete: as train has noted, else by MAX_EP."""
    constants = folder / "constants.json"
    if not constants.exists():
        return False
    constants = json.loads(constants.read_text(encoding="utf-8"))
    if "EXIT_CODE" in constants:
        return constants["EXIT_CODE"] == 0
    episodes = (folder / "episodes.csv").read_text(encoding="utf-8").count("\n") - 1
    return episodes >= constants.get("MAX_EP", 1)
