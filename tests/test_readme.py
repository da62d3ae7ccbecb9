"""What the README shows is true: commands, links, constants, and the tables against the data."""

import ast
import importlib
import json
import re

import pytest

import continuous_A3C
import discrete_A3C
import shared_adam
import utils
from experiments.lab import ROOT

README = (ROOT / "README.md").read_text()
MODULES = [discrete_A3C, continuous_A3C, utils, shared_adam]


def rows(heading):
    """Return the cells of the first table below the line that starts with `heading`."""
    text = README[README.index(f"\n{heading}") :]
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 240


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_every_picture_and_link_is_there(page):
    path = ROOT / page
    links = re.findall(r"\]\((?!http)([^)]+)\)", path.read_text())
    assert len(links) > 5
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.is_file(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w-]", "", t.lower().replace(" ", "-")) for t in titles]
            assert anchor in anchors, link


def test_animations_are_small():
    animations = re.findall(r"\(([\w/.-]+\.gif)\)", README)
    assert len(animations) == 3
    assert all((ROOT / path).stat().st_size < 600_000 for path in animations)


def values(cell):
    """Return the values of a constant in CartPole and in Pendulum: "1e-4, 2e-4" are two."""
    text = cell.strip("`")
    if text.startswith("("):
        return [ast.literal_eval(text)] * 2
    parts = [ast.literal_eval(part) for part in text.split(", ")]
    return parts if len(parts) == 2 else parts * 2


def test_every_constant_has_its_value():
    knobs = {name.strip("`"): cell for name, cell, _ in rows("## The knobs")}
    assert set(knobs) == set(utils.CONSTANTS)
    assert knobs.pop("ENV_NAME") == "" and knobs.pop("N_WORKERS") == "all cores"
    assert values(knobs.pop("FALL_REWARD"))[0] == discrete_A3C.FALL_REWARD
    for name, cell in knobs.items():
        scripts = [getattr(script, name) for script in (discrete_A3C, continuous_A3C)]
        assert scripts == values(cell), name


def test_the_numbers_are_what_was_measured():
    learning = importlib.import_module("experiments.learning")
    tables = learning.tables(json.loads(learning.DATA.read_text()))
    shown = re.findall(r"^\| (?:as shipped|quick|`FALL_REWARD = None`|`LR` not) .*$", README, re.M)
    assert len(shown) >= 4 and set(shown) <= set(tables.splitlines())
    faults = importlib.import_module("experiments.faults")
    table = faults.table(json.loads(faults.DATA.read_text()))
    cells = " ".join(cell for _, cell, _ in rows("## What differs"))
    numbers = re.findall(r"\b(\d+) (?:steps/s|episodes the queue|of 3000)", cells)
    assert len(numbers) == 4
    for number in numbers:
        assert re.search(rf"\b{number}\b", table), number


def test_the_console_shows_what_was_printed():
    data = json.loads((ROOT / "experiments" / "pictures.json").read_text())
    printed = data["discrete_A3C.py"]["lines"]
    console = re.search(r"```text\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert [line for line in console if line != "..."] == [printed[0], *printed[2:]]


def test_the_speed_is_what_was_measured():
    speed = importlib.import_module("experiments.speed")
    [times] = re.findall(r"two on two cores made (\S+) times the steps of one", README)
    measured = speed.rates(json.loads(speed.DATA.read_text()))
    assert re.search(rf"- CartPole, 2 workers( \(older code\))?: {times} \(", measured)


def has(module, place):
    """Return whether `place`, such as "Worker.run", is a name in `module`."""
    value = module
    for name in place.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def test_the_table_of_algorithm_s3_names_what_is_there():
    for _, _, places in rows("## The tutorial, the paper and the code"):
        names = re.findall(r"`([\w.]+)`", places)
        assert names
        for place in names:
            assert any(has(module, place) for module in MODULES), place


@pytest.mark.parametrize("script", ["discrete_A3C", "continuous_A3C"])
def test_the_code_marks_each_step_of_algorithm_s3_once_in_the_words_of_the_readme(script):
    source = "".join((ROOT / f"{name}.py").read_text() for name in (script, "utils"))
    marked = re.findall(r"# S3: ([^;\n]+)", source)
    told = [
        step for _, steps, _ in rows("## The tutorial, the paper") for step in steps.split("; ")
    ]
    assert sorted(marked) == sorted(told)


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_every_program_is_there(page):
    programs = re.findall(r"python -m\s+((?:examples|experiments)\.\w+)", (ROOT / page).read_text())
    assert len(programs) > 4
    for program in programs:
        assert (ROOT / f"{program.replace('.', '/')}.py").is_file(), program
