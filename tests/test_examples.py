"""The programs in examples/ that learn; those that need Ray or Atari have files of their own."""

import ast
import inspect
import re
import shutil
from pathlib import Path

import gym
import numpy as np
import pytest
import torch
from conftest import CountingEnv
from torch.distributions import Categorical

import discrete_A3C
import utils
from examples import catch, catch_pixels, memory


def make(name, **options):
    return gym.make(f"examples.catch:{name}-v0", disable_env_checker=True, **options).unwrapped


@pytest.mark.parametrize("name, size", [("Catch", 8), ("PixelCatch", 80), ("DarkCatch", 8)])
def test_the_rules_of_catch(name, size):
    env = make(name, render_mode="rgb_array")
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for ball, paddle, action, moved, won in [
        (5, 4, 2, 5, True),
        (5, 5, 1, 5, True),
        (4, 5, 0, 4, True),
        (5, 0, 0, 0, False),
        (0, 7, 2, 7, False),
    ]:
        env.reset()
        env.ball, env.paddle = ball, paddle
        steps = [env.step(action if i == 0 else 1) for i in range(7)]
        assert [r for _, r, *_ in steps] == [0.0] * 6 + [1.0 if won else -1.0]
        assert [ends for *_, ends, _, _ in steps] == [False] * 6 + [True]
        assert all(env.observation_space.contains(s) for s, *_ in steps)
        assert env.paddle == moved
    picture = env.render()
    assert picture.shape == (size, size, 3) and picture.max() == 255


def test_pixels_and_dark_catch_show_what_catch_shows():
    envs = make("Catch"), make("PixelCatch"), make("DarkCatch")
    small, large, dark = (env.reset(seed=3)[0] for env in envs)
    assert np.array_equal(large[0, 9::10, ::10], small.reshape(8, 8))
    assert np.array_equal(dark, small) and small.sum() == 2
    small, large, dark = (env.step(2)[0] for env in envs)
    assert np.array_equal(large[0, ::10, 9::10], small.reshape(8, 8))
    assert small.sum() == 2 and np.flatnonzero(dark).tolist() == [56 + envs[0].paddle]


def text_of_worker(program):
    """Return the lines of class Worker, docstring aside."""
    return inspect.getsource(program.Worker).replace(program.Worker.__doc__, "").splitlines()


def text_of_main(program):
    return Path(program.__file__).read_text(encoding="utf-8").partition("\nif __name__")[2]


@pytest.mark.parametrize("program, added", [(catch_pixels, []), (memory, ["lnet.forget()"])])
def test_an_example_differs_from_discrete_a3c_only_where_it_must(program, added):
    theirs = [line for line in text_of_worker(program) if line.strip() not in added]
    assert theirs == text_of_worker(discrete_A3C)
    assert len(text_of_worker(program)) == len(theirs) + len(added)
    assert text_of_main(program) == text_of_main(discrete_A3C)
    assert inspect.getsource(program.make_env) == inspect.getsource(discrete_A3C.make_env)


@pytest.mark.parametrize("program, env", [("catch_pixels", "PixelCatch"), ("memory", "DarkCatch")])
def test_a_copy_learns_an_environment_of_its_own(copy, program, env):
    shutil.move(copy.folder / "examples" / f"{program}.py", copy.folder)
    shutil.move(copy.folder / "examples" / "catch.py", copy.folder / "mine.py")
    shutil.rmtree(copy.folder / "examples")
    for script in ("discrete_A3C.py", "continuous_A3C.py"):
        (copy.folder / script).unlink()
    copy.set(f"{program}.py", ENV_NAME=f"mine:{env}-v0", MAX_EP=20, N_WORKERS=2)
    status, stdout, stderr = copy.run(f"{program}.py")
    assert (status, stderr) == (0, "")
    assert "After training" in stdout
    assert len(copy.saved(f"mine-{env}-v0-1")) in (20, 21)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["discrete_A3C", "examples.catch_pixels", "examples.memory"])
def test_all_kinds_of_catch_are_learned(copy, program):
    named = dict(re.findall(r"^    ([A-Z_]+) = (\S+)", catch.__doc__, re.MULTILINE))
    assert named["ENV_NAME"] == '"examples.catch:Catch-v0"' and len(named) == 6
    constants = {name: ast.literal_eval(value) for name, value in named.items()}
    if program != "discrete_A3C":  # the others have constants of their own
        constants = {}
    if program == "examples.catch_pixels":
        constants = {"MAX_EP": 10_000}  # with its own 6000, a run may end too low
    copy.set(f"{program.replace('.', '/')}.py", **constants, N_WORKERS=2)
    status, stdout, stderr = copy.run("-m", program)
    assert status == 0, stderr
    # A paddle that moves at random catches one or two balls in eight: -0.7.
    assert float(re.search(r"After .* returns (\S+)", stdout)[1]) > 0.3


def make_net():
    torch.manual_seed(0)
    return memory.Net(4, 3), torch.rand(7, 4)


def test_memory_goes_on_waits_and_is_forgotten():
    net, s = make_net()

    def act():
        values = []
        for row in s:
            assert net(row[None])[-1].item() == net(row[None])[-1].item()  # only a look
            values.append(net(row[None])[-1].item())
            net.choose_action(row[None])
        return values

    values = act()
    logits, unrolled, state = net.unroll(s, net.start)
    assert unrolled.flatten().tolist() == pytest.approx(values, abs=1e-6)
    assert logits.shape == (7, 3) and torch.allclose(state[1], net.state[1], atol=1e-6)
    assert act() != pytest.approx(values, abs=1e-6)
    net.forget()
    assert act() == pytest.approx(values, abs=1e-7)
    assert not list(net.buffers())  # push_and_pull would push them


def test_the_loss_of_memory_unrolls_from_the_start_of_its_steps():
    net, s = make_net()
    a, v_t = torch.tensor([0, 1, 2, 0, 1, 2, 2]), torch.linspace(-1, 1, 7)[:, None]
    h = c = torch.zeros(1, 1, 64)
    for rows in (slice(0, 4), slice(4, 7)):  # two updates
        outputs, (h, c) = net.lstm(s[rows, None], (h.detach(), c.detach()))
        m, td = Categorical(logits=net.pi(outputs[:, 0])), v_t[rows] - net.v(outputs[:, 0])
        actor = (m.log_prob(a[rows])[:, None] * td.detach()).sum()
        expected = (td**2).sum() - actor - memory.ENTROPY_BETA * m.entropy().sum()
        loss = net.loss_func(s[rows], a[rows], v_t[rows])
        assert loss.item() == pytest.approx(expected.item())
        theirs = torch.autograd.grad(expected, list(net.parameters()))
        for gradient, other in zip(torch.autograd.grad(loss, list(net.parameters())), theirs):
            assert torch.allclose(gradient, other, atol=1e-6)


def test_evaluate_forgets_before_each_episode(monkeypatch):
    net, env, forgotten = make_net()[0], CountingEnv(), []
    monkeypatch.setattr(net, "forget", lambda: forgotten.append(len(env.seeds)))
    assert memory.evaluate(net, env, 5, episodes=2, max_steps=3).tolist() == [3.0, 3.0]
    assert env.seeds == [5, 6] and forgotten == [0, 1]
    assert inspect.signature(memory.evaluate) == inspect.signature(utils.evaluate)
