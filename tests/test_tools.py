"""The tools in examples/: train, sweep, compare and watch."""

import itertools
import re
import signal
from pathlib import Path

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
def work(folder):
    row = Path(__file__).with_name("row.txt").read_text()
    Path(folder, "episodes.csv").write_text("episode,average\\n" + row * LENGTH)
    Path(folder, "constants.json").write_text("{}")
if __name__ == "__main__":
    folder = f"results/tiny-{len(list(Path('results').glob('*'))) + 1}"
    os.makedirs(folder)
    shutil.copy(__file__, folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(work, (folder,))
    print(f"中文\\nSaved {folder}: weights.pt")
    assert LENGTH != 4, "中文"
"""


@pytest.fixture
def tiny(copy):
    (copy.folder / "examples" / "tiny.py").write_text(TINY, encoding="utf-8")
    (copy.folder / "examples" / "row.txt").write_text("1,0.5\n")
    return copy


def test_change_replaces_a_value_and_nothing_else():
    for old, new in [("2  # 中文", "0.5  # 中文"), ("[\n2,\n]", "0.5"), ("(\n2)", "(\n0.5)")]:
        for text in ("LR = ", "LR: float = ", "A = '中\x0c\u2028文'\nLR = "):
            text = f"class B:\n    lr = 1\n{text}%s\nif A:\n    A = 2"
            assert change(text % old, {"LR": 0.5}) == text % new


def test_change_refuses_what_it_might_change_in_vain():
    texts = ["# LR = 1", "LR = 1; A = 2", "A = '''\n'''; LR = 2", "LR = A = 1", "LR, A = 1, 2"]
    texts += ["if A:\n LR = 1", "LR = 1\nLR = 2", "LR = 1\nif A:\n LR = 2", "LR = 1\nLR += 1"]
    for text in texts:
        with pytest.raises(ValueError, match="LR: the program must set it.* LR = value"):
            change(text, {"LR": 0.5})


def test_a_program_trains_beside_itself_and_its_run_gets_its_text(tiny):
    files = sorted((tiny.folder / "examples").iterdir())
    run = train("examples/tiny.py", {"SEED": 7, "LENGTH": 4}, tiny.folder)
    assert files == sorted((tiny.folder / "examples").iterdir())
    assert (run.code, run.lines[0]) == (1, "中文") and "AssertionError: 中文" in run.errors
    text = TINY.replace("= 0  # a", "= 7  # a").replace("LENGTH = 2", "LENGTH = 4")
    [script] = run.folder.glob("*.py")
    assert script.read_text(encoding="utf-8") == text
    assert script.name == "tiny.py"


def test_a_sweep_begun_again_goes_on_where_it_stopped(tiny, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    changes = [{}, {"LENGTH": 4}, {"LENGTH": 3}]  # the second dies
    tiny.set("examples/sweep.py", PROGRAM="examples/tiny.py", CHANGES=changes, SEEDS=[0, 1])
    status, stdout, stderr = tiny.run("-m", "examples.sweep")
    assert status == 1 and stderr.count("AssertionError") == 2, stderr
    assert re.findall(r"tiny-(\d); (\d) left$", stdout, re.M) == list(zip("123456", "543210"))
    path = tiny.folder / "results" / "tiny-4" / "constants.json"
    path.write_text(path.read_text().replace('"EXIT_CODE": 0', '"EXIT_CODE": 130'))
    skipped = r": skipped, it is in .*/results/(\S+); \d left$"
    found = re.findall(skipped, tiny.run("-m", "examples.sweep")[1], re.M)
    assert found == ["tiny-1", "tiny-3", "tiny-6"]
    assert len(list((tiny.folder / "results").iterdir())) == 9
    tiny.change("examples/tiny.py", "row * ", "2 * row * ")
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
    [run] = (copy.folder / "results").iterdir()
    assert '"EXIT_CODE": 130' in (run / "constants.json").read_text(encoding="utf-8")


def save_run(folder, averages, code="", **constants):
    folder.mkdir(parents=True)
    save_results(folder, torch.nn.Linear(2, 2), averages, {"ENV_NAME": "Mine-v0", **constants})
    (folder / "mine.py").write_text(code)
    return folder


def test_compare_counts_a_seed_once_and_leaves_out_interrupted_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"return": 0.0, "average": 2.0, "value error": 1.0}, {"average": 4.0}]
    save_run(Path("results/Mine-v0-10"), [9.0, 9.0], SEED=0)
    save_run(Path("results/Mine-v0-1"), [1.0, 3.0, 2.0], SEED=0)  # newer, whatever its number
    save_run(Path("results/Mine-v0-12"), [7.0], SEED=2, MAX_EP=2)
    save_run(Path("results/Mine-v0-13"), [7.0], SEED=3, EXIT_CODE=130)
    save_run(Path("results/Mine-v0-11"), rows, SEED=1)
    save_run(Path("results/Other-1"), [1.0], ENV_NAME="Other:Other-v0")
    save_run(Path("results/Other-2"), [1.0], ENV_NAME="Other:Other-v0")
    compare.main()
    printed = capsys.readouterr().out
    left_out = re.findall(r"interrupted or stopped early: results/Mine-v0-(\d+)$", printed, re.M)
    assert left_out == ["12", "13"] and printed.count("Saved results/compare-") == 2
    assert all(Path(f"results/compare-{x}-v0.png").exists() for x in ("Mine", "Other-Other"))
    group, unseeded = compare.group_runs(Path("results").glob("*-*[0-9]"))
    assert [averages.tolist() for averages in group[2]] == [[1.0, 3.0, 2.0], [2.0, 4.0]]
    assert len(unseeded[2]) == 2
    [line] = compare.draw([group], "Mine-v0").axes[0].get_lines()
    assert (line.get_label(), line.get_ydata().tolist()) == ("Mine-v0 (2 seeds)", [1.5, 3.5])


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


WATCHED = {"discrete_A3C.py": "examples.catch:Catch-v0", "continuous_A3C.py": "Pendulum-v1"}
WATCHED["examples/memory.py"] = "examples.catch:DarkCatch-v0"


@pytest.mark.parametrize("program", WATCHED)
def test_watch_draws_an_animation(copy, program):
    constants = {"ENV_NAME": WATCHED[program], "MAX_EP": 2, "N_WORKERS": 1}
    run = train(program, constants, copy.folder)
    assert run.code == 0, run.errors
    copy.set("examples/watch.py", WEIGHTS=f"results/{run.folder.name}", SHOW="gif", STEPS=42)
    copy.change(program, "class Net", "class OtherNet")  # the run's script counts, not today's
    status, stdout, stderr = copy.run("-m", "examples.watch")
    assert status == 0, stderr
    assert "Frame 0 of 21\nFrame 20 of 21\nSaved" in stdout
    with Image.open(copy.folder / "results" / f"{run.folder.name}.gif") as animation:
        frames = [np.array(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]
    assert len({frame.tobytes() for frame in frames}) == 21
    h, w = np.array(frames[0].shape) // 8
    parts = {"game": np.s_[:, : 3 * w], "actor": np.s_[h : 3 * h, 5 * w :]}
    parts["critic"] = np.s_[5 * h : 7 * h, 4 * w :]
    for name, part in parts.items():
        assert len({frame[part].tobytes() for frame in frames}) > 1, name


def test_watch_shows_each_reward_beside_the_state_in_which_it_was_earned():
    steps = watch.play(discrete_A3C.Net(64, 3), catch.Catch(render_mode="rgb_array"))
    frames, _, _, rewards = zip(*itertools.islice(steps, 14))
    assert [abs(r) for r in rewards] == [0.0] * 6 + [1.0] + [0.0] * 6 + [1.0]
    assert [frame.nonzero()[0].min() for frame in frames] == [*range(7), *range(7)]


MINE = """# 中文
from pathlib import Path
from torch.nn import Linear as Net
NAME: str = "script"
SIZE = 10**0
PLACE = Path("script")
TEXT = Path(__file__).with_name("beside.txt").read_text()
N_S = N_A = SIZE
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
