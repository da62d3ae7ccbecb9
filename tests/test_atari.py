"""examples/atari.py: what it sees, what it learns from, what it saves, and a short run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("ale_py")

import gymnasium as gym

from examples import atari
from utils import push_and_pull

ROOT = Path(__file__).resolve().parent.parent


class Game(gym.Env):
    """Screens of one gray, 100 + t, with a shot of one pixel; steps 5, 9 and 12 lose a life."""

    observation_space = gym.spaces.Box(0, 255, (210, 160), np.uint8)
    action_space = gym.spaces.Discrete(6)
    shot = 120, 80
    closed = 0

    def screen(self):
        gray = np.full((210, 160), 100 + self.t, np.uint8)
        gray[self.shot] = 228
        return gray

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.screen(), {"lives": 3}

    def step(self, action):
        self.t += 1
        lives = 3 - (self.t >= 5) - (self.t >= 9) - (self.t >= 12)
        reward = (5.0, 0.0, -2.0)[self.t % 3]
        return self.screen(), reward, self.t == 12, False, {"lives": lives}

    def close(self):
        Game.closed += 1


def make_env(**options):
    return gym.wrappers.FrameStackObservation(atari.Frames(Game()), 4)


def steps_of(s):
    """Return the numbers of the steps that a state shows: step 1 gave the background."""
    assert s.shape == (4, 80, 80) and s.dtype == np.float32
    return [1 + round(128 * frame[0, 0]) for frame in s]


def run_worker(monkeypatch, name, folder, **constants):
    """Let one worker play Game in this process; return its moving average, gnet and steps."""
    for constant, value in {"make_env": make_env, **constants}.items():
        monkeypatch.setattr(atari, constant, value)
    gnet, average = atari.Net(atari.N_S, atari.N_A), atari.mp.Value("d", 0.0)
    opt, step = atari.SharedAdam(gnet.parameters()), atari.mp.Value("q", 0)
    shared = gnet, opt, atari.mp.Value("i", 0), average, atari.mp.SimpleQueue()
    atari.Worker(*shared, name, step, folder).run()
    return average.value, gnet, step.value


@pytest.mark.parametrize("shot", [(120, 80), (120, 81), (121, 80), (121, 81)])
def test_a_frame_is_the_brightest_of_2_x_2_on_a_background_of_0(monkeypatch, shot):
    monkeypatch.setattr(Game, "shot", shot)
    env = atari.Frames(Game())
    env.reset()
    seen, *_ = env.step(0)
    expected = np.zeros((80, 80), np.float32)
    expected[(120 - 34) // 2, 40] = (228 - 101) / 128
    assert seen.dtype == np.float32 and np.array_equal(seen, expected)


def test_a_state_is_the_last_four_steps_of_one_game():
    env = make_env()
    first, _ = env.reset()
    states = [env.step(0)[0] for _ in range(5)]
    again, _ = env.reset()
    assert steps_of(first) == steps_of(again) == [0, 0, 0, 0]
    assert steps_of(states[4]) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    "game, actions, background", [("Pong", 6, 87), ("Breakout", 4, 0), ("SpaceInvaders", 6, 0)]
)
def test_three_games_are_made_and_drawn(monkeypatch, game, actions, background):
    monkeypatch.setattr(atari, "ENV_NAME", f"ALE/{game}-v5")
    monkeypatch.setattr(atari, "FRAME_SKIP", 3)
    env = atari.make_env(render_mode="rgb_array")
    assert (env.observation_space.shape, env.action_space.n) == (atari.N_S, actions)
    assert env.env.background == background
    assert env.spec.kwargs["repeat_action_probability"] == 0
    env.reset(seed=0)
    s, _, _, _, info = env.step(0)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == 3  # no frame before: NO_OPS = 0
    assert env.observation_space.contains(s) and (s[3] == 0).mean() > 0.65
    assert "lives" in info and env.render().shape == (210, 160, 3)
    env.close()


def test_no_ops_are_drawn_by_the_seed_and_seen(monkeypatch):
    monkeypatch.setattr(atari, "NO_OPS", 3)
    env = atari.make_env()
    ale = env.unwrapped.ale

    def waits(seed):
        frames = []
        for i in range(30):
            s, _ = env.reset(seed=None if i else seed)
            frames.append(ale.getEpisodeFrameNumber())
            assert np.array_equal(s[3], env.env.observation(ale.getScreenGrayscale()))
        return frames

    first = waits(0)
    assert set(first) == {0, 1, 2, 3} and waits(0) == first != waits(1)
    env.close()


def test_a_lost_life_ends_the_return_not_the_game_and_signs_are_learned(monkeypatch):
    updates = []

    def note(opt, lnet, gnet, done, s_, bs, ba, br, gamma, max_grad_norm):
        assert [steps_of(s)[3] for s in (*bs, s_)] == list(range(note.t, note.t + len(bs) + 1))
        note.t += len(bs)
        updates.append((done, [float(r) for r in br]))

    note.t = 0
    monkeypatch.setattr(Game, "closed", 0)
    constants = {"UPDATE_GLOBAL_ITER": 3, "MAX_EP": 1, "push_and_pull": note}
    average, _, steps = run_worker(monkeypatch, 0, None, **constants)
    first_life = [(False, [0, -1, 1]), (True, [0, -1])]
    second_life = [(False, [1, 0, -1]), (True, [1])]
    assert updates == [*first_life, *second_life, (True, [0, -1, 1])]
    assert average == 4 * 5 - 4 * 2  # as the game pays
    assert steps == 12 and Game.closed == 1


@pytest.mark.parametrize("own_init", [False, True])
def test_the_first_policy_is_uniform(monkeypatch, own_init):
    monkeypatch.setattr(atari, "OWN_INIT", own_init)
    net = atari.Net(atari.N_S, atari.N_A)
    logits, values = net(torch.rand(3, *atari.N_S))
    assert not logits.any() and values.any() != own_init
    assert (net.fc.weight.std() < 0.05) == own_init  # PyTorch's own: 0.013


def test_an_update_is_that_of_adam_with_the_gradients_of_a3c(monkeypatch):
    monkeypatch.setattr(atari, "ENTROPY_BETA", 1)
    torch.manual_seed(0)
    s = np.random.default_rng(0).normal(size=(3, *atari.N_S)).astype(np.float32)
    gnet, lnet, net = (atari.Net(atari.N_S, atari.N_A) for _ in range(3))
    assert torch.equal(gnet(torch.from_numpy(s))[0], torch.zeros(3, 6))  # a uniform policy
    torch.nn.init.normal_(gnet.pi.weight, std=0.01)  # where the entropy has a gradient
    for other in (lnet, net):
        other.load_state_dict(gnet.state_dict())
    opt = atari.SharedAdam(gnet.parameters(), lr=0.1, eps=1)
    push_and_pull(opt, lnet, gnet, True, s[0], list(s), [0, 5, 2], [1, -1, 2], 0.5)

    logits, values = net.to(memory_format=torch.contiguous_format)(torch.from_numpy(s))
    log_pi, td = logits.log_softmax(1), torch.tensor([[1.0], [0.0], [2.0]]) - values
    actor = -(log_pi[range(3), [0, 5, 2]] * td.detach()[:, 0]).sum()
    entropy = -(log_pi.exp() * log_pi).sum()
    (0.5 * td.pow(2).sum() + actor - entropy).backward()
    torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1).step()
    for p, expected in zip(gnet.parameters(), net.parameters()):
        assert torch.allclose(p.grad, expected.grad, rtol=1e-3, atol=1e-4)
        assert torch.allclose(p, expected, atol=1e-5)


def test_w00_saves_the_weights_every_few_minutes(monkeypatch, tmp_path, capfd):
    minutes = iter(range(100))  # one passes in each game
    clock = SimpleNamespace(perf_counter=lambda: 60 * next(minutes))
    constants = {"MAX_EP": 6, "SAVE_MINUTES": 3, "time": clock}
    run_worker(monkeypatch, 1, tmp_path, **constants)
    assert list(tmp_path.iterdir()) == []
    _, gnet, _ = run_worker(monkeypatch, 0, tmp_path, **constants)
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("Saved")]
    assert said == [
        "Saved weights: 36 steps, 0 steps/s, 3 minutes left",
        "Saved weights: 72 steps, 0 steps/s, 0 minutes left",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(saved[key], value) for key, value in gnet.state_dict().items())


def test_a_full_disk_leaves_the_weights_of_the_last_save(monkeypatch, tmp_path):
    def save(state, path):
        Path(path).write_text("half")
        raise OSError("No space left on device")

    (tmp_path / "weights.pt").write_text("whole")
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError):
        atari.save_weights(atari.Net(atari.N_S, atari.N_A), tmp_path, 1, 1, 1)
    assert (tmp_path / "weights.pt").read_text() == "whole"


@pytest.mark.timeout(300)  # it starts Python and imports torch
def test_a_copy_beside_the_two_files_continues_a_run(tmp_path):
    for path in ("utils.py", "shared_adam.py", "examples/atari.py"):
        shutil.copy(ROOT / path, tmp_path)
    before = atari.Net(atari.N_S, atari.N_A).state_dict()
    (tmp_path / "before").mkdir()
    torch.save(before, tmp_path / "before" / "weights.pt")
    # One short game, and updates so small that the run saves what it started from.
    constants = {"MAX_EP": 1, "N_WORKERS": 1, "FRAME_SKIP": 12, "LR": 1e-12}
    constants["CONTINUE_FROM"] = "before"
    text = (tmp_path / "atari.py").read_text()
    for name, value in constants.items():
        text = re.sub(rf"(?m)^{name} = .*", f"{name} = {value!r}", text)
    (tmp_path / "atari.py").write_text(text)
    environ = {**os.environ, "MPLBACKEND": "agg"}
    command = [sys.executable, "atari.py"]
    run = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^w00 Ep: 1 \| Ep_r: -\d+\.00$", run.stdout, re.MULTILINE)
    assert re.search(r"the greedy policy returns -\d+ in one game$", run.stdout, re.MULTILINE)
    folder = tmp_path / "results" / "ALE-Pong-v5-1"
    names = ["constants.json", "returns.csv", "returns.png", "weights.pt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    saved = json.loads((folder / "constants.json").read_text())
    expected = {"ENV_NAME": "ALE/Pong-v5", "NO_OPS": 0, "ROWS": [34, 194], **constants}
    assert expected.items() <= saved.items()
    after = torch.load(folder / "weights.pt", weights_only=True)
    assert all(torch.allclose(after[key], before[key], atol=1e-6) for key in before)
