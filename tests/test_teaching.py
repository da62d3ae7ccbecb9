"""one_update prints what push_and_pull computes, and the returns of A2C are those of A3C."""

import signal
from copy import deepcopy

import numpy as np
import pytest

import discrete_A3C
from conftest import CountingEnv, wait_for
from examples import a2c, one_update
from shared_adam import SharedAdam
from utils import push_and_pull, seed_all


class Net(discrete_A3C.Net):
    def loss_func(self, s, a, v_t):
        self.v_t, self.loss = v_t[:, 0], super().loss_func(s, a, v_t)
        return self.loss


def push(net, *steps):
    """Return lnet, gnet and the log of push_and_pull, where both start as copies of net."""
    lnet, gnet = deepcopy(net), deepcopy(net)
    opt = SharedAdam(gnet.parameters(), discrete_A3C.LR, discrete_A3C.BETAS)
    return lnet, gnet, push_and_pull(opt, lnet, gnet, *steps, max_grad_norm=1e9)


def test_the_printed_update_is_that_of_push_and_pull(capsys):
    one_update.main()
    paper, steps, terms, after = capsys.readouterr().out.split("\n\n")
    assert "\nR_1 = r_1 + gamma R_2 = 0 + 0.5 * 4 = 2    A_1 = R_1 - V(s_1) = 2 - 3 = -1\n" in paper
    before = [line.split() for line in steps.splitlines()[2:7]]
    moves = [line.replace("->", "").split() for line in after.splitlines()[1:6]]
    printed = [[float(x) for x in (*row[7:9], *move[3:5])] for row, move in zip(before, moves)]
    ba = [("left", "right").index(row[4]) for row in before]
    seed_all(one_update.SEED)
    net, env = Net(4, 2), discrete_A3C.make_env()
    *bs, s_ = [env.reset(seed=one_update.SEED)[0], *(env.step(a)[0] for a in ba)]
    lnet, gnet, log = push(net, False, s_, bs, ba, [1.0] * 5, discrete_A3C.GAMMA)
    (pi, V), (new_pi, _) = one_update.look(net, bs), one_update.look(gnet, bs)
    A, p, new_p = lnet.v_t - V, pi[range(5), ba], new_pi[range(5), ba]
    assert np.array(printed) == pytest.approx(np.stack([lnet.v_t, A, p, new_p], 1), abs=6e-4)
    printed = [float(line.split()[-1]) for line in terms.splitlines()]
    sums = [sum(A**2).item(), -sum(A * p.log()).item(), -0.05 * log["entropy"], lnet.loss.item()]
    assert printed == pytest.approx([*sums, log["gradient norm"]], abs=6e-4)


def test_each_environment_of_a2c_has_the_returns_of_push_and_pull(monkeypatch):
    monkeypatch.setattr(a2c, "UPDATE_GLOBAL_ITER", 11)
    monkeypatch.setattr(a2c, "REWARD_SCALE", 2.0)
    net, ep_r = Net(4, 2), np.zeros(2)
    envs = [CountingEnv(length=3, truncates=True), CountingEnv(length=4)]
    s = np.stack([env.reset()[0] for env in envs])
    s, (_, a, v_t), finished = a2c.play(net, envs, s, ep_r)
    assert finished == [3, 4, 3, 4, 3] and ep_r.tolist() == s[:, 0].tolist() == [2, 3]
    for i, env in enumerate(envs):
        assert a.view(11, 2)[:, i].tolist() == env.actions
        for begin in range(0, 11, env.length):
            end = min(begin + env.length, 11)
            *bs, s_ = np.arange(end - begin + 1.0, dtype=np.float32)[:, None].repeat(4, axis=1)
            done = len(bs) == env.length and not env.truncates
            ba, br = env.actions[begin:end], [0.5] * len(bs)
            lnet, _, _ = push(net, done, s_, bs, ba, br, a2c.GAMMA)
            assert v_t.view(11, 2)[begin:end, i].numpy() == pytest.approx(lnet.v_t, abs=1e-6)


@pytest.mark.parametrize("sent, code", [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a2c_ends_and_saves_as_the_scripts_do(copy, sent, code):
    line = "    ep_r = np.zeros(N_ENVS)\n"
    told = "    print(len(np.unique(s, axis=0)), discrete_A3C.ENTROPY_BETA)\n"
    copy.change("examples/a2c.py", line, told + line)
    max_ep = 12 if sent is None else 10**6
    copy.set("examples/a2c.py", N_ENVS=3, MAX_EP=max_ep, ENTROPY_BETA=0.5)
    process = copy.start("-m", "examples.a2c")
    printed = wait_for(process, "w00 Ep: 1 | Ep_r: ")
    assert "3 0.5\n" in printed  # environments start in different states
    if sent is not None:
        process.send_signal(sent)
    status, _, stderr = copy.end(process)
    assert (status, stderr) == (code, "")
    folder = copy.folder / "results" / "CartPole-v0-A2C-1"
    assert len(list(folder.iterdir())) == 5
    table = np.loadtxt(folder / "episodes.csv", delimiter=",", skiprows=1, ndmin=2)
    assert np.isfinite(table).all() and (sent or len(table) >= 12)
