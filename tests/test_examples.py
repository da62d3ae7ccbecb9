"""The programs in examples/ run from end to end; those of Pong stand in test_pong.py."""

import re
import sys

import numpy as np
import pytest
import torch

from examples import catch, catch_pixels, watch

DUMMY = {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}


@pytest.mark.parametrize(
    "env, shape",
    [(catch.Catch(), (64,)), (catch_pixels.PixelCatch(), (1, 80, 80))],
    ids=["catch", "catch_pixels"],
)
def test_the_rules_of_catch(env, shape):
    s, _ = env.reset(seed=0)
    assert s.shape == shape and env.observation_space.contains(s)
    for move in (-1, 0, 1):
        env.reset()
        env.ball = 5
        env.paddle = 5 - move
        for step in range(7):
            s, r, terminated, truncated, _ = env.step(1 + move if step == 0 else 1)
            assert (r, terminated, truncated) == (float(step == 6), step == 6, False)
            assert env.observation_space.contains(s)
    for ball, paddle, action in ((5, 0, 0), (0, 7, 2)):
        env.reset()
        env.ball = ball
        env.paddle = paddle
        rewards = [env.step(action)[1] for _ in range(7)]
        assert rewards == [0, 0, 0, 0, 0, 0, -1]
        assert env.paddle == paddle


def test_pixels_show_what_catch_shows():
    small = catch.Catch()
    large = catch_pixels.PixelCatch()
    s, _ = small.reset(seed=3)
    t, _ = large.reset(seed=3)
    assert np.array_equal(t[0, ::10, ::10], s.reshape(8, 8))
    assert np.array_equal(t[0, 9::10, 9::10], s.reshape(8, 8))


def greedy(stdout):
    return float(re.search(r"Greedy policy: mean return (\S+) over 100 episodes", stdout)[1])


@pytest.mark.parametrize("name, saved", [("catch", "Catch"), ("catch_pixels", "CatchPixels")])
def test_catch_runs(copy, name, saved):
    copy.set_constants("examples/catch.py", {"MAX_EP": 40})
    run = copy.run_python("-m", f"examples.{name}")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^4\d episodes in \d+\.\d s$", run.stdout, re.MULTILINE)
    assert -1 <= greedy(run.stdout) <= 1
    assert copy.saved() == [f"{saved}.png", f"{saved}.pt"]


# A paddle that moves at random, or not at all, is under the ball once or twice in eight: -0.8.
@pytest.mark.timeout(150)
def test_catch_is_learned(copy):
    run = copy.run_python("-m", "examples.catch", timeout=140)
    assert greedy(run.stdout) > 0.3, run.stderr


def run_watch(copy, weights):
    options = {"WEIGHTS": f"results/{weights}", "EPISODES": 2, "MAX_STEPS": 20}
    copy.set_constants("examples/watch.py", options)
    return copy.run_python("-m", "examples.watch", environ=DUMMY)


@pytest.mark.parametrize(
    "program, weights",
    [
        ("discrete_A3C.py", "CartPole-v0.pt"),
        ("continuous_A3C.py", "Pendulum-v1.pt"),
        ("examples/pong.py", "ALE-Pong-v5.pt"),
    ],
)
@pytest.mark.timeout(120)
def test_what_a_run_saved_can_be_watched(copy, program, weights):
    if "pong" in program:
        pytest.importorskip("ale_py", reason="Pong needs ale-py: pip install gymnasium ale-py")
    copy.set_constants(program, {"MAX_EP": 1, "N_WORKERS": 1})
    module = program.removesuffix(".py").replace("/", ".")
    trained = copy.run_python("-m", module)
    assert trained.returncode == 0, trained.stderr
    assert f"/results/{weights}" in trained.stdout
    run = run_watch(copy, weights)
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("Episode")]
    assert [line.split(":")[0] for line in lines] == ["Episode 1", "Episode 2"]


@pytest.mark.parametrize(
    "weights, told",
    [
        ("CartPole-v0.pt", "train first"),
        ("Pendulum-v1.pt", "train first"),
        ("Acrobot-v1.pt", "set ENV_NAME"),
        ("no weights/CartPole-v0.pt", "train first"),
    ],
)
def test_weights_that_cannot_be_watched_are_named(copy, weights, told):
    run = run_watch(copy, weights)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(f"WEIGHTS = 'results/{weights}': ")
    assert told in run.stderr and "Traceback" not in run.stderr


def other_network(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)


def no_weights(path):
    path.write_bytes(b"no weights")


@pytest.mark.parametrize("write", [other_network, no_weights])
def test_weights_that_do_not_fit_are_named(tmp_path, write):
    path = tmp_path / "CartPole-v0.pt"
    write(path)
    with pytest.raises(SystemExit) as error:
        watch.load(torch.nn.Linear(3, 3), path)
    assert "no weights of" in error.value.code and "train again" in error.value.code


def test_without_pygame_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(SystemExit) as error:
        watch.find_program("CartPole-v0")
    assert error.value.code.endswith("pip install pygame")
