"""The scripts of experiments/: what they change, what they read, and what they print of it."""

import importlib
import json
import re
import runpy
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import discrete_A3C
from experiments import faults, lab, learning, speed
from experiments.lab import ROOT, Copy, Row, code_of

FOLDER = ROOT / "experiments"
PAGES = "".join((folder / "README.md").read_text() for folder in (FOLDER, ROOT))
DISCRETE, CONTINUOUS = SCRIPTS = ["discrete_A3C.py", "continuous_A3C.py"]
EXAMPLES = [f"examples/{name}.py" for name in ("catch", "catch_pixels", "memory", "atari")]
PATCHES = sorted(path.relative_to(FOLDER) for path in FOLDER.glob("*/*.patch"))
REAL_APPLY = Copy.apply


def apply_all(copy, patch):
    """Apply a patch, or a list of patches and of lines (file, old, new)."""
    for change in patch if isinstance(patch, list) else [patch]:
        if isinstance(change, str):
            REAL_APPLY(copy, change)
        else:
            copy.change(*change)


@pytest.fixture(autouse=True)
def quick(forks, monkeypatch):
    monkeypatch.setattr(Copy, "apply", apply_all)


def test_a_change_that_does_not_fit_is_refused(tmp_path):
    copy = Copy(tmp_path)
    for old in ("no such text", "GAMMA"):
        with pytest.raises(ValueError, match="not once"):
            copy.change(DISCRETE, old, "GAMMA_")
    with pytest.raises(ValueError, match="GAMMMA in 0 lines"):
        copy.set_constants(DISCRETE, {"LR": 0.5, "GAMMMA": 1})
    copy.change("utils.py", "    lnet.zero_grad()", "    gnet.zero_grad()")
    with pytest.raises(subprocess.CalledProcessError):
        copy.apply("mistakes/gradients.patch")


@pytest.mark.parametrize("patch", PATCHES, ids=str)
def test_a_patch_fits_the_files_as_they_stand(tmp_path, patch):
    lines = lab.changed_lines(patch)
    before = "".join(path.read_text() for path in Copy(tmp_path).folder.rglob("*.py"))
    Copy(tmp_path).apply(str(patch))
    after = "".join(path.read_text() for path in tmp_path.rglob("*.py"))
    assert before != after and len(after) - len(before) == sum(
        len(line) * (1 if line[0] == "+" else -1) for line in lines
    )
    for path in tmp_path.rglob("*.py"):
        compile(path.read_text(), path, "exec")
    if patch.parent.name == "mistakes":
        assert f"(experiments/{patch})" in PAGES, "the README lacks a link to it"
        assert (FOLDER / patch).read_text().split("\n\n")[0].count(".") >= 2, "it tells nothing"


@pytest.mark.parametrize("script", [*SCRIPTS, *EXAMPLES])
def test_the_code_is_what_learns(tmp_path, script):
    copy = Copy(tmp_path)
    copy.set_constants(script, {"LR": 0.5})
    code = code_of(script)
    assert re.fullmatch("[0-9a-f]{12}", code)
    for learns, file, old, new in [
        (False, script, "  # S3: perform a_t\n", "  # act\n"),
        (False, script, "class Worker(mp.Process):\n", "class Worker(mp.Process):\n    # Here.\n"),
        (False, "utils.py", "wait(running, timeout=1)", "wait(running, timeout=2)"),
        (True, script, "td.detach()", "td"),
        (True, script, "                ep_r += r\n", "                ep_r += 1\n"),
        (True, "utils.py", "std=0.1)", "std=0.2)"),
        (True, "utils.py", "+ gamma * v_s_", "+ 0.9 * v_s_"),
        (True, "shared_adam.py", "fused=True", "fused=False"),
    ]:
        copy.change(file, old, new)
        before, code = code, code_of(script, tmp_path)
        assert (code != before) == learns, (old, new)
    if script == "examples/atari.py":
        copy.change(script, "slice(34, ", "slice(30, ")
        assert code_of(script, tmp_path) != code


def test_what_is_missing_or_stale_is_measured(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    rows = {"a": Row(range(2)), "b": Row(range(1))}
    measured = []

    def fill():
        measured.clear()
        return lab.fill(path, rows, lambda name, seed: measured.append((name, seed)) or {"n": 7})

    data = fill()
    assert measured == [("a", 0), ("b", 0), ("a", 1)] and data["a"]["1"]["n"] == 7
    assert set(data["b"]["0"]) == {"n", "constants", "patch", "code", "machine"}
    assert fill() == data == json.loads(path.read_text()) and not measured
    for key, value in (("code", "04f6c76"), ("constants", {}), ("patch", ["+ 1"])):
        data["a"]["1"][key] = value
        lab.keep(path, data)
        if key == "code":
            assert list(lab.results(data, rows)) == ["a", "b", "a (older code)"]
        data = fill()
        assert measured == [("a", 1)], key
    write = type(path).write_text
    monkeypatch.setattr(type(path), "write_text", lambda p, text: write(p, text[:9]) and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lab.keep(path, {})
    assert json.loads(path.read_text())["b"]["0"]["n"] == 7  # whole


def shown(module):
    """Return the tables of a module of experiments/, as its data give them today."""
    data = json.loads(module.DATA.read_text())
    if module is speed:
        return [*speed.rates(data).split("\n\n"), speed.times(data)]
    tables = getattr(module, "tables", None) or module.table
    return tables(data).split("\n\n")


@pytest.mark.parametrize("name", ["learning", "faults", "speed", "atari", "cluster"])
def test_the_page_shows_what_was_measured(name):
    if name == "cluster":
        pytest.importorskip("ray", reason="The cluster needs Ray: pip install ray")
    module = importlib.import_module(f"experiments.{name}")
    missing = [table for table in shown(module) if f"\n{table}\n" not in PAGES]
    assert not missing, "experiments/README.md lacks:\n" + "\n\n".join(missing)


@pytest.mark.parametrize("script, max_ep", [(DISCRETE, 30), (CONTINUOUS, 3)])
def test_a_short_run_is_read_and_timed(script, max_ep):
    # What comes before the start of the workers does not count.
    slow = (script, "    before = evaluate(gnet, env, SEED)\n", "    time.sleep(5); before = 0\n")
    run = lab.run(script, {"MAX_EP": max_ep, "N_WORKERS": 2}, [slow], greedy=3)
    assert len(run.returns) == len(run.times) in (max_ep, max_ep + 1) and len(run.greedy) == 3
    if script == DISCRETE:  # the returns themselves, not their average
        assert all(r == int(r) and 8 <= r <= 200 for r in [*run.returns, *run.greedy])
    assert [number for _, number, _, _ in run.episodes] == list(range(1, len(run.times) + 1))
    assert 0 <= run.times[0] and run.times[-1] < 4.9 and all(np.diff(run.times) >= 0)
    assert run.rate > 10 and run.status == 0 and "v1.weight" in run.weights


def test_a_run_that_fails_or_prints_other_lines_is_an_error():
    with pytest.raises(SystemExit, match="(?s)GAMMA = 2: .*status 1"):
        lab.run(DISCRETE, {"GAMMA": 2})
    other = (DISCRETE, "env steps/s", "steps each second")
    with pytest.raises(SystemExit, match="status 0, or other lines"):
        lab.run(DISCRETE, {"MAX_EP": 3, "N_WORKERS": 1}, [other])


def test_training_is_summed_up(monkeypatch):
    # Two tens and 98 times 200 average 196.2, three tens 194.3.
    returns = [10.0] * 100 + [200.0] * 150 + [50.0]
    run = lab.Run(times=list(np.arange(251) / 10), greedy=[180.0, 200.0])
    run.episodes = [("w00", 0, 0, r) for r in returns]
    monkeypatch.setattr(Row, "run", lambda *arguments, **options: run)
    monkeypatch.setattr(learning, "play_on", lambda *arguments: {"upright": 0.5})
    run.weights = discrete_A3C.Net(discrete_A3C.N_S, discrete_A3C.N_A).state_dict()
    average = round(200 - 190 * 0.99**150, 1)
    summary = {"solved": 198, "seconds": 19.7, "of all": 25.0, "average": average}
    summary.update({"last 100": 200.0, "greedy": 190.0, "curve": [10.0] * 4 + [200.0] * 6})
    assert learning.train(Row(range(1), {"MAX_EP": 250}), 0) == {**summary, "upright": 0.5}
    run.episodes = [("w00", 0, 0, 194.0)] * 100
    for script, solved in ((DISCRETE, None), (CONTINUOUS, 100)):
        row = Row(range(1), {"MAX_EP": 250}, script=script)
        assert learning.train(row, 0)["solved"] == solved


def test_cells():
    assert lab.share(0, 5) == "0 of 5 (0% to 43%)" and lab.share(9, 10) == "9 of 10 (60% to 98%)"
    assert lab.spread([5, 1, 3]) == "3 (1 to 5)" and lab.spread([2.0, 2.01], 1) == "2.0"
    runs = [{"solved": solved, "curve": curve} for solved, curve in (
        (500, [0.0] * 80 + [150.0]), (None, [0.0] * 81), (700, [200.0] * 81), (None, []),
    )]  # fmt: skip
    assert learning.half(runs) == "700" and learning.half([runs[1]]) == "-"
    assert learning.fell(runs) == "1 of 3" and learning.fell(runs[3:]) == "-"
    assert lab.table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


STEP = 'opt.state[next(gnet.parameters())]["step"].item()'
EACH = "    print('+', len(bs), done, lp.grad.item())\n"
WATCHED = [  # prints of each update n, `done` and a gradient, and at the end Adam's step
    ("utils.py", "    opt.step()  #", f"{EACH}    opt.step()  #"),
    (DISCRETE, "    print_greedy(", f"    print('=', {STEP})\n    print_greedy("),
]
SHORT = {"LR": 1e-9, "MAX_EP": 5, "N_WORKERS": 1}
LIMIT = (DISCRETE, "gym.make(ENV_NAME,", "gym.make(ENV_NAME, max_episode_steps=4,")


def updates(*changes):
    """Return what WATCHED prints of a short run."""
    lines = lab.run(DISCRETE, SHORT, [*changes, *WATCHED]).lines
    sizes, done, gradients = zip(*(line.split()[1:] for line in lines if line.startswith("+ ")))
    step = [float(line[2:]) for line in lines if line.startswith("= ")]
    return list(map(int, sizes)), set(done), np.array(gradients, float), step


def test_the_mistakes_that_learn_wrongly():
    sizes, done, gradients, step = updates()
    assert max(sizes) == 5 and done == {"True", "False"} and step == [len(sizes)]
    # As nothing is learned, the games are the same.
    _, _, piled, _ = updates("mistakes/gradients.patch")
    assert np.allclose(piled, np.cumsum(gradients), atol=1e-3) and len(piled) > 10
    assert updates("mistakes/buffers.patch")[0][:4] == [5, 6, 7, 8]
    assert updates("mistakes/step.patch")[3] == [0]
    assert updates(LIMIT)[1] == {"False"}
    assert updates("mistakes/limit.patch", LIMIT)[1] == {"True"}
    leak = "mistakes/leak.patch"
    earned, reported = (lab.run(DISCRETE, SHORT, patch).returns for patch in (None, leak))
    assert max(earned) < 200 and list(earned - 2) == list(reported)


# Lines that show a mistake at once: workers that begin together, a pipe that is soon full, a worker
# that is late, and time between counter and average.
START = "        gnet, opt = self.gnet, self.opt\n"
TOGETHER = (DISCRETE, START, f"{START}        time.sleep(1)\n")
RES = "    res = []\n"
FULL = f"{RES}    import fcntl; fcntl.fcntl(res_queue._writer, fcntl.F_SETPIPE_SZ, 4096)\n"
RESET = "            s, _ = env.reset()  # S3: get state\n"
LATE = f"{RESET}            while self.name == 'w01' and self.g_ep.value < MAX_EP: pass\n"
LATE += "            time.sleep(self.name == 'w01')\n"
FIRST = "        if global_ep.value == 1:\n"
SLOW = ("utils.py", FIRST, f"        time.sleep(0.01)\n{FIRST}")
SHOWN = {  # mistake: (lines, constants, what right and wrong tell)
    "Adam's `step` is an int": ([LIMIT], {"MAX_EP": 5}, "ends; [56] ", "singleton tensors"),
    "all workers have one seed": ([TOGETHER], {"MAX_EP": 40, "LR": 1e-9}, "in 0 of", "in 1 of"),
    "the queue is not read before all are done": (
        [LIMIT, (DISCRETE, RES, FULL)], {"MAX_EP": 300}, "ends; 30[01] ", "still .* [12]..$",
    ),
    "the parent stops at the first worker that is done": (
        [LIMIT, (DISCRETE, RESET, LATE)], {"MAX_EP": 9, "N_WORKERS": 2}, "ends; 10 ", "ends; 9 ",
    ),
    "the parent waits for a worker that died": (
        [LIMIT, TOGETHER], {"MAX_EP": 300}, "ends .* ``.*", "still .* 300$",
    ),
    "counter and average have a lock each": (
        [LIMIT, SLOW], {"MAX_EP": 40, "N_WORKERS": 4}, "^0 numbers .* 0 never", "^[1-9].*, [1-9]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_mistake_is_seen(name, monkeypatch):
    monkeypatch.setattr(faults, "PATIENCE", 3)
    lines, constants, right, wrong = SHOWN[name]
    measure, tell, *_ = faults.FAULTS[name]
    for which, told in (("right", right), ("wrong", wrong)):
        row = faults.ROWS[f"{name}: {which}"]
        patch = [*([row.patch] if row.patch else []), *lines]
        row = replace(row, constants={**row.constants, **constants}, patch=patch)
        assert re.search(told, tell([measure(row, 0)])), which


def test_an_average_of_zero_passes_for_none(tmp_path):
    Copy(tmp_path).apply("mistakes/no_average.patch")
    averages = []
    for path in (ROOT / "utils.py", tmp_path / "utils.py"):
        record = runpy.run_path(path)["record"]
        n, average = mp.Value("i", 0), mp.Value("d", 0.0)
        for ep_r in (0.0, 100.0):
            record(n, average, ep_r, mp.SimpleQueue(), "w00")
        averages.append(average.value)
    assert averages == [1.0, 100.0]


class Policy:
    """Pushes to the right where `weights` times the state are more than `limit`."""

    def __init__(self, weights, limit):
        self.weights, self.limit = torch.tensor(weights), limit

    def choose_action(self, s, greedy):
        assert greedy
        return int((s[0] * self.weights).sum() > self.limit)


def test_a_policy_is_played_on_until_it_falls_leaves_the_track_or_stays_upright():
    for weights, limit, end in [
        ([0.0, 0.0, -1.0, 0.0], 0.0, "fell"),
        ([0.05, 0.1, 1.0, 0.5], 0.0, "upright"),
        ([0.0, 0.0, 1.0, 0.5], 0.05, "left the track"),  # it follows a pole that leans
    ]:
        shares = learning.play_on(Policy(weights, limit), 3, 1000)
        assert shares.pop(end) == 1 and list(shares.values()) == [0, 0]


@pytest.mark.parametrize("env", speed.SCRIPTS)
def test_the_speed_is_measured(env, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.5)
    for name in (f"{env}, 1 worker", f"{env}, 1 worker of stock parts"):
        result = speed.measure(name, 0)
        assert result["steps/s"] > 10 and result["MB"] > 10, name
    monkeypatch.setitem(speed.PEERS, "peer", ("environment", speed.SCRIPTS[env][:-3], 0.1))
    assert speed.measure("peer", 0)["steps/s"] > 100
