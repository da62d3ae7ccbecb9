"""examples/pong.py: what it sees, its network, and short runs from end to end."""

import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

pytest.importorskip("ale_py", reason="Pong needs ale-py: pip install gymnasium ale-py")

import gymnasium as gym

from conftest import kill_session, processes_of
from examples import pong
from experiments import pong as experiment
from experiments.copies import ROOT
from utils import push_and_pull, v_wrap

WEIGHTS = "ALE-Pong-v5-1.pt"
FILES = ["ALE-Pong-v5-1.csv", "ALE-Pong-v5-1.png", WEIGHTS]


def screen():
    """Return a gray screen as Pong paints it: court, walls, a score, two paddles and a ball."""
    gray = np.full((210, 160), 87, np.uint8)
    gray[:24] = 236
    gray[24:34] = 200
    gray[194:] = 236
    gray[100:116, 16:20] = 147
    gray[60:76, 140:144] = 148
    gray[120:123, 80:82] = 236
    return gray


def test_background_is_0_and_ball_and_paddles_are_where_they_are():
    seen = pong.preprocess(screen())
    assert seen.shape == (80, 80) and seen.dtype == np.float32
    expected = np.zeros((80, 80), np.float32)
    expected[33:41, 8:10] = 60 / 149
    expected[13:21, 70:72] = 61 / 149
    expected[43:45, 40] = 1.0
    assert seen == pytest.approx(expected)


def test_the_real_game_has_that_background_and_that_ball():
    env = pong.make_env()
    s, _ = env.reset(seed=0)
    balls = 0
    for _ in range(60):
        s, _, _, _, _ = env.step(0)
        newest = s[3]
        assert (newest == 0).mean() > 0.95
        balls += (newest == 1).sum() in range(1, 5)
    assert balls > 20


class Frames(gym.Env):
    """Shows screens whose every pixel is the number of the step; a game is ten steps from 100."""

    observation_space = gym.spaces.Box(0, 255, (210, 160), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def reset(self, seed=None, options=None):
        self.t = 100
        return np.full((210, 160), self.t, np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((210, 160), self.t, np.uint8), 0.0, self.t == 110, False, {}


def numbers(s):
    """Return the numbers of the steps that the stack `s` shows, oldest first."""
    assert s.shape == (4, 80, 80) and s.dtype == np.float32
    assert np.ptp(s, axis=(1, 2)).max() == 0
    return [round(frame[0, 0] * 149 + 87) for frame in s]


def test_four_frames_are_stacked_newest_last_and_a_new_game_starts_afresh():
    env = pong.stack_frames(Frames())
    s, _ = env.reset()
    assert numbers(s) == [100, 100, 100, 100]
    for _ in range(5):
        s, _, _, _, _ = env.step(0)
    assert numbers(s) == [102, 103, 104, 105]
    s, _ = env.reset()
    assert numbers(s) == [100, 100, 100, 100]


def test_a_buffered_observation_stays_as_it_was():
    env = pong.stack_frames(Frames())
    first, _ = env.reset()
    for _ in range(5):
        env.step(0)
    assert numbers(first) == [100, 100, 100, 100]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_policy_is_uniform(seed):
    torch.manual_seed(seed)
    net = pong.Net(pong.N_S, pong.N_A)
    stack = np.stack([pong.preprocess(screen())] * 4)
    logits, values = net(v_wrap(np.stack([stack, stack * 0])))
    assert logits.shape == (2, 6) and values.shape == (2, 1)
    assert (logits.softmax(1) - 1 / 6).abs().max() < 1e-6


def test_the_loss_is_a3c_with_half_of_the_critics():
    torch.manual_seed(0)
    net = pong.Net(pong.N_S, pong.N_A)
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
    gnet = pong.Net(pong.N_S, pong.N_A).share_memory()
    lnet = pong.Net(pong.N_S, pong.N_A)
    lnet.load_state_dict(gnet.state_dict())
    before = [p.clone() for p in gnet.parameters()]
    opt = pong.SharedAdam(gnet.parameters(), lr=1e-3)
    stack = np.stack([pong.preprocess(screen())] * 4)
    push_and_pull(opt, lnet, gnet, True, stack, [stack] * 2, [0, 1], [0.0, 1.0], 0.99)
    assert all(not torch.equal(p, q) for p, q in zip(before, gnet.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(lnet.parameters(), gnet.parameters()))


def test_greedy_takes_the_likeliest_and_drawing_takes_all():
    torch.manual_seed(0)
    net = pong.Net(pong.N_S, pong.N_A)
    s = torch.zeros(1, 4, 80, 80)
    with torch.no_grad():
        net.pi.bias.copy_(torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert {net.choose_action(s, greedy=True) for _ in range(10)} == {1}
    assert {net.choose_action(s) for _ in range(300)} == set(range(6))


SHORT = {"MAX_EP": 2, "N_WORKERS": 2}


def weights(copy, name=WEIGHTS):
    return torch.load(copy.folder / "results" / name, weights_only=True)


@pytest.mark.timeout(120)
def test_a_short_run_and_one_that_continues_it(copy):
    copy.set_constants("examples/pong.py", SHORT)
    run = copy.run_python("-m", "examples.pong", timeout=110)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^w0[01] Ep: 2 \| Ep_r: -\d+\.\d\d$", run.stdout, re.MULTILINE)
    assert re.search(r"^\d+ env steps in 0\.\d min, \d+ env steps/s$", run.stdout, re.MULTILINE)
    assert re.search(r"^Greedy policy: return -?\d+ in one game", run.stdout, re.MULTILINE)
    assert copy.saved() == FILES
    before = weights(copy)

    # Steps too small to move a weight: what is saved again is what it continued from.
    options = {"CONTINUE_FROM": f"results/{WEIGHTS}", "MAX_EP": 1, "LR": 1e-12}
    copy.set_constants("examples/pong.py", options)
    run = copy.run_python("-m", "examples.pong", timeout=110)
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
def endless(copy):
    """Start a run without an end that saves after each game of w00; return copy and process."""
    options = {"MAX_EP": 10**6, "N_WORKERS": 2, "SAVE_MINUTES": 0}
    copy.set_constants("examples/pong.py", options)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = copy.start("-m", "examples.pong", start_new_session=True, **pipes)
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
    pong.Net(pong.N_S, pong.N_A).load_state_dict(weights(copy))
    time.sleep(1)
    assert processes_of(process.pid) == []


def test_without_ale_py_one_sentence_says_what_to_install(copy):
    (copy.folder / "ale_py.py").write_text("raise ImportError('no ale_py')")
    run = copy.run_python("-m", "examples.pong")
    assert run.returncode == 1
    assert run.stderr.strip() == "Pong needs two more packages: pip install gymnasium ale-py"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Let the experiment write to `tmp_path`, where no weights are."""
    shutil.copy(experiment.DATA, tmp_path)
    for name in ("DATA", "FIGURE", "ANIMATION"):
        monkeypatch.setattr(experiment, name, tmp_path / getattr(experiment, name).name)
    monkeypatch.setattr(experiment, "weights_file", lambda name: tmp_path / f"{name}.pt")
    return tmp_path


def test_what_was_measured_gives_table_and_figure_without_weights(kept, capsys):
    experiment.main()
    table, end = capsys.readouterr().out.split("\npong.gif stays as it is: ")
    assert f"\n{table}\n" in (ROOT / "experiments" / "README.md").read_text()
    assert f"{kept / 'as shipped, seed 0.pt'} is missing" in end
    assert sorted(path.name for path in kept.iterdir()) == ["pong.json", "pong.png"]


def test_a_short_run_of_the_experiment_says_how_long_all_take(kept, monkeypatch, capsys):
    monkeypatch.setitem(experiment.RUNS, "short", ({"MAX_EP": 1, "N_WORKERS": 1}, []))
    result = experiment.run("short", later=60)
    [[seconds, r]] = result["games"]
    assert 0 < seconds < 50 and -21 <= r <= 21
    line = capsys.readouterr().out
    assert re.match(rf"short: game 1, \d+ minutes left for all runs, mean of 100 games: {r}", line)
    # One game is played and 60 are left, each of that time in minutes.
    assert int(line.split()[3]) == pytest.approx(result["steps"][-1][0], abs=1)
    assert (kept / "short.pt").exists()
