"""The pages: links and tables that the code or the data can check; patches; statistics."""

import ast
import importlib
import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT

import continuous_A3C
import discrete_A3C
import shared_adam
import utils
from experiments import lab

SCRIPTS = [discrete_A3C, continuous_A3C]
FILES = [ROOT / "README.md", *ROOT.glob("experiments/**/README.md")]
PAGES = {f"{path.relative_to(ROOT)}": path.read_text(encoding="utf-8") for path in FILES}
TABLES = ["learning", "speed", "first_a", "atari"]  # experiments whose tables are on the page
PATCHES = sorted(f"{path.parent.name}/{path.name}" for path in ROOT.glob("experiments/*/*.patch"))


def table(head):
    """Return the cells of the README's table whose first cell is `head`, line by line."""
    lines = re.search(rf"^\| {head} \|.*\n.*\n((?:\|.*\n)+)", PAGES["README.md"], re.M)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page]):
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles]
            assert anchor in anchors, link


def test_the_knobs_are_those_of_the_scripts():
    knobs = {name.strip("`"): cell.replace("`", "") for name, cell, *_ in table("constant")}
    assert set(knobs) == {*utils.LIMITS, "ENV_NAME", "BETAS", "RENDER"}
    for name in set(knobs) - {"ENV_NAME", "N_WORKERS"}:  # of these the README says no value
        parts = re.findall(r"\(.*\)|[^ ,]+", knobs[name])
        values = [ast.literal_eval(part) for part in parts]  # one for both scripts, or two
        assert [getattr(script, name) for script in SCRIPTS] == [values[0], values[-1]], name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_readme_lists_the_steps_that_the_code_marks(script):
    modules = [script, utils, shared_adam]
    code = "".join((ROOT / f"{m.__name__}.py").read_text(encoding="utf-8") for m in modules)
    listed = {step for _, steps, *_ in table("tutorial") for step in steps.split("; ")}
    assert set(re.findall(r"# S3: (.+)", code)) == listed
    for _, _, places, *_ in table("tutorial"):
        for name in re.findall(r"`([\w.]+)`", places):
            first, _, method = name.partition(".")
            found = [getattr(module, first, None) for module in modules]
            assert any(found) and (not method or hasattr(found[0], method)), name


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the patches")
@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_applies(patch):
    with lab.copy(patch) as folder:
        for path in folder.rglob("*.py"):
            compile(path.read_bytes(), path, "exec")
        texts = {path.read_bytes() for path in folder.rglob("*.py")}
    originals = {path.read_bytes() for path in [*ROOT.glob("*.py"), *ROOT.glob("examples/*.py")]}
    assert not texts <= originals


@pytest.mark.parametrize("name", [*TABLES, "asynchrony", "pictures"])
def test_the_data_are_of_their_rows(name):
    pytest.importorskip("scipy")
    module = importlib.import_module(f"experiments.{name}")
    rows, data = module.ROWS, lab.load(module.DATA)
    assert lab.results(data, rows)
    for title, runs in lab.results(data, rows).items():
        constants = json.loads(json.dumps(rows[title].constants))
        for run in runs:
            assert constants.items() <= run.get("constants", {}).items(), title
            assert re.match("[0-9a-f]{7}", run["commit"]), title


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_the_tables_of_the_data(name):
    pytest.importorskip("scipy")
    module = importlib.import_module(f"experiments.{name}")
    for text in module.tables(lab.load(module.DATA)).split("\n\n"):
        assert any(f"\n{text}\n" in page for page in PAGES.values()), text


def test_statistics():
    stats = pytest.importorskip("experiments.stats", exc_type=ImportError)
    a, batches = np.arange(10.0), ["1"] * 10
    # t(18) = 2.1009 at 97.5%, and the standard error is 1.3540.
    assert np.allclose(stats.difference(a, a + 5), [-5, -7.8447, -2.1553], atol=1e-4)
    assert stats.permutation([1, 2, 3], [4, 5, 6], "xxx", "xxx") == 2 / 20
    assert stats.permutation([0, 10], [1, 11], "xy", "xy") == 2 / 4  # 2 x 2 splits
    assert stats.permutation(a, a + 10, batches, batches) < 1e-4  # 2 of 184,756
    assert np.allclose(stats.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
