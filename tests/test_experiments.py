"""The scripts of experiments/: what they change, what they read, and what they print of it."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

import continuous_A3C
import discrete_A3C
from experiments import knobs, speed, stock
from experiments.copies import ROOT, Copy
from utils import push_and_pull

FOLDER = ROOT / "experiments"
README = (FOLDER / "README.md").read_text()
NEEDS = {"pong": "ale_py", "speed_sb3": "stable_baselines3"}
FILES = sorted((ROOT / "examples").glob("*.py")) + sorted(FOLDER.glob("*.py"))


def test_importing_an_experiment_starts_nothing(tmp_path):
    copy = Copy(tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.gif")
    shutil.copytree(FOLDER, tmp_path / "experiments", ignore=ignored)
    names = []
    for path in sorted(FOLDER.glob("*.py")):
        needed = NEEDS.get(path.stem)
        if needed is None or importlib.util.find_spec(needed) is not None:
            names.append(f"experiments.{path.stem}")
    before = sorted(tmp_path.rglob("*"))
    # In one process, as torch takes its time.
    code = f"import importlib\nfor name in {names}:\n    importlib.import_module(name)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = copy.start("-B", "-c", code, **pipes)
    stdout, stderr = process.communicate(timeout=50)
    assert (process.returncode, stdout) == (0, ""), stderr
    assert sorted(tmp_path.rglob("*")) == before


def imported_names(tree):
    """Return the names that the imports in `tree` bind, and the modules that they name."""
    names, modules = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module)
            names.update(alias.asname or alias.name for alias in node.names)
    return names, modules


def complaints(source):
    """Return what `source` does that no program for others to copy should do."""
    tree = ast.parse(source)
    names, modules = imported_names(tree)
    found = [m for m in modules if m.split(".")[0] in ("tests", "conftest")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            found.append("sys.path")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            found.append(ast.unparse(node))
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if stored and isinstance(node.value, ast.Name) and node.value.id in names:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_program_imports_tests_changes_the_path_or_patches(path):
    assert complaints(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tests.conftest import Copy",
        "import conftest",
        "import sys\nsys.path.insert(0, '..')",
        "import discrete_A3C as a3c\na3c.record = print",
        "import discrete_A3C as a3c\na3c.Net, a3c.LR = None, 1",
        "import utils\nsetattr(utils, 'record', print)",
    ],
)
def test_what_no_program_does_would_be_found(source):
    assert complaints(source)


@pytest.mark.parametrize("old", ["no such text", "GAMMA"])
def test_a_change_of_text_that_is_not_there_once_is_refused(tmp_path, old):
    copy = Copy(tmp_path)
    before = (tmp_path / "discrete_A3C.py").read_text()
    with pytest.raises(ValueError, match="not once"):
        copy.change("discrete_A3C.py", old, "GAMMA_")
    assert (tmp_path / "discrete_A3C.py").read_text() == before


def test_constants_are_set_and_unknown_ones_refused(tmp_path):
    copy = Copy(tmp_path)
    with pytest.raises(ValueError, match="GAMMMA in 0 lines"):
        copy.set_constants("discrete_A3C.py", {"LR": 0.5, "GAMMMA": 1})
    assert (tmp_path / "discrete_A3C.py").read_text() == (ROOT / "discrete_A3C.py").read_text()
    copy.set_constants("discrete_A3C.py", {"LR": 0.5, "MAX_GRAD_NORM": 40})
    lines = (tmp_path / "discrete_A3C.py").read_text().splitlines()
    assert "LR = 0.5" in lines and "MAX_GRAD_NORM = 40" in lines


def test_the_table_of_the_knobs_is_what_was_measured():
    data = json.loads(knobs.DATA.read_text())
    assert f"\n{knobs.table(data)}\n" in README
    for row, constants in knobs.ROWS.items():
        for seed in knobs.SEEDS:
            assert data[row][str(seed)]["constants"] == {**knobs.SHIPPED, **constants}, row


def test_the_tables_of_the_speed_are_what_was_measured():
    assert speed.table(json.loads(speed.DATA.read_text())) in README


def test_every_file_and_command_of_the_page_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if link[0] != "#"]
    assert len(links) > 5
    for link in links:
        assert (FOLDER / link).is_file(), link
    commands = re.findall(r"`python (?:-m )?([\w.]+)`", README)
    assert len(commands) > 4
    for command in commands:
        path = command if command.endswith(".py") else f"{command.replace('.', '/')}.py"
        assert (ROOT / path).is_file(), command


def test_a_short_run_is_read_and_timed():
    returns, times, seconds, greedy = knobs.play({"MAX_EP": 60, "N_WORKERS": 2}, 0)
    assert len(returns) in (60, 61)
    # The returns themselves, not their average: a pole without training falls after 8 to 130 steps.
    assert all(r == int(r) and 8 <= r <= 200 for r in returns)
    assert returns.max() - returns.min() > 10
    assert 0 < times[0] and all(np.diff(times) >= 0)
    # From the start of the workers: loading torch alone takes longer than all else may differ.
    assert seconds - 0.5 < times[-1] < seconds + 0.3
    assert 8 <= greedy <= 200


def test_a_run_that_fails_says_why():
    with pytest.raises(SystemExit, match="(?s)GAMMA = 2: .*status 1"):
        knobs.play({"GAMMA": 2}, 0)


def test_training_is_summed_up(monkeypatch):
    returns = np.array([10.0] * 100 + [200.0] * 150 + [50.0])
    times = np.arange(251) / 10
    monkeypatch.setattr(knobs, "play", lambda constants, seed: (returns, times, 25.1, 187.5))
    result = knobs.train({"MAX_EP": 250, "GAMMA": 0.99}, 0)
    assert result["constants"] == {**knobs.SHIPPED, "MAX_EP": 250, "GAMMA": 0.99}
    # Two tens and 98 times 200 average 196.2, three tens 194.3.
    assert (result["solved"], result["seconds"]) == (198, 19.7)
    assert result["moving average"] == round(200 - 190 * 0.99**150, 1)
    assert result["curve"] == [10.0] * 4 + [200.0] * 6
    assert (result["of all"], result["greedy"]) == (25.1, 187.5)
    returns[100:] = 194.0
    result = knobs.train({"MAX_EP": 250}, 0)
    assert (result["solved"], result["seconds"]) == (None, None)


def test_the_tables_of_the_speed():
    rounds = {
        "CartPole, 1 worker": [[300.0, 10.0], [900.0, 11.0], [400.0, 12.0]],
        "CartPole, 1 worker of stock parts": [[100.0, 1.0], [200.0, 2.0], [400.0, 3.0]],
        "Pendulum, 1 worker": [[50.0, 1.0]] * 3,
        "Pendulum, 1 worker, before": [[100.0, 1.0]] * 3,
    }
    runs = [{"solved": 300, "seconds": 4.0}, {"solved": None, "seconds": None}]
    runs.append({"solved": 500, "seconds": 2.0})
    solving = {"early": runs, "never": [{"solved": None, "seconds": None}] * 3}
    lines = speed.table({"speed": rounds, "solving": solving}).splitlines()
    assert "| CartPole, 1 worker | 400 | 11 |" in lines
    assert "| CartPole, 1 worker of stock parts | 200 | 2 |" in lines
    # Round by round 3, 4.5 and 1: not the ratio of the medians, which is 2.
    assert "- CartPole, 1 worker: 3.00 (1.00 to 4.50) times the steps/s of stock parts" in lines
    assert "- Pendulum, 1 worker: 0.50 (0.50 to 0.50) times the steps/s of before" in lines
    assert "| early | 2 of 3 | 400 | 3.0 (2.0 to 4.0) |" in lines
    assert "| never | 0 of 3 | - | - |" in lines


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("module", [discrete_A3C, continuous_A3C], ids=["discrete", "continuous"])
def test_stock_parts_update_as_ours(module, done):
    torch.manual_seed(0)
    start = module.Net(module.N_S, module.N_A)
    rng = np.random.default_rng(0)
    bs = list(rng.normal(size=(5, module.N_S)).astype(np.float32))
    s_ = rng.normal(size=module.N_S).astype(np.float32)
    ba = [np.array([a], np.float32) for a in rng.normal(size=5)]
    if module is discrete_A3C:
        ba = [0, 1, 1, 0, 1]
    after = []
    for adam, push in [
        (discrete_A3C.SharedAdam, push_and_pull),
        (stock.SharedAdam, stock.push_and_pull),
    ]:
        gnet = module.Net(module.N_S, module.N_A)
        lnet = module.Net(module.N_S, module.N_A)
        gnet.load_state_dict(start.state_dict())
        lnet.load_state_dict(start.state_dict())
        opt = adam(gnet.parameters(), lr=1e-2, betas=(0.9, 0.99))
        for _ in range(3):
            push(opt, lnet, gnet, done, s_, bs, ba, [1.0, 0.5, -1.0, 2.0, 1.0], 0.9)
        after.append(torch.cat([p.detach().flatten() for p in lnet.parameters()]))
    before = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert (after[0] - before).abs().max() > 1e-2
    assert torch.allclose(*after, atol=1e-5)


def test_copies_of_stock_parts_run(tmp_path):
    processes = []
    for script in speed.STOCK_LINES:
        copy = speed.stock(tmp_path / script, script)
        copy.set_constants(script, {"MAX_EP": 1, "N_WORKERS": 1})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(copy.start(script, **pipes))
    for process in processes:
        stdout, stderr = process.communicate(timeout=50)
        assert process.returncode == 0, stderr
        assert re.search(r"^1 episodes in .*\nGreedy policy: ", stdout, re.MULTILINE)
