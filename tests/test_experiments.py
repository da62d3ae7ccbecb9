"""The scripts of experiments/: what they change, what they read, and what they print of it."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
import traceback
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from PIL import Image

import continuous_A3C
import discrete_A3C
from experiments import animate, catch, clipping, copies, drift, environments, knobs, mistakes
from experiments import pendulum, shipped, speed, stock
from experiments.copies import ROOT, Copy, code_of
from shared_adam import SharedAdam
from utils import push_and_pull

FOLDER = ROOT / "experiments"
README = (FOLDER / "README.md").read_text()
PAGES = README + (ROOT / "README.md").read_text()
DISCRETE, CONTINUOUS = SCRIPTS = ["discrete_A3C.py", "continuous_A3C.py"]
EXAMPLES = [f"examples/{name}.py" for name in ("catch", "catch_pixels", "memory", "atari")]
TODAY = set(map(code_of, [*SCRIPTS, *EXAMPLES, "examples/cluster.py"]))
# Their data are {row: {seed: result}}.
FILLED = [knobs, pendulum, mistakes, clipping, drift, catch, shipped, environments]

REAL_START = copies.Copy.start
OURS = {"discrete_A3C", "continuous_A3C", "utils", "shared_adam", "examples"}

SharedAdam([torch.zeros(1)])  # so that forks need not load what PyTorch loads with an optimizer


def fork(copy, *arguments, **options):
    """Start as Copy.start does, but as a fork of this process, which has loaded torch."""

    def run():
        os.closerange(3, 4096)  # with one of them Popen waits for an exec, which never comes
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # not pytest's
        sys.path.insert(0, str(copy.folder))
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]  # the copy has its own
        mp.set_start_method("fork", force=True)
        plt.switch_backend("agg")
        plt.Figure.savefig = lambda *arguments: None  # it takes as long as all else
        try:
            if arguments[0] == "-m":
                runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
            elif arguments[0] == "-c":
                exec(arguments[1], {"__name__": "__main__"})
            else:
                runpy.run_path(arguments[0], run_name="__main__")
            code = None
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc().rstrip()
        if isinstance(code, str):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if isinstance(code, str) else code or 0)

    return subprocess.Popen("fork", cwd=copy.folder, preexec_fn=run, text=True, **options)


@pytest.fixture(autouse=True)
def forks(monkeypatch):
    monkeypatch.setattr(copies.Copy, "start", fork)


def test_programs_are_for_others_to_copy():
    banned = r"(?m)\b(import|from) (tests|conftest)\b|sys\.path|\bsetattr\("
    banned += r"|^\s*(utils|discrete_A3C|continuous_A3C|knobs)\.\w+ = "  # a patch
    for path in [*(ROOT / "examples").glob("*.py"), *FOLDER.glob("*.py")]:
        text = path.read_text()
        assert not re.search(banned, text), path
        assert "def main(" not in text or '\nif __name__ == "__main__":\n    main()\n' in text, path


def test_a_change_that_does_not_fit_is_refused(tmp_path):
    copy = Copy(tmp_path)
    before = (tmp_path / DISCRETE).read_text()
    for old in ("no such text", "GAMMA"):
        with pytest.raises(ValueError, match="not once"):
            copy.change(DISCRETE, old, "GAMMA_")
    with pytest.raises(ValueError, match="GAMMMA in 0 lines"):
        copy.set_constants(DISCRETE, {"LR": 0.5, "GAMMMA": 1})
    assert (tmp_path / DISCRETE).read_text() == before
    copy.set_constants(DISCRETE, {"LR": 0.5, "MAX_GRAD_NORM": 40})
    assert {"LR = 0.5", "MAX_GRAD_NORM = 40"} < set((tmp_path / DISCRETE).read_text().splitlines())


@pytest.mark.parametrize("script", [*SCRIPTS, *EXAMPLES])
def test_the_code_is_what_learns(tmp_path, script):
    copy = Copy(tmp_path)
    copy.set_constants(script, {"LR": 0.5})
    code = code_of(script)
    assert re.fullmatch("[0-9a-f]{12}", code) and len(TODAY) == 7
    for learns, file, old, new in [
        (False, script, "  # S3: perform a_t\n", "  # act\n"),
        (False, script, '        """Draw an action', '        """Return an action'),
        (False, script, "class Worker(mp.Process):\n", "class Worker(mp.Process):\n    # Here.\n"),
        (False, script, "    begin = time", "    start = time"),
        (False, "utils.py", "    S3 but for acting", "    All"),
        (False, "utils.py", "wait(running, timeout=1)", "wait(running, timeout=2)"),
        (True, script, "td.detach()", "td"),
        (True, script, "                ep_r += r\n", "                ep_r += 1\n"),
        (True, "utils.py", "std=0.1)", "std=0.2)"),
        (True, "utils.py", "+ gamma * v_s_", "+ 0.9 * v_s_"),
        (True, "utils.py", "(np.int32, np.int64)", "(np.int64,)"),
        (True, "shared_adam.py", "fused=True", "fused=False"),
    ]:
        copy.change(file, old, new)
        before, code = code, code_of(script, tmp_path)
        assert (code != before) == learns, (old, new)


def codes_of(data):
    """Return the codes of all results in `data`."""
    if "constants" in data:
        return {data.get("code", "none")}
    if "code" in data:  # of each script
        return set(data["code"].values())
    return set().union(*map(codes_of, data.values()))


def test_stale_data_are_named():
    stale = set()
    for path in FOLDER.glob("*.json"):
        stale.update((path.name, code) for code in codes_of(json.loads(path.read_text())) - TODAY)
    named = set()
    for file, text in re.findall(r"`(\w+\.json)`: code of (.*)", README):
        named.update((file, code) for code in re.findall(r"\b[0-9a-f]{7,12}\b", text))
    lines = [f"`{file}`: code of {code}" for file, code in sorted(stale - named)]
    assert not lines, "experiments/README.md lacks:\n" + "\n".join(lines)
    assert not named - stale, "these are not stale"


def unexpected(module, data):
    """Return the results of today's code that were measured with other constants than today's."""
    found = []
    for row in module.SEEDS:
        constants = json.loads(json.dumps(module.expected(row)))
        for seed, run in data.get(row, {}).items():
            if run["code"] in TODAY and run["constants"] != constants:
                found.append((row, seed))
    return found


@pytest.mark.parametrize("module", FILLED)
def test_the_page_shows_what_was_measured(module, monkeypatch, capsys, tmp_path):
    data = json.loads(module.DATA.read_text())
    assert unexpected(module, data) == []
    monkeypatch.setattr(module, "FIGURE", tmp_path / "figure.png", raising=False)
    monkeypatch.setattr(knobs, "fill", lambda path, *arguments: json.loads(path.read_text()))
    module.main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [table for table in tables if f"\n{table}\n\n" not in PAGES] == []
    assert (tmp_path / "figure.png").exists() == (module in (knobs, pendulum, mistakes))
    data = dict.fromkeys(module.SEEDS, {"0": {"constants": {"LR": 7}, "code": min(TODAY)}})
    assert len(unexpected(module, data)) == len(module.SEEDS)


def test_the_page_shows_the_speed_and_names_files_and_commands_that_are_there():
    assert f"\n{speed.table(json.loads(speed.DATA.read_text()))}\n" in README
    data = json.loads((FOLDER / "cluster.json").read_text())
    pytest.importorskip("ray", reason="The cluster needs Ray: pip install ray")
    assert f"\n{importlib.import_module('experiments.cluster').table(data)}\n" in README
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if link[0] != "#"]
    modules = re.findall(r"`python -m ([\w.]+)`", README)
    assert len(links) > 5 and len(modules) > 4
    files = [FOLDER / link for link in links]
    files += [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    assert [file for file in files if not file.is_file()] == []


@pytest.mark.parametrize("script, max_ep", [(DISCRETE, 30), (CONTINUOUS, 3)])
def test_a_short_run_is_read_and_timed(monkeypatch, script, max_ep):
    monkeypatch.setattr(knobs, "GREEDY_EPISODES", 3)
    # What comes before the start of the workers does not count.
    slow = (
        script,
        "    before = evaluate(gnet, env, SEED)\n",
        "    time.sleep(2)\n    before = 0\n",
    )
    run = knobs.play({"MAX_EP": max_ep, "N_WORKERS": 2}, 0, [slow], script)
    returns, times, seconds, greedy = run
    assert len(returns) in (max_ep, max_ep + 1) and len(greedy) == 3
    if script == DISCRETE:  # the returns themselves, not their average
        assert all(r == int(r) and 8 <= r <= 200 for r in [*returns, *greedy])
        assert returns.max() - returns.min() > 10
    assert 0 < times[0] and all(np.diff(times) >= 0)
    assert abs(seconds - times[-1]) < 1.5
    with pytest.raises(SystemExit, match="(?s)GAMMA = 2: .*status 1"):
        knobs.play({"GAMMA": 2}, 0, script=script)


def test_training_is_summed_up(monkeypatch):
    # Two tens and 98 times 200 average 196.2, three tens 194.3. Of `greedy`, the deviation is 10.
    returns, times = np.array([10.0] * 100 + [200.0] * 150 + [50.0]), np.arange(251) / 10
    results = returns, times, 25.1, np.array([180.0, 180.0, 180.0, 200.0])
    monkeypatch.setattr(knobs, "play", lambda *arguments: results)
    result = knobs.train({"MAX_EP": 250, "GAMMA": 0.99}, 0)
    constants = {**knobs.SHIPPED, "MAX_EP": 250, "GAMMA": 0.99}
    summary = {"solved": 198, "seconds": 19.7, "of all": 25.1, "curve": [10.0] * 4 + [200.0] * 6}
    greedy = {"greedy": 185.0, "greedy, standard error": 5.0}
    average = {"moving average": round(200 - 190 * 0.99**150, 1)}
    assert result == {"constants": constants, **summary, **greedy, **average}
    result = pendulum.train("`LR = 1e-3`", 0)
    constants = {**pendulum.SHIPPED, "LR": 1e-3, "lines": []}
    summary.update({"solved": 100, "seconds": 9.9, "last 100": 198.5})  # -250 at once
    assert result == {"constants": constants, **summary, **greedy}
    returns[100:] = 194.0
    result = knobs.train({"MAX_EP": 250}, 0)
    assert (result["solved"], result["seconds"]) == (None, None)


def test_intervals_spreads_and_falls():
    assert knobs.interval(0, 5) == pytest.approx((0.0, 0.434), abs=1e-3)
    assert knobs.interval(14, 15) == pytest.approx((0.702, 0.988), abs=1e-3)
    assert knobs.spread([5, 1, 3]) == "3 (1 to 5)"
    assert knobs.spread(list(range(100, 121))) == "110 (102 to 118)"  # the quantiles
    # The point in which it was solved does not count: it holds what came before.
    run = {"curve": [20.0] * 4 + [60.0, 200.0], "solved": 110}
    assert not knobs.fell_again(run, 150) and knobs.fell_again(run, 201)
    assert knobs.highest([0.0, 100.0, 200.0, 200.0, 200.0, 0.0]) == 175


def test_rows_and_seeds_without_data_are_left_out(tmp_path):
    row = "`GAMMA = 0.99`"
    data = {row: {"4": json.loads(knobs.DATA.read_text())[row]["4"]}}
    for table in (knobs.table(data), knobs.steadiness(data)):
        assert table.splitlines()[2].startswith(f"| {row} | ") and len(table.splitlines()) == 3
    assert [len(knobs.unsolved(data, r).splitlines()) for r in (row, "the three tips")] == [3, 2]
    knobs.draw(data, knobs.SEEDS, "as shipped, 2 workers", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
    data = {row: {"4": json.loads(pendulum.DATA.read_text())[row]["4"]}}
    assert len(pendulum.table(data).splitlines()) == 3


def test_the_lines_that_rows_change_are_there(tmp_path, monkeypatch):
    for number, (_, lines) in enumerate([({}, knobs.NOT_ANNEALED), *pendulum.ROWS.values()]):
        script = CONTINUOUS if number else DISCRETE
        copy = Copy(tmp_path / str(number))
        for old, new in lines:
            copy.change(script, old, new)
        annealed = '["lr"] = LR * max' in (copy.folder / script).read_text()
        assert annealed == (lines != knobs.NOT_ANNEALED)
    for number, (_, constants, lines) in enumerate(mistakes.ROWS.values()):
        mistakes.copy_with(tmp_path / f"mistake {number}", lines, constants)
    late = speed.too_late(tmp_path / "late", DISCRETE).folder
    text = (late / DISCRETE).read_text()
    assert text.index("\nimport torch\n") < text.index('os.environ["OMP_NUM_THREADS"] = "1"')
    assert "torch.set_num_threads" not in (late / "utils.py").read_text()
    trained = []
    monkeypatch.setattr(knobs, "train", lambda *arguments: trained.append(arguments) or {})
    constants = knobs.train_row("`LR` not annealed", 3)["constants"]
    assert constants == {**knobs.SHIPPED, "lines": [list(knobs.NOT_ANNEALED[0])]}
    assert trained == [({}, 3, [(DISCRETE, *knobs.NOT_ANNEALED[0])])]


def test_what_is_missing_or_of_other_constants_or_code_is_trained(tmp_path):
    path = tmp_path / "data.json"
    trained = []

    def train_row(row, seed):
        trained.append((row, seed))
        return {"constants": {"LR": 1}, "number": len(trained)}

    def fill(lr=1, scripts={"a": DISCRETE, "b": DISCRETE}):  # noqa: B006
        trained.clear()
        constants = {"a": {"LR": lr}, "b": {"LR": 1}}.get
        return knobs.fill(path, {"a": [0, 1], "b": [0]}, train_row, constants, scripts.get)

    data = fill()
    assert trained == [("a", 0), ("b", 0), ("a", 1)] and data["a"]["1"]["number"] == 3
    assert data["b"]["0"]["code"] == code_of(DISCRETE)
    assert fill() == data == json.loads(path.read_text()) and not trained
    del data["b"]["0"]
    data["a"]["1"]["code"] = "04f6c76"
    knobs.keep(path, data)
    assert fill()["a"]["1"]["code"] == code_of(DISCRETE) and trained == [("b", 0), ("a", 1)]
    fill(2)
    assert trained == [("a", 0), ("a", 1)]
    data = fill(scripts={"a": DISCRETE, "b": CONTINUOUS})
    assert data["b"]["0"]["code"] == code_of(CONTINUOUS) and trained == [("b", 0)]


def test_data_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    knobs.keep(path, {"row": 1})
    write = type(path).write_text

    def write_half(part, text):
        write(part, text[: len(text) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "write_text", write_half)
    with pytest.raises(KeyboardInterrupt):
        knobs.keep(path, {"row": 2})
    assert json.loads(path.read_text()) == {"row": 1}


@pytest.mark.parametrize("row", catch.ROWS)
def test_a_short_run_of_catch_is_read(monkeypatch, row):
    constants = catch.expected(row)
    monkeypatch.setattr(catch, "expected", lambda row: {**constants, "MAX_EP": 20})
    monkeypatch.setattr(knobs, "GREEDY_EPISODES", 5)
    result = catch.train_row(row, 1)
    assert result["constants"] == {**constants, "MAX_EP": 20}
    assert 0 < result["seconds"] < 50 and result["greedy"] * 5 in (-5, -3, -1, 1, 3, 5)


def test_the_lines_and_pictures_of_a_script_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(animate, "CONSTANTS", {"N_WORKERS": 1, "MAX_EP": 3})
    monkeypatch.setattr(animate, "SCRIPTS", {DISCRETE: discrete_A3C})
    monkeypatch.setattr(animate, "FOLDER", tmp_path)
    monkeypatch.setattr(animate, "DATA", tmp_path / "animate.json")
    monkeypatch.setattr(copies.Copy, "start", REAL_START)  # pygame does not stand a fork
    animate.main()
    printed = capsys.readouterr().out
    with Image.open(tmp_path / "CartPole-v0.gif") as animation:
        assert animation.n_frames > 3
    names = ["CartPole-v0.gif", "CartPole-v0.png", "animate.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    saved = "".join(rf"Saved .../results/CartPole-v0-1\.{kind}\n" for kind in ("pt", "csv", "png"))
    episodes = "".join(rf"w00 Ep: {number} \| Ep_r: \S+\n" for number in (1, 2, 3))
    assert re.match(rf"{episodes}{saved}3 episodes in .*\nGreedy policy: ", printed)
    monkeypatch.setattr(animate, "train", None)
    animate.main()
    assert capsys.readouterr().out == printed  # without training
    animate.DATA.write_text(animate.DATA.read_text().replace(code_of(DISCRETE), "04f6c76"))
    with pytest.raises(TypeError):
        animate.main()


STEP = 'opt.state[next(gnet.parameters())]["step"].item()'
WATCHED = [  # prints of each update n, `done` and a gradient, and at the end Adam's step
    (
        "utils.py",
        "    opt.step()  #",
        "    print('+', len(bs), done, lp.grad.item())\n    opt.step() #",
    ),
    (DISCRETE, "    print_greedy(", f"    print('=', {STEP})\n    print_greedy("),
]
LIMIT = [(DISCRETE, "gym.make(ENV_NAME,", "gym.make(ENV_NAME, max_episode_steps=4,")]


def updates(*changes):
    """Return what WATCHED prints of a short run."""
    constants = {"LR": 1e-9, "MAX_EP": 5, "N_WORKERS": 1}
    lines = mistakes.whole_run(constants, 0, [*WATCHED, *changes])
    sizes, done, gradients = zip(*(line.split()[1:] for line in lines if line.startswith("+ ")))
    step = [float(line[2:]) for line in lines if line.startswith("= ")]
    return list(map(int, sizes)), set(done), np.array(gradients, float), step


def test_the_mistakes_that_learn_wrongly():
    sizes, done, gradients, step = updates()
    assert max(sizes) == 5 and done == {"True", "False"} and step == [len(sizes)]
    # As nothing is learned, the games are the same.
    _, _, piled, _ = updates(*mistakes.GRADIENTS)
    assert np.allclose(piled, np.cumsum(gradients), atol=1e-3) and len(piled) > 10
    assert updates(*mistakes.BUFFERS)[0][:4] == [5, 6, 7, 8]
    assert updates(*mistakes.STEP)[3] == [0]
    assert updates(*LIMIT)[1] == {"False"}
    assert updates(*LIMIT, *mistakes.LIMIT)[1] == {"True"}


# Lines that show a mistake at once: workers that begin together, a pipe that is soon full, a worker
# that is late, and time between counter and average.
START = "        gnet, opt = self.gnet, self.opt\n"
TOGETHER = [(DISCRETE, START, f"{START}        time.sleep(1)\n")]
RES = "    res = []\n"
FULL = f"{RES}    import fcntl; fcntl.fcntl(res_queue._writer, fcntl.F_SETPIPE_SZ, 4096)\n"
RESET = "            s, _ = env.reset()  # S3: get state\n"
LATE = f"{RESET}            while self.name == 'w01' and self.g_ep.value < MAX_EP: pass\n"
LATE += "            time.sleep(self.name == 'w01')\n"
FIRST = "        if global_ep.value == 1:\n"
SLOW = ("utils.py", FIRST, f"        time.sleep(0.01)\n{FIRST}")
SHOWN = {  # mistake: (lines, constants, what right and wrong tell)
    "Adam's `step` is an int": (LIMIT, {"MAX_EP": 5}, "ends after", "a list of singleton tensors"),
    mistakes.BEGINNINGS: (TOGETHER, {"MAX_EP": 40, "LR": 1e-9}, "in 0 seeds", "in 1 seeds"),
    "the queue is not read before all are done": (
        [*LIMIT, (DISCRETE, RES, FULL)], {"MAX_EP": 300}, "ends after 30", "still .* [12]..$",
    ),
    "the parent stops at the first worker that is done": (
        [*LIMIT, (DISCRETE, RESET, LATE)], {"MAX_EP": 9, "N_WORKERS": 2}, "^10 ", "^9 ",
    ),
    "the parent waits for a worker that died": (
        [*LIMIT, *TOGETHER], {"MAX_EP": 300}, "ends .* `Worker w01 died`$", "still .* 300$",
    ),
    "counter and average have a lock each": (
        [*LIMIT, SLOW], {"MAX_EP": 40, "N_WORKERS": 4}, "^0 numbers .* 0 never", "^[1-9].*, [1-9]",
    ),
    "an average of 0 passes for none": ([], {}, "it is 1$", "it is 100$"),
}  # fmt: skip


def measured(name, which, lines, constants):
    """Return what is measured of the mistake `name`, in its first seed."""
    measure, defaults, own = mistakes.ROWS[f"{name}: {which}"]
    return measure({**knobs.SHIPPED, **defaults, **constants}, 0, [*own, *lines])


@pytest.mark.parametrize("name", SHOWN)
def test_a_mistake_is_seen(name, monkeypatch):
    lines, constants, right, wrong = SHOWN[name]
    _, tell, _, _, _ = mistakes.OTHER[name]
    assert re.search(right, tell([measured(name, "right", lines, constants)]))
    if "still" in wrong:
        monkeypatch.setattr(mistakes, "PATIENCE", 3)
    assert re.search(wrong, tell([measured(name, "wrong", lines, constants)]))


def test_a_leak_reports_two_less_than_was_earned():
    right, wrong = (measured(mistakes.REPORTS, w, [], {"MAX_EP": 20}) for w in ("right", "wrong"))
    earned, reported = right["returns"]["w00"], wrong["returns"]["w00"]
    assert len(earned) == 20 and [r - 2 for r in earned if r < 200] == reported


def policy(weights, limit):
    """Return one that pushes to the right where `weights` times the state are > `limit`."""

    def choose_action(s, greedy):
        assert greedy
        return int((s[0] * torch.tensor(weights)).sum() > limit)

    return SimpleNamespace(choose_action=choose_action)


def test_a_policy_is_played_on_until_it_falls_leaves_the_track_or_stays_upright():
    for weights, limit, end in [
        ([0.0, 0.0, -1.0, 0.0], 0.0, "fell"),
        ([0.05, 0.1, 1.0, 0.5], 0.0, "upright"),
        ([0.0, 0.0, 1.0, 0.5], 0.05, "left the track"),  # it follows a pole that leans
    ]:
        shares = drift.play_on(policy(weights, limit), 3, 1000)
        assert shares.pop(end) == 1 and list(shares.values()) == [0, 0]
    net = drift.trained({"MAX_EP": 20, "LR": 0.5, "N_WORKERS": 1}, 0)
    assert max(p.abs().max() for p in net.parameters()) > 1  # as drawn, at most 0.5


def test_actor_and_critic_are_clipped_together_and_separately(tmp_path, monkeypatch):
    actor, critic = clipping.norms({"MAX_EP": 5, "N_WORKERS": 1}, 0)
    assert len(actor) == len(critic) > 5
    assert all(actor > 0) and all(critic > 0) and critic.mean() > actor.mean()
    copy = Copy(tmp_path)
    copy.set_constants(DISCRETE, {"MAX_GRAD_NORM": 0.5, "MAX_EP": 3, "N_WORKERS": 1})
    copy.change(*clipping.SEPARATELY)
    # The norms again, after the clip.
    old = "    # The weights of gnet lie"
    new = clipping.PRINT[2].rsplit("    if max_grad_norm is not None:", 1)[0]
    copy.change("utils.py", old, new + old)
    printed, _ = copy.start(DISCRETE, stdout=subprocess.PIPE).communicate(timeout=50)
    for part in ("pi", "v"):
        norms = [float(norm) for norm in re.findall(rf"(?m)^{part} (\S+)$", printed)]
        assert max(norms) == pytest.approx(0.5, rel=1e-3), part
    monkeypatch.setattr(clipping, "norms", lambda *a: [np.array([3.0, 30]), np.array([4.0, 40])])
    result = clipping.measure("as shipped", 0)
    assert [result[key] for key in ("updates", "above", "median", "actor")] == [2, 0.5, 27.5, 16.5]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_speed_is_measured(script, monkeypatch, tmp_path, capsys):
    before = Copy(tmp_path)
    before.change(
        script,
        'print(f"{len(res)} episodes in {seconds:.1f} s, ',
        'print(f"7 episodes in 7 s, 777777',
    )
    monkeypatch.setattr(speed, "SECONDS", 0.5)
    monkeypatch.setattr(speed, "BEFORE", tmp_path)
    for prepare in (speed.stock, speed.before):
        rate, megabytes = speed.run_script(script, prepare, 1)
        assert str(rate).startswith("777777") == (prepare is speed.before), rate
        assert rate > 10 and megabytes > 10
    monkeypatch.setattr(sys, "argv", ["speed_bare", script.removesuffix(".py"), "0.1"])
    runpy.run_module("experiments.speed_bare", run_name="__main__")
    assert float(capsys.readouterr().out) > 100


def test_the_speed_of_other_code_is_measured_from_the_start(monkeypatch, tmp_path):
    kinds = ("speed", "solving", "solving Pendulum")
    measured = [(kind, "a", 0, lambda: (5.0, 6.0), ()) for kind in kinds]
    monkeypatch.setattr(speed, "measurements", lambda: measured)
    monkeypatch.setattr(speed, "table", lambda data: "")
    monkeypatch.setattr(speed, "DATA", tmp_path / "speed.json")
    code = {script: code_of(script) for script in SCRIPTS}
    for kept, rates in [(code, [[1, 1]]), ({**code, DISCRETE: "04f6c76"}, [[5.0, 6.0]])]:
        knobs.keep(speed.DATA, {"code": kept, **{kind: {"a": [[1, 1]]} for kind in kinds}})
        speed.main()
        data = json.loads(speed.DATA.read_text())
        assert data["code"] == code and [data[kind]["a"] for kind in kinds] == [rates] * 3


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
    ends = [torch.nn.utils.parameters_to_vector(start.parameters())]
    for adam, push in [(SharedAdam, push_and_pull), (stock.SharedAdam, stock.push_and_pull)]:
        gnet, lnet = (module.Net(module.N_S, module.N_A) for _ in range(2))
        gnet.load_state_dict(start.state_dict())
        lnet.load_state_dict(start.state_dict())
        opt = adam(gnet.parameters(), lr=1e-2, betas=(0.9, 0.99))
        for _ in range(3):
            push(opt, lnet, gnet, done, s_, bs, ba, [1.0, 0.5, -1.0, 2.0, 1.0], 0.9)
        ends.append(torch.nn.utils.parameters_to_vector(lnet.parameters()))
    assert (ends[1] - ends[0]).abs().max() > 1e-2
    assert torch.allclose(*ends[1:], atol=1e-5)
