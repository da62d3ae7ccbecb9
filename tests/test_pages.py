"""README.md, experiments/README.md and the patches: what they name exists, and what they say is so.

Numbers are compared with the data of experiments/. These tests skip while there are none with a
fingerprint, and fail if the code has learned something else since.
"""

import ast
import importlib.util
import re
import shutil

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from conftest import ROOT, CountingEnv

import continuous_A3C
import discrete_A3C
import shared_adam
import utils
from experiments import lab

SCRIPTS = [discrete_A3C, continuous_A3C]
README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "experiments/README.md")}
PATCHES = sorted(f"{path.parent.name}/{path.name}" for path in ROOT.glob("experiments/*/*.patch"))
each_page = pytest.mark.parametrize("page", PAGES)
NEEDS = {"variants/gymnasium.patch": "Box2D", "examples/cluster.py": "ray"}  # of some rows
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git applies the patches")


def table(head):
    """Return the cells of the README's table whose first cell is `head`, line by line."""
    lines = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", README, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]


@each_page
def test_links_and_pictures_exist(page):
    links = re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page])
    assert len(links) > 5
    for link in links:
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles]
            assert anchor in anchors, link


@each_page
def test_programs_exist(page):
    modules = re.findall(r"python\s+-m\s+((?:examples|experiments)\.\w+)", PAGES[page])
    files = [f"{module.replace('.', '/')}.py" for module in modules]
    files += re.findall(r"python\s+(\w+\.py)", PAGES[page])
    files += re.findall(r"`((?:\w+/)?\w+\.py)`", PAGES[page])
    assert len(files) > 5
    for file in files:
        assert (ROOT / file).is_file() or (ROOT / "tests" / file).is_file(), file


def test_the_knobs_are_those_of_the_scripts():
    knobs = {name.strip("`"): cell.replace("`", "") for name, cell, _ in table("constant")}
    assert set(knobs) == {*utils.LIMITS, "ENV_NAME", "BETAS", "RENDER"}
    assert knobs.pop("ENV_NAME") == "" and knobs.pop("N_WORKERS") == "all cores"
    for name, cell in knobs.items():
        parts = [cell] if cell.startswith("(") else cell.split(", ")
        values = [ast.literal_eval(part) for part in parts]  # one for both scripts, or two
        assert [getattr(script, name) for script in SCRIPTS] == [values[0], values[-1]], name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_readme_lists_the_steps_that_the_code_marks(script):
    names = (script.__name__, "utils", "shared_adam")
    code = "".join((ROOT / f"{name}.py").read_text() for name in names)
    listed = {step for _, steps, _ in table("tutorial") for step in steps.split("; ")}
    assert set(re.findall(r"# S3: (.+)", code)) == listed
    for _, _, places in table("tutorial"):
        assert "`" in places
        for name in re.findall(r"`([\w.]+)`", places):
            first, _, method = name.partition(".")
            found = [getattr(module, first, None) for module in (script, utils, shared_adam)]
            assert any(found) and (not method or hasattr(found[0], method)), name


@needs_git
@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_applies(patch):
    with lab.copy(patch) as folder:
        changed = []
        for path in folder.rglob("*.py"):
            compile(path.read_text(), path, "exec")
            original = ROOT / path.relative_to(folder)
            changed.append(not original.exists() or original.read_text() != path.read_text())
    assert any(changed)


@pytest.mark.parametrize("patch", [patch for patch in PATCHES if patch.startswith("mistakes/")])
def test_a_mistake_is_told_and_linked(patch):
    assert f"(experiments/{patch})" in README
    text = (ROOT / "experiments" / patch).read_text()
    assert text[: text.index("--- a/")].count(".") >= 2


def load(path):
    """Import a file as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play(path):
    """Let a worker play 7 steps that pay 1, up to a time limit, with n = 5.

    Returns the lengths of its updates, their `done`, and the return that it reports.
    """
    script, updates, queue = load(path), [], mp.SimpleQueue()
    script.MAX_EP, script.UPDATE_GLOBAL_ITER = 1, 5
    script.make_env = lambda: CountingEnv(script.N_S, truncates=True)
    script.push_and_pull = lambda *args, **options: updates.append((len(args[5]), args[3]))
    gnet = script.Net(script.N_S, script.N_A)
    opt = shared_adam.SharedAdam(gnet.parameters())
    script.Worker(gnet, opt, mp.Value("i", 0), mp.Value("d", 0.0), queue, 0).run()
    lengths, done = zip(*updates)
    return lengths, done, queue.get()


class Linear(torch.nn.Module):
    """Its loss is its weight, so each gradient is 1."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def loss_func(self, s, a, v_t):
        return self.w


def gradients(folder):
    """Return the gradients of two updates."""
    push_and_pull, lnet, gnet = load(folder / "utils.py").push_and_pull, Linear(), Linear()
    opt, seen = torch.optim.SGD(gnet.parameters(), lr=0.1), []
    for _ in range(2):
        push_and_pull(opt, lnet, gnet, True, [0.0], [[0.0]], [0], [1.0], 0.9)
        seen.append(gnet.w.grad.item())
    return seen


def step_is_shared(folder):
    opt = load(folder / "shared_adam.py").SharedAdam(Linear().parameters())
    return [state["step"].is_shared() for state in opt.state.values()]


@needs_git
@pytest.mark.parametrize(
    "mistake, see, right, wrong",
    [
        ("gradients", gradients, [1.0, 1.0], [1.0, 2.0]),
        ("buffers", lambda folder: play(folder / "discrete_A3C.py")[0], (5, 2), (5, 6, 7)),
        ("limit", lambda folder: play(folder / "discrete_A3C.py")[1], (False,) * 2, (False, True)),
        ("leak", lambda folder: play(folder / "continuous_A3C.py")[2], 7.0, 7 / 16),
        ("step", step_is_shared, [True], [False]),
    ],
)
def test_a_mistake_that_learns_wrongly_is_seen(mistake, see, right, wrong):
    assert see(ROOT) == right
    with lab.copy(f"mistakes/{mistake}.patch") as folder:
        assert see(folder) == wrong


def test_differences_have_an_interval_and_a_p_that_is_corrected():
    a, b = np.arange(10.0), np.arange(10.0) + 5
    found, (low, high), p = lab.difference(a, b)
    # With normal groups of this spread: -5 +- 1.96 * 1.28, and p of a t-test is 0.0018.
    assert found == -5 and -7.7 < low < -7.1 and -2.9 < high < -2.3 and 0.0005 < p < 0.006
    assert lab.difference(a, a)[2] == 1
    assert np.allclose(lab.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])


def rows_of(name):
    """Return a module of experiments/, its rows and its data."""
    if name == "atari":
        pytest.importorskip("ale_py")
    module = importlib.import_module(f"experiments.{name}")
    return module, {**module.ROWS, **getattr(module, "SOLVING", {})}, lab.load(module.DATA)


def data_of(name):
    """Return a module of experiments/ and its data; skip while they are of older code."""
    module, rows, data = rows_of(name)
    if not lab.results(data, rows):
        pytest.skip("the data are of older code")
    return module, data


@needs_git
@pytest.mark.parametrize("name", ["learning", "faults", "speed", "atari", "asynchrony", "pictures"])
def test_the_data_are_of_todays_behavior(name):
    """Where this fails, the named rows learn something else than when they were measured."""
    _, rows, data = rows_of(name)
    for needs, package in NEEDS.items():
        if importlib.util.find_spec(package) is None:
            rows = {t: row for t, row in rows.items() if needs not in (row.patch, row.script)}
    kept = [(title, result) for title in rows for result in data.get(title, {}).values()]
    kept = [(title, result) for title, result in kept if "fingerprint" in result]
    if not kept:
        pytest.skip("the data are of older code")
    assert not {title for title, result in kept if not rows[title].learns_as(result)}


@pytest.mark.parametrize("name", ["learning", "faults", "speed", "atari"])
def test_the_pages_show_the_tables_of_the_data(name):
    module, data = data_of(name)
    tables = module.tables(data).split("\n\n")
    measured = [text for text in tables if len(text.splitlines()) > 2]  # others: only a head
    assert measured
    for text in measured:
        assert any(f"\n{text}\n" in page for page in PAGES.values()), text


def test_the_readme_shows_what_was_learned():
    module, data = data_of("learning")
    told = re.findall(r"(\d+) of (\d+)[^;.]*, half by (?:episode )?(\d+)", README)
    rows = {name: module.CARTPOLE[name] for name in ("quick", "as shipped", "the tutorial's tips")}
    learned = []
    for runs in lab.results(data, rows).values():
        solved = sum(run["solved"] is not None for run in runs)
        learned.append((str(solved), str(len(runs)), module.half(runs)))
    assert told == learned


def test_the_readme_shows_what_the_console_shows():
    _, data = data_of("pictures")
    [printed] = data["CartPole-v0"].values()
    console = re.search(r"```text\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert [line for line in console if line != "..."] == printed["lines"]
