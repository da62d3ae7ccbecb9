"""examples/atari.py: what it sees, its network, lost lives, and short runs from end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py", reason="Atari needs ale-py: pip install gymnasium ale-py")

import gymnasium as gym

from conftest import kill_session, processes_of
from examples import atari
from experiments import atari as experiment
from experiments.lab import Row
from utils import push_and_pull, save_weights, v_wrap

WEIGHTS = "ALE-Pong-v5-1.pt"
FILES = ["ALE-Pong-v5-1.csv", "ALE-Pong-v5-1.png", WEIGHTS]


class Game(gym.Env):
    """Screens of one gray, 100 and the number of the step, with a ball; 12 steps, three lives.

    Pays 5, 0 and -2 in turn. Lives are lost at the steps 5 and 9, and the last at the end.
    """

    observation_space = gym.spaces.Box(0, 255, (210, 160), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self, gray=None):
        self.gray = gray

    def screen(self):
        gray = np.full((210, 160), self.gray or 100 + self.t, np.uint8)
        gray[120:124, 80:82] = 236
        return gray

    def reset(self, seed=None, options=None):
        self.t = 0
        return self.screen(), {"lives": 3}

    def step(self, action):
        self.t += 1
        lives = 3 - (self.t >= 5) - (self.t >= 9) - (self.t >= 12)
        reward = (5.0, 0.0, -2.0)[self.t % 3]
        return self.screen(), reward, self.t == 12, False, {"lives": lives}


def stack_of_four(env):
    return gym.wrappers.FrameStackObservation(atari.Frames(env), 4)


@pytest.mark.parametrize("gray", [1, 87, 200])
def test_the_commonest_gray_is_0_and_the_ball_is_where_it_is(gray):
    env = atari.Frames(Game(gray))
    seen, _ = env.reset()
    assert seen.shape == (80, 80) and seen.dtype == np.float32
    expected = np.zeros((80, 80), np.float32)
    expected[43:45, 40] = (236 - gray) / 128
    assert seen == pytest.approx(expected)
    assert env.observation_space.contains(seen)


@pytest.mark.parametrize("rows", [slice(34, 194), slice(34, 195)])
def test_a_shot_one_pixel_wide_is_seen_at_each_place(monkeypatch, rows):
    monkeypatch.setattr(atari, "ROWS", rows)
    env = atari.Frames(Game(87))
    for y, x in [(100, 60), (100, 61), (101, 60), (101, 61)]:
        screen = np.full((210, 160), 87, np.uint8)
        screen[y, x] = 142
        expected = np.zeros((80, 80), np.float32)
        expected[33, 30] = (142 - 87) / 128
        assert env.observation(screen) == pytest.approx(expected)


@pytest.mark.parametrize("frames", [3, 4])
def test_a_step_is_that_many_frames(monkeypatch, frames):
    monkeypatch.setattr(atari, "FRAME_SKIP", frames)
    env = atari.make_env()
    env.reset(seed=0)
    before = env.unwrapped.ale.getEpisodeFrameNumber()
    env.step(0)
    assert env.unwrapped.ale.getEpisodeFrameNumber() - before == frames


@pytest.mark.parametrize(
    "game, n_actions, background", [("Pong", 6, 87), ("Breakout", 4, 0), ("SpaceInvaders", 6, 0)]
)
def test_the_real_games_have_a_background_that_is_found(monkeypatch, game, n_actions, background):
    monkeypatch.setattr(atari, "ENV_NAME", f"ALE/{game}-v5")
    assert atari.shapes() == ((4, 80, 80), n_actions)
    env = atari.make_env()
    assert env.env.background == background
    env.reset(seed=0)
    s, _, _, _, info = env.step(0)
    assert (s[3] == 0).mean() > 0.65 and info["lives"] >= 0
    assert env.spec.kwargs["repeat_action_probability"] == 0


def test_an_error_in_frames_of_ones_own_is_shown(monkeypatch):
    monkeypatch.setattr(atari, "Frames", lambda env: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        atari.shapes()


def test_rows_of_another_game_make_another_network(monkeypatch):
    monkeypatch.setattr(atari, "ROWS", slice(0, 210))
    s_dim, a_dim = atari.shapes()
    assert s_dim == (4, 105, 80)
    logits, values = atari.Net(s_dim, a_dim)(torch.zeros(2, *s_dim))
    assert logits.shape == (2, 6) and values.shape == (2, 1)


def numbers(s):
    """Return the numbers of the steps that the stack `s` shows, oldest first."""
    assert s.shape == (4, 80, 80) and s.dtype == np.float32
    return [round(frame[0, 0] * 128) + 1 for frame in s]  # the background is that of step 1


def test_four_frames_are_stacked_newest_last_and_a_new_game_starts_afresh():
    env = stack_of_four(Game())
    first, _ = env.reset()
    assert numbers(first) == [0, 0, 0, 0]
    for _ in range(5):
        s, _, _, _, _ = env.step(0)
    assert numbers(s) == [2, 3, 4, 5]
    assert numbers(first) == [0, 0, 0, 0]
    s, _ = env.reset()
    assert numbers(s) == [0, 0, 0, 0]


def test_a_lost_life_ends_the_return_but_not_the_game_and_signs_are_learned(monkeypatch):
    updates = []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, max_grad_norm):
        assert numbers(bs[0])[3] + len(bs) == numbers(s_)[3]
        updates.append((done, [float(r) for r in br]))

    monkeypatch.setattr(atari, "push_and_pull", push_and_pull)
    monkeypatch.setattr(atari, "make_env", lambda render: stack_of_four(Game()))
    monkeypatch.setattr(atari, "UPDATE_GLOBAL_ITER", 3)
    monkeypatch.setattr(atari, "MAX_EP", 1)
    torch.manual_seed(0)
    gnet = atari.Net(atari.N_S, atari.N_A)
    opt = atari.SharedAdam(gnet.parameters())
    queue, average = atari.mp.SimpleQueue(), atari.mp.Value("d", 0.0)
    steps = atari.mp.Value("q", 0)
    atari.Worker(gnet, opt, atari.mp.Value("i", 0), average, queue, 0, steps, None).run()
    assert updates == [
        (False, [0.0, -1.0, 1.0]),
        (True, [0.0, -1.0]),
        (False, [1.0, 0.0, -1.0]),
        (True, [1.0]),
        (True, [0.0, -1.0, 1.0]),
    ]
    assert average.value == 4 * 5 - 4 * 2  # as the game pays
    assert steps.value == 12


def test_the_learning_rate_falls_to_0(monkeypatch):
    rates = []
    monkeypatch.setattr(
        atari, "push_and_pull", lambda opt, *_, **__: rates.append(opt.param_groups[0]["lr"])
    )
    monkeypatch.setattr(atari, "make_env", lambda render: stack_of_four(Game()))
    monkeypatch.setattr(atari, "MAX_EP", 4)
    gnet = atari.Net(atari.N_S, atari.N_A)
    shared = atari.mp.Value("i", 0), atari.mp.Value("d", 0.0), atari.mp.SimpleQueue(), 0
    opt = atari.SharedAdam(gnet.parameters())
    atari.Worker(gnet, opt, *shared, atari.mp.Value("q", 0), None).run()
    assert sorted(set(rates)) == pytest.approx([atari.LR * x / 4 for x in (1, 2, 3, 4)])


@pytest.mark.parametrize("seed", range(5))
def test_the_first_policy_is_uniform(seed):
    torch.manual_seed(seed)
    net = atari.Net(atari.N_S, atari.N_A)
    stack, _ = stack_of_four(Game(87)).reset()
    logits, values = net(v_wrap(np.stack([stack, stack * 0])))
    assert logits.shape == (2, 6) and values.shape == (2, 1)
    assert (logits.softmax(1) - 1 / 6).abs().max() < 1e-6


def test_the_loss_is_a3c_with_half_of_the_critics():
    torch.manual_seed(0)
    net = atari.Net(atari.N_S, atari.N_A)
    s = torch.randn(3, 4, 80, 80)
    a = torch.tensor([0, 5, 2])
    v_t = torch.tensor([[1.0], [-1.0], [0.5]])
    logits, values = net(s)
    log_pi = logits.log_softmax(1)
    advantage = v_t - values
    actor = -(log_pi.gather(1, a[:, None]) * advantage.detach()).sum()
    entropy = -(log_pi.exp() * log_pi).sum()
    expected = 0.5 * (advantage**2).sum() + actor - 0.01 * entropy
    loss = net.loss_func(s, a, v_t)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(loss, list(net.parameters()))
    theirs = torch.autograd.grad(expected, list(net.parameters()))
    for p, q in zip(ours, theirs):
        assert torch.allclose(p, q, atol=1e-5)


def test_one_update_moves_every_layer():
    torch.manual_seed(0)
    gnet = atari.Net(atari.N_S, atari.N_A).share_memory()
    lnet = atari.Net(atari.N_S, atari.N_A)
    lnet.load_state_dict(gnet.state_dict())
    before = [p.clone() for p in gnet.parameters()]
    opt = atari.SharedAdam(gnet.parameters(), lr=1e-3)
    stack, _ = stack_of_four(Game(87)).reset()
    push_and_pull(opt, lnet, gnet, True, stack, [stack] * 2, [0, 1], [0.0, 1.0], 0.99)
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(lnet.parameters(), gnet.parameters()))


def test_greedy_takes_the_likeliest_and_drawing_takes_all():
    torch.manual_seed(0)
    net = atari.Net(atari.N_S, atari.N_A)
    s = torch.zeros(1, 4, 80, 80)
    with torch.no_grad():
        net.pi.bias.copy_(torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert {net.choose_action(s, greedy=True) for _ in range(10)} == {1}
    assert {net.choose_action(s) for _ in range(300)} == set(range(6))


SHORT = {"MAX_EP": 2, "N_WORKERS": 2}


def weights(copy, name=WEIGHTS):
    return torch.load(copy.folder / "results" / name, weights_only=True)


@pytest.mark.timeout(120)
def test_a_short_run_and_one_that_continues_it(forks, copy):
    # Beside the two files that it needs, and nothing else.
    (copy.folder / "examples" / "atari.py").rename(copy.folder / "atari.py")
    shutil.rmtree(copy.folder / "examples")
    for script in ("discrete_A3C.py", "continuous_A3C.py"):
        (copy.folder / script).unlink()
    copy.set_constants("atari.py", SHORT)
    run = copy.run_python("atari.py", timeout=110)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^w0[01] Ep: 2 \| Ep_r: -\d+\.\d\d$", run.stdout, re.MULTILINE)
    assert re.search(r"^\d+ env steps in 0\.\d min, \d+ env steps/s$", run.stdout, re.MULTILINE)
    assert re.search(r"^Greedy policy: return -?\d+ in one game", run.stdout, re.MULTILINE)
    assert copy.saved() == FILES
    before = weights(copy)

    # Steps too small to move a weight: what is saved again is what it continued from.
    options = {"CONTINUE_FROM": f"results/{WEIGHTS}", "MAX_EP": 1, "LR": 1e-12}
    copy.set_constants("atari.py", options)
    run = copy.run_python("atari.py", timeout=110)
    assert run.returncode == 0, run.stderr
    assert f"Continuing from results/{WEIGHTS}; games" in run.stdout
    for name, tensor in weights(copy, "ALE-Pong-v5-2.pt").items():
        assert torch.allclose(tensor, before[name], atol=1e-7)


def wait_until_saved(process):
    """Read what `process` prints until it has saved its weights for the first time."""
    for line in process.stdout:
        if line.startswith("Saved "):
            return
    raise AssertionError("It ended before it saved anything.")


@pytest.fixture
def endless(forks, copy):
    """Start a run without an end that saves after each game of w00; return copy and process."""
    options = {"MAX_EP": 10**6, "N_WORKERS": 2, "SAVE_MINUTES": 0}
    copy.set_constants("examples/atari.py", options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = copy.start("-m", "examples.atari", start_new_session=True, **pipes)
    yield copy, process
    kill_session(process.pid)
    process.communicate()


def test_ctrl_c_saves_and_says_nothing(endless):
    copy, process = endless
    wait_until_saved(process)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert re.search(r"env steps in", stdout)
    assert copy.saved() == FILES


def test_a_killed_parent_leaves_the_weights_of_the_last_save(endless):
    copy, process = endless
    wait_until_saved(process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    atari.Net(atari.N_S, atari.N_A).load_state_dict(weights(copy))
    time.sleep(1)
    assert processes_of(process.pid) == []


def test_without_ale_py_one_sentence_says_what_to_install(copy):
    (copy.folder / "ale_py.py").write_text("raise ImportError('no ale_py')")
    run = copy.run_python("-m", "examples.atari")
    assert run.returncode == 1
    assert run.stderr.strip() == "Atari games need two more packages: pip install gymnasium ale-py"


@pytest.mark.parametrize("name", ["Pong-v5", "ALE/Ping-v5", "CartPole-v1"])
def test_an_unknown_game_gets_a_sentence(forks, copy, name):
    copy.set_constants("examples/atari.py", {"ENV_NAME": name})
    run = copy.run_python("-m", "examples.atari")
    assert run.returncode == 1
    [said] = run.stderr.strip().splitlines()
    assert said.startswith(f"ENV_NAME = {name!r}: ") and "ALE/Pong-v5" in said


@pytest.mark.parametrize("frames", [0, "4"])
def test_an_impossible_frame_skip_gets_a_sentence(forks, copy, frames):
    copy.set_constants("examples/atari.py", {"FRAME_SKIP": frames})
    run = copy.run_python("-m", "examples.atari")
    assert run.returncode == 1
    assert run.stderr.strip() == f"FRAME_SKIP = {frames!r}: use a whole number from 1 on."


def test_weights_name_their_game_and_watch_plays_it(forks, copy):
    assert atari.game_of("results/ALE-SpaceInvaders-v5-12.pt") == "ALE/SpaceInvaders-v5"
    assert atari.game_of("results/best.pt") is None
    (copy.folder / "results").mkdir()
    save_weights(atari.Net(atari.N_S, 4), copy.folder / "results" / "ALE-Breakout-v5-1")
    path = "results/ALE-Breakout-v5-1.pt"
    options = {"PROGRAM": "examples.atari", "WEIGHTS": path, "EPISODES": 1, "MAX_STEPS": 20}
    copy.set_constants("examples/watch.py", options)
    run = copy.run_python("-m", "examples.watch")
    assert run.returncode == 0, run.stderr
    assert "Saved results/ALE-Breakout-v5-1.gif" in run.stdout
    copy.set_constants("examples/atari.py", {"CONTINUE_FROM": path})
    run = copy.run_python("-m", "examples.atari")
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"CONTINUE_FROM = {path!r}: ")


def test_a_short_run_of_the_experiment_is_measured_and_drawn(forks, tmp_path, monkeypatch):
    for name in ("FIGURE", "ANIMATION", "WEIGHTS"):
        monkeypatch.setattr(experiment, name, tmp_path / getattr(experiment, name).name)
    row = Row(range(1), {"MAX_EP": 1, "N_WORKERS": 1}, script="examples/atari.py")
    monkeypatch.setitem(experiment.ROWS, "Pong", row)
    monkeypatch.setattr(experiment, "GREEDY_GAMES", 1)
    result = experiment.measure("Pong", 0)
    [[seconds, r]] = result["games"]
    assert 0 < seconds < 50 and -21 <= r <= 21 and -21 <= result["greedy"][0] <= 21
    assert 0 < result["steps"] < 0.1 and experiment.WEIGHTS.exists()
    experiment.draw(json.loads(experiment.DATA.read_text()))
    assert experiment.FIGURE.exists()
