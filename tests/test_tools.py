"""The tools in examples/: sweep, train, compare and watch."""

import itertools
import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import discrete_A3C
from examples import catch, compare, sweep, watch
from utils import save_results


def test_a_sweep_leaves_an_ordinary_run_of_each_change_and_seed(copy):
    text = (copy.folder / "discrete_A3C.py").read_text()
    changes = [{"MAX_EP": 4, "N_WORKERS": 1}, {"MAX_EP": 5, "N_WORKERS": 1, "GAMMA": 0.5}]
    copy.set("examples/sweep.py", CHANGES=changes, SEEDS=[3, 7])
    status, stdout, stderr = copy.run("-m", "examples.sweep")
    assert status == 0, stderr
    lines = stdout.splitlines()
    assert len(lines) == 4 and lines[0].startswith("MAX_EP = 4, N_WORKERS = 1, SEED = 3: ")
    expected = [(3, 4, 0.9), (3, 5, 0.5), (7, 4, 0.9), (7, 5, 0.5)]
    for number, (line, (seed, max_ep, gamma)) in enumerate(zip(lines, expected), 1):
        assert len(copy.saved(f"CartPole-v0-{number}")) == max_ep
        path = copy.folder / "results" / f"CartPole-v0-{number}" / "constants.json"
        told = json.loads(path.read_text())
        assert (told["SEED"], told["MAX_EP"], told["GAMMA"]) == (seed, max_ep, gamma)
        assert re.search(rf" s, average \S+, greedy \S+, in .*-{number}; {4 - number} left$", line)
    assert (copy.folder / "discrete_A3C.py").read_text() == text


def test_a_sweep_refuses_a_constant_that_the_program_does_not_have(copy):
    copy.set("examples/sweep.py", CHANGES=[{}, {"GAMMMA": 0.5}])
    status, stdout, stderr = copy.run("-m", "examples.sweep")
    assert (status, stdout) == (1, "") and "the program has no GAMMMA" in stderr
    text = "# GAMMA = 1\nGAMMA = (\n    0.9  # a comment\n)\n\nif GAMMA:\n    GAMMA = 3\n"
    expected = "# GAMMA = 1\nGAMMA = 0.5\n\nif GAMMA:\n    GAMMA = 3\n"
    assert sweep.change(text, {"GAMMA": 0.5}) == expected


def test_ctrl_c_saves_the_run_under_way_and_ends_the_sweep(copy):
    copy.set("examples/sweep.py", CHANGES=[{"MAX_EP": 10**6, "N_WORKERS": 1}])
    reset = "        env.reset(seed=self.seed)\n"
    copy.change("discrete_A3C.py", reset, reset + "        open('started', 'w').close()\n")
    process = copy.start("-m", "examples.sweep")
    while not (copy.folder / "started").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, stdout, stderr = copy.end(process)
    assert (status, stderr) == (130, "") and "2 left" in stdout
    copy.saved("CartPole-v0-1")
    assert not (copy.folder / "results" / "CartPole-v0-2").exists()


def save_run(folder, averages, **constants):
    folder.mkdir(parents=True)
    constants = {"ENV_NAME": "Mine-v0", "MAX_EP": 3, **constants}
    save_results(folder, torch.nn.Linear(2, 2), averages, constants)
    return folder


def test_compare_groups_seeds_and_labels_what_differs(tmp_path):
    runs = [
        save_run(tmp_path / "Mine-v0-1", [1.0, 3.0, 2.0], SEED=0, GAMMA=0.9, BETAS=(0.9, 0.99)),
        save_run(tmp_path / "Mine-v0-2", [3.0, 5.0], SEED=1, GAMMA=0.9, BETAS=(0.9, 0.99)),
        save_run(tmp_path / "Mine-v0-10", [5.0], SEED=0, GAMMA=0.9, BETAS=(0.5, 0.99)),
    ]
    groups = compare.group_runs(runs)
    assert sorted(len(averages) for _, _, averages in groups) == [1, 2]
    assert set(compare.labels_of(groups)) == {"BETAS = [0.9, 0.99]", "BETAS = [0.5, 0.99]"}
    assert compare.labels_of(compare.group_runs(runs[:2])) == ["Mine-v0"]
    patched = save_run(tmp_path / "Mine-v0-patched", [1.0], SEED=0, GAMMA=0.9, BETAS=(0.9, 0.99))
    labels = compare.labels_of(compare.group_runs([*runs[:2], patched]))
    assert sorted(labels) == ["Mine-v0", "Mine-v0-patched"]
    fig = compare.draw(compare.group_runs(runs[:2]), "Mine-v0")
    [line], [legend] = fig.axes[0].get_lines(), fig.legends
    assert line.get_ydata().tolist() == [2.0, 4.0]
    assert [text.get_text() for text in legend.get_texts()] == ["Mine-v0 (2 seeds)"]


def test_compare_draws_a_picture_of_each_game(copy):
    save_run(copy.folder / "results" / "Mine-v0-1", [1.0, 3.0])
    save_run(copy.folder / "results" / "CartPole-v0-1", [1.0, 3.0], ENV_NAME="CartPole-v0")
    save_run(copy.folder / "results" / "CartPole-v0-2", [], ENV_NAME="CartPole-v0")  # no episodes
    status, stdout, stderr = copy.run("-m", "examples.compare")
    assert (status, stderr) == (0, "")
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
    copy.set(program, MAX_EP=2, N_WORKERS=1, **constants)
    status, stdout, stderr = copy.run("-m", program.removesuffix(".py").replace("/", "."))
    assert status == 0, stderr
    [run] = (copy.folder / "results").iterdir()
    shown = {"PROGRAM": program, "WEIGHTS": f"results/{run.name}"}
    copy.set("examples/watch.py", **shown, SHOW="gif", STEPS=20)
    if constants:  # the run's constants count, not those that stand in the program now
        copy.set(program, ENV_NAME="Mine")
    status, stdout, stderr = copy.run("-m", "examples.watch")
    assert status == 0, stderr
    with Image.open(copy.folder / "results" / f"{run.name}.gif") as animation:
        frames = []
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append(np.array(animation.convert("L")))
    assert len({frame.tobytes() for frame in frames}) == 10
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


def test_watch_plays_without_pictures_where_it_is_told_to_or_has_none(copy):
    """The numbers are those of evaluate; CartPole's weights are there from the start."""
    expected = "20 episodes: mean 200.00, standard deviation 0.00, lowest 200.00, highest 200.00\n"
    for show in (None, "window"):  # there is no display
        copy.set("examples/watch.py", EPISODES=20, SHOW=show)
        assert copy.run("-m", "examples.watch") == (0, expected, "")
    copy.set("examples/watch.py", SHOW="gif")
    (copy.folder / "pygame.py").write_text("raise ImportError")  # as if it were not installed
    status, stdout, stderr = copy.run("-m", "examples.watch")
    assert status == 0 and stdout.endswith(expected)
    assert stdout.startswith("CartPole-v0 can't be drawn: DependencyNotInstalled('pygame is not")
