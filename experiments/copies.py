"""Copies of the collection whose lines can be changed, as a user changes them, and run."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEARNS = {  # what learns, beside Net and Worker.run of a script
    "utils.py": ("set_init", "push_and_pull", "actions_to_tensor"),
    "shared_adam.py": ("SharedAdam",),
}


def code_of(script, folder=ROOT):
    """Return a hash of what learns in `script`: docstrings, comments and all else do not count."""
    code = []
    for file, names in {script: ("Net", "run"), **LEARNS}.items():
        for node in ast.walk(ast.parse((Path(folder) / file).read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in names:
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


class Copy:
    """The four files and examples/ in the folder `folder`, which is made where it is missing."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("discrete_A3C.py", "continuous_A3C.py", "utils.py", "shared_adam.py"):
            shutil.copy(ROOT / name, self.folder)
        code = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "examples", self.folder / "examples", code, dirs_exist_ok=True)

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
