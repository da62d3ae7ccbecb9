"""The tools in examples/: train, sweep, compare and watch."""

import itertools
import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import discrete_A3C
from examples import catch, compare, watch
from examples.train import change, train
from utils import save_results

# Leaves a run, without PyTorch: a worker opens a file beside it, and saves. With LENGTH 4 it dies.
TINY = """# 中文
import multiprocessing, os, shutil
from pathlib import Path

SEED: int = 0  # a seed
LENGTH = 2
METHOD = "fork"

def work(folder):
    length = int(Path(__file__).with_name("length.txt").read_text()) * LENGTH
    Path(folder, "episodes.csv").write_text("episode,average\\n" + "1,0.5\\n" * length)
    Path(folder, "constants.json").write_text("{}")
    print(f"Saved {folder}: weights.pt", flush=True)

if __name__ == "__main__":
    folder = f"results/tiny-{len(list(Path('results').glob('*'))) + 1}"
    os.makedirs(folder)
    shutil.copy(__file__, folder)
    process = multiprocessing.get_context(METHOD).Process(target=work, args=(folder,))
    process.start()
    process.join()
    print("中文")
    assert LENGTH != 4, "中文"
"""


@pytest.fixture
def tiny(copy):
    (copy.folder / "examples" / "tiny.py").write_text(TINY, encoding="utf-8")
    (copy.folder / "examples" / "length.txt").write_text("1")
    return copy


def test_change_replaces_a_value_and_nothing_else():
    for old, new in [
        ("2e-4  # 中文\n", "0.5  # 中文\n"),
        ("[\n  2,\n]", "0.5"),
        ("(\n2)", "(\n0.5)"),
    ]:
        for text in ("LR = ", "LR: float = ", "A = '中\x0c\u2028文'\nLR = "):
            text = f"class B:\n    lr = 1\n{text}%s\nif A:\n    A = 2"
            assert change(text % old, {"LR": 0.5}) == text % new


def test_change_refuses_what_it_might_change_in_vain():
    lines = ["# LR = 1", "LR = 1; A = 2", "A = '''\n'''; LR = 2", "LR = A = 1", "LR, A = 1, 2"]
    lines += ["if A:\n LR = 1", "LR = 1\nLR = 2", "LR = 1\nif A:\n LR = 2", "LR = 1\nLR += 1"]
    for text in lines:
        with pytest.raises(ValueError, match="LR: the program must set it.* LR = value"):
            change(text, {"LR": 0.5})


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_program_trains_beside_itself_and_its_run_gets_its_text(tiny, method):
    files = sorted((tiny.folder / "examples").iterdir())
    run = train("examples/tiny.py", {"SEED": 7, "LENGTH": 4, "METHOD": method}, tiny.folder)
    assert sorted((tiny.folder / "examples").iterdir()) == files
    assert (run.code, run.lines[1:]) == (1, ["中文"]) and "AssertionError: 中文" in run.errors
    text = TINY.replace("= 0  # a", "= 7  # a").replace("LENGTH = 2", "LENGTH = 4")
    saved = (run.folder / "tiny.py").read_text(encoding="utf-8")
    assert saved == text.replace('"fork"', f"'{method}'")
    assert sum(path.suffix == ".py" for path in run.folder.iterdir()) == 1


def test_a_sweep_begun_again_goes_on_where_it_stopped(tiny, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    changes = [{}, {"LENGTH": 4}, {"LENGTH": 3}]  # the second dies
    tiny.set("examples/sweep.py", PROGRAM="examples/tiny.py", CHANGES=changes, SEEDS=[0, 1])
    status, stdout, stderr = tiny.run("-m", "examples.sweep")
    assert status == 1 and stderr.count("AssertionError") == 2, stderr
    assert re.findall(r"tiny-(\d); (\d) left$", stdout, re.M) == list(zip("123456", "543210"))
    (tiny.folder / "results" / "tiny-4" / "episodes.csv").write_text("episode,average\n")
    skipped = r"^(.*): skipped, it is in .*/results/(\S+); \d left$"
    found = re.findall(skipped, tiny.run("-m", "examples.sweep")[1], re.M)
    assert [run for _, run in found] == ["tiny-1", "tiny-3", "tiny-6"]
    assert found[1][0] == "LENGTH = 3, SEED = 0"
    assert len(list((tiny.folder / "results").iterdir())) == 9
    tiny.change("examples/tiny.py", "length = int(", "length = 2 * int(")
    assert "skipped" not in tiny.run("-m", "examples.sweep")[1]
    tiny.set("examples/sweep.py", CHANGES=[{}, {"GAMMMA": 0.5}])
    status, stdout, stderr = tiny.run("-m", "examples.sweep")
    assert (status, stdout) == (1, "") and "GAMMMA: the program must set it" in stderr


def test_ctrl_c_saves_the_run_under_way_and_ends_the_sweep(copy):
    copy.set("examples/sweep.py", CHANGES=[{"MAX_EP": 10**6, "N_WORKERS": 1}])
    seed = "        seed_all(self.seed)\n"
    copy.change("discrete_A3C.py", seed, seed + "        open('started', 'w').close()\n")
    process = copy.start("-m", "examples.sweep")
    while not (copy.folder / "started").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, stdout, stderr = copy.end(process)
    assert (status, stderr) == (130, "") and "2 left" in stdout
    copy.saved("CartPole-v0-1")
    path = copy.folder / "results" / "CartPole-v0-1" / "constants.json"
    assert json.loads(path.read_text(encoding="utf-8"))["EXIT_CODE"] == 130
    assert not (copy.folder / "results" / "CartPole-v0-2").exists()


def save_run(folder, averages, code="", **constants):
    folder.mkdir(parents=True)
    save_results(folder, torch.nn.Linear(2, 2), averages, {"ENV_NAME": "Mine-v0", **constants})
    (folder / "mine.py").write_text(code)
    return folder


def test_compare_counts_a_seed_once_and_leaves_out_interrupted_runs(tmp_path):
    rows = [{"return": 0.0, "average": 2.0, "value error": 1.0}, {"average": 4.0}]
    runs = [
        save_run(tmp_path / "Mine-v0-10", [9.0, 9.0], SEED=0),
        save_run(tmp_path / "Mine-v0-9", [1.0, 3.0, 2.0], SEED=0),  # newer, whatever its number
        save_run(tmp_path / "Mine-v0-11", rows, SEED=1),
        save_run(tmp_path / "Mine-v0-12", [7.0], SEED=2, MAX_EP=2),
        save_run(tmp_path / "Mine-v0-13", [7.0], SEED=3, EXIT_CODE=130),
    ]
    [group] = groups = compare.group_runs(runs)
    assert [averages.tolist() for averages in group[2]] == [[1.0, 3.0, 2.0], [2.0, 4.0]]
    fig = compare.draw(groups, "Mine-v0")
    [line], [legend] = fig.axes[0].get_lines(), fig.legends
    assert line.get_ydata().tolist() == [1.5, 3.5]
    assert [text.get_text() for text in legend.get_texts()] == ["Mine-v0 (2 seeds)"]
    unseeded = [save_run(tmp_path / f"Other-{i}", [1.0]) for i in range(2)]
    assert [len(runs) for *_, runs in compare.group_runs(unseeded)] == [2]


def test_a_label_of_compare_is_what_differs_from_the_first_line(tmp_path):
    base = {"GAMMA": 0.9, "LR": 0.1, "OPTIONS": {"size": 1}}
    runs = [save_run(tmp_path / "M-1", [1.0], "LR = 1  # one", **base, SEED=1)]
    for i, changes in enumerate([{"SEED": 2}, {"GAMMA": 0.5}, {"LR": 1}, {"OPTIONS": {"size": 2}}]):
        runs.append(save_run(tmp_path / f"M-{i + 2}", [1.0], f"LR = {i}", **{**base, **changes}))
    runs.append(save_run(tmp_path / "M-patched", [1.0], "LR = 9", **base))
    first = "M, GAMMA = 0.9, LR = 0.1, OPTIONS = {'size': 1}"
    others = ["GAMMA = 0.5", "LR = 1", "OPTIONS = {'size': 2}", "M-patched"]
    assert compare.labels_of(compare.group_runs(runs)) == [first, *others]
    (runs[1] / "mine.py").write_text("LR = 2\nprint(LR)")
    labels = compare.labels_of(compare.group_runs(runs[:2]))
    assert labels == [f"script = {run / 'mine.py'}" for run in runs[:2]]


def test_compare_draws_a_picture_of_each_game(copy):
    save_run(copy.folder / "results" / "Mine-v0-1", [1.0, 3.0])
    save_run(copy.folder / "results" / "CartPole-v0-1", [1.0, 3.0], ENV_NAME="CartPole-v0")
    save_run(copy.folder / "results" / "CartPole-v0-2", [], ENV_NAME="CartPole-v0")  # no episodes
    status, stdout, stderr = copy.run("-m", "examples.compare")
    assert (status, stderr) == (0, "")
    assert "Left out, interrupted or stopped early: results/CartPole-v0-2\n" in stdout
    assert "Saved results/compare-Mine-v0.png\n" in stdout
    assert (copy.folder / "results" / "compare-CartPole-v0.png").exists()


@pytest.mark.parametrize(
    "program, constants",
    [
        ("discrete_A3C.py", {"ENV_NAME": "examples.catch:Catch-v0"}),
        ("continuous_A3C.py", {"ENV_NAME": "Pendulum-v1"}),
        ("examples/memory.py", {}),
    ],
)
def test_watch_draws_an_animation(copy, program, constants):
    run = train(program, {"MAX_EP": 2, "N_WORKERS": 1, **constants}, copy.folder)
    assert run.code == 0, run.errors
    copy.set("examples/watch.py", WEIGHTS=f"results/{run.folder.name}", SHOW="gif", STEPS=42)
    copy.change(program, "class Net", "class OtherNet")  # the run's script counts, not today's
    status, stdout, stderr = copy.run("-m", "examples.watch")
    assert status == 0, stderr
    assert "Frame 0 of 21\nFrame 20 of 21\nSaved" in stdout
    with Image.open(copy.folder / "results" / f"{run.folder.name}.gif") as animation:
        frames = [np.array(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]
    assert len({frame.tobytes() for frame in frames}) == 21
    height, width = frames[0].shape
    parts = {"game": (0, height, 0, width * 4 // 10)}
    parts["actor"] = (height // 8, height * 3 // 8, width * 6 // 10, width)
    parts["critic"] = (height * 5 // 8, height * 7 // 8, width // 2, width)
    for name, (top, bottom, left, right) in parts.items():
        assert len({frame[top:bottom, left:right].tobytes() for frame in frames}) > 1, name


def test_watch_shows_each_reward_beside_the_state_in_which_it_was_earned():
    steps = watch.play(discrete_A3C.Net(64, 3), catch.Catch(render_mode="rgb_array"))
    frames, _, _, rewards = zip(*itertools.islice(steps, 14))
    assert [abs(r) for r in rewards] == [0.0] * 6 + [1.0] + [0.0] * 6 + [1.0]
    assert [frame.nonzero()[0].min() for frame in frames] == [*range(7), *range(7)]


MINE = """# 中文
from dataclasses import dataclass
from pathlib import Path
from torch.nn import Linear as Net

NAME: str = "script"
SIZE = 10**0
PLACE = Path("script")
TEXT = Path(__file__).with_name("beside.txt").read_text()
N_S = N_A = SIZE

@dataclass
class Mine:
    size: "int" = SIZE
"""


def test_watch_loads_a_program_with_the_constants_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "ROOT", tmp_path)
    run = save_run(tmp_path / "run", [1.0], NAME="run", SIZE=2, PLACE="PosixPath('run')", N_S=2)
    (run / "mine.py").write_text(MINE.replace("10**0", "2"), encoding="utf-8")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "beside.txt").write_text("beside")
    own, net = watch.load(watch.find_program(run), run)
    assert (own.NAME, own.SIZE, own.TEXT, net.training) == ("script", 2, "beside", False)
    other, _ = watch.load(str(tmp_path / "mine.py"), str(run))
    assert (other.NAME, other.SIZE, other.PLACE.name) == ("run", 2, "script")
    (run / "mine.py").unlink()
    with pytest.raises(SystemExit, match="no copy of the program"):
        watch.find_program(run)
    with pytest.raises(SystemExit, match="not a run's folder"):
        watch.find_program(tmp_path)


def test_watch_plays_without_pictures_where_it_is_told_to_or_has_none(copy):
    """The numbers are those of evaluate; CartPole's weights are there from the start."""
    expected = "20 episodes: mean 200.00, standard deviation 0.00, lowest 200.00, highest 200.00\n"
    for show in (None, "window"):  # there is no display
        copy.set("examples/watch.py", EPISODES=20, SHOW=show)
        status, stdout, stderr = copy.run("-m", "examples.watch")
        assert (status, stderr) == (0, "") and stdout.endswith(expected)
        assert stdout.startswith(expected if show is None else 'No window here; SHOW = "gif"')
    copy.set("examples/watch.py", SHOW="gif")
    (copy.folder / "pygame.py").write_text("raise ImportError")  # as if it were not installed
    status, stdout, stderr = copy.run("-m", "examples.watch")
    assert status == 0 and stdout.endswith(expected)
    assert stdout.startswith("CartPole-v0 can't be drawn: DependencyNotInstalled('pygame is not")
