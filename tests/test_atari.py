"""examples/atari.py: what it sees, what it learns from, what it saves, and a short run."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("gymnasium")
pytest.importorskip("ale_py")

import gymnasium as gym

from examples import atari
from utils import push_and_pull


class Game(gym.Env):
    """Screens of one gray, 100 + t; steps 5, 9 and 12 lose a life."""

    observation_space = gym.spaces.Box(0, 255, (210, 160), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def screen(self):
        return np.full((210, 160), 100 + self.t, np.uint8)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.screen(), {"lives": 3}

    def step(self, action):
        self.t += 1
        lives = 3 - (self.t >= 5) - (self.t >= 9) - (self.t >= 12)
        reward = (5.0, 0.0, -2.0)[self.t % 3]
        return self.screen(), reward, self.t == 12, False, {"lives": lives}


def make_nets(n):
    return [atari.Net(atari.N_S, atari.N_A) for _ in range(n)]


def run_worker(monkeypatch, name, folder, **constants):
    """Let one worker play Game in this process; return gnet, its queue and steps."""
    env = gym.wrappers.FrameStackObservation(atari.Frames(Game()), 4)
    for constant, value in {"make_env": lambda: env, **constants}.items():
        monkeypatch.setattr(atari, constant, value)
    [gnet], queue, steps = make_nets(1), mp.SimpleQueue(), mp.Value("q", 0)
    opt = atari.SharedAdam(gnet.parameters())
    counters = mp.Value("i", 0), mp.Value("d", 0.0)
    atari.Worker(gnet, opt, *counters, queue, name, steps, folder).run()
    return gnet, queue, steps.value


@pytest.mark.parametrize("shot", [(120, 80), (120, 81), (121, 80), (121, 81)])
def test_a_frame_is_the_brightest_of_2_x_2_on_a_background_of_0(shot):
    screen = np.full((210, 160), 101, np.uint8)
    screen[shot] = 229
    expected = np.zeros((80, 80), np.float32)
    expected[(120 - 34) // 2, 40] = 1
    seen = atari.Frames(Game()).observation(screen)
    assert seen.dtype == np.float32 and np.array_equal(seen, expected)


@pytest.mark.parametrize("game, background", [("Pong", 87), ("Breakout", 0), ("SpaceInvaders", 0)])
def test_three_games_are_made_and_drawn(monkeypatch, game, background):
    monkeypatch.setattr(atari, "ENV_NAME", f"ALE/{game}-v5")
    monkeypatch.setattr(atari, "FRAME_SKIP", 3)
    env = atari.make_env(render_mode="rgb_array")
    assert env.spec.kwargs["repeat_action_probability"] == 0 and env.env.background == background
    env.reset(seed=0)
    s, _, _, _, info = env.step(0)
    assert env.unwrapped.ale.getEpisodeFrameNumber() == 3  # no frame before: NO_OPS = 0
    assert s.shape == atari.N_S and env.observation_space.contains(s) and (s[3] == 0).mean() > 0.65
    assert "lives" in info and env.render().shape == (210, 160, 3)


def test_a_lost_life_ends_the_return_not_the_game_and_signs_are_learned(monkeypatch):
    updates, states = [], []

    def note(opt, lnet, gnet, done, s_, bs, ba, br, gamma, max_grad_norm):
        updates.append((done, [float(r) for r in br]))
        states.extend(bs)
        assert s_[3, 0, 0] == states[-1][3, 0, 0] + 1 / 128  # one gray, and so one step, later
        return {"entropy": len(bs)}

    constants = {"UPDATE_GLOBAL_ITER": 3, "MAX_EP": 1, "push_and_pull": note}
    _, queue, steps = run_worker(monkeypatch, 0, None, **constants)
    first_life = [(False, [0, -1, 1]), (True, [0, -1])]
    second_life = [(False, [1, 0, -1]), (True, [1])]
    assert updates == [*first_life, *second_life, (True, [0, -1, 1])] and steps == 12
    shown = np.array(states)[:, :, 0, 0] * 128 + 1  # the steps in each state; the background is 1
    assert shown[:, 3].tolist() == list(range(12))
    assert shown[0].tolist() == [0, 0, 0, 0] and shown[5].tolist() == [2, 3, 4, 5]
    total = 4 * 5 - 4 * 2  # the game's rewards, not their signs
    assert queue.get() == {"return": total, "average": total, "entropy": 12 / 5}


def test_an_update_is_that_of_adam_with_the_gradients_of_a3c(monkeypatch):
    monkeypatch.setattr(atari, "ENTROPY_BETA", 1)
    torch.manual_seed(0)
    s = np.random.default_rng(0).normal(size=(3, *atari.N_S)).astype(np.float32)
    gnet, lnet, net = make_nets(3)
    torch.nn.init.normal_(gnet.pi.weight, std=0.01)  # where the entropy has a gradient
    for other in (lnet, net):
        other.load_state_dict(gnet.state_dict())
    opt = atari.SharedAdam(gnet.parameters(), lr=0.1, eps=1)
    log = push_and_pull(opt, lnet, gnet, True, s[0], list(s), [0, 5, 2], [1, -1, 2], 0.5)

    logits, values = net.to(memory_format=torch.contiguous_format)(torch.from_numpy(s))
    log_pi, td = logits.log_softmax(1), torch.tensor([[1.0], [0.0], [2.0]]) - values
    actor = -(log_pi[range(3), [0, 5, 2]] * td.detach()[:, 0]).sum()
    entropy, value_error = -(log_pi.exp() * log_pi).sum(), td.pow(2).sum()
    (0.5 * value_error + actor - entropy).backward()
    torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1).step()
    for p, expected in zip(gnet.parameters(), net.parameters()):
        assert torch.allclose(p.grad, expected.grad, rtol=1e-3, atol=1e-4)
        assert torch.allclose(p, expected, atol=1e-5)
    means = {"entropy": entropy.item() / 3, "value error": value_error.item() / 3}
    assert log == pytest.approx(means, rel=1e-3)


def test_w00_saves_the_weights_every_few_minutes(monkeypatch, tmp_path, capfd):
    minutes = iter(range(100))
    clock = SimpleNamespace(perf_counter=lambda: 60 * next(minutes))  # a minute in each game
    constants = {"MAX_EP": 6, "SAVE_MINUTES": 3, "time": clock}
    run_worker(monkeypatch, 1, tmp_path, **constants)
    assert not list(tmp_path.iterdir())
    gnet, *_ = run_worker(monkeypatch, 0, tmp_path, **constants)
    told = "Saved weights: {} steps, 0 steps/s, {} minutes left"
    stdout = capfd.readouterr().out
    assert told.format(36, 3) in stdout and told.format(72, 0) in stdout
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(saved[key], value) for key, value in gnet.state_dict().items())


@pytest.mark.slow
def test_a_copy_beside_the_two_files_continues_a_run(copy):
    shutil.move(copy.folder / "examples" / "atari.py", copy.folder)
    shutil.rmtree(copy.folder / "examples")
    (copy.folder / "discrete_A3C.py").unlink()
    before = make_nets(1)[0].state_dict()
    torch.save(before, copy.folder / "weights.pt")
    # One short game, and updates so small that the run saves what it started from.
    copy.set("atari.py", MAX_EP=1, N_WORKERS=1, FRAME_SKIP=12, LR=1e-12, CONTINUE_FROM=".")
    status, stdout, stderr = copy.run("atari.py")
    assert (status, stderr) == (0, "") and "the greedy policy returns -" in stdout
    for column in ("return", "entropy", "value error", "gradient norm"):
        assert len(copy.saved("ALE-Pong-v5-1", column)) == 1
    after = torch.load(copy.folder / "results/ALE-Pong-v5-1/weights.pt", weights_only=True)
    assert all(torch.allclose(after[key], before[key], atol=1e-6) for key in before)
