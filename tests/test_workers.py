"""record, Worker and run_workers: what is counted, what is learned from, and how a run ends."""

import os
import random
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

import continuous_A3C
import discrete_A3C
import utils
from conftest import CountingEnv
from shared_adam import SharedAdam


def shared():
    return mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()


def test_record_counts_averages_queues_and_prints(capsys):
    global_ep, global_ep_r, queue = shared()
    utils.record(global_ep, global_ep_r, 34.4, queue, "w00")
    utils.record(global_ep, global_ep_r, 134.4, queue, "w01")
    assert global_ep.value == 2
    assert queue.get() == pytest.approx(34.4)
    assert queue.get() == global_ep_r.value == pytest.approx(0.99 * 34.4 + 0.01 * 134.4)
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 34\nw01 Ep: 2 | Ep_r: 35\n"


def test_a_return_of_zero_is_an_average_like_any_other():
    global_ep, global_ep_r, queue = shared()
    utils.record(global_ep, global_ep_r, 0.0, queue, "w00")
    utils.record(global_ep, global_ep_r, 100.0, queue, "w00")
    assert global_ep_r.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    "ep_r", [200, np.float32(200), np.full(1, 200.0), np.full((1, 1), 200.0), torch.tensor(200.0)]
)
def test_a_return_may_be_an_array_of_one_number(ep_r, capsys):
    global_ep, global_ep_r, queue = shared()
    utils.record(global_ep, global_ep_r, ep_r, queue, "w00")
    utils.record(global_ep, global_ep_r, ep_r, queue, "w00")
    averages = [queue.get(), queue.get()]
    assert averages == [200.0, 200.0] and all(type(average) is float for average in averages)
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 200\nw00 Ep: 2 | Ep_r: 200\n"


def test_a_return_of_two_numbers_is_an_error_that_counts_nothing():
    global_ep, global_ep_r, queue = shared()
    with pytest.raises(ValueError, match="size 1"):
        utils.record(global_ep, global_ep_r, np.ones(2), queue, "w00")
    assert (global_ep.value, queue.empty()) == (0, True)


def test_a_run_that_is_continued_goes_on_from_its_average(capsys):
    global_ep, global_ep_r, queue = mp.Value("i", 100), mp.Value("d", 200.0), mp.SimpleQueue()
    for ep_r in (200.0, 200.0, 100.0):
        utils.record(global_ep, global_ep_r, ep_r, queue, "w00")
    assert [queue.get(), queue.get(), queue.get()] == pytest.approx([200.0, 200.0, 199.0])
    assert capsys.readouterr().out.splitlines() == [
        "w00 Ep: 101 | Ep_r: 200",
        "w00 Ep: 102 | Ep_r: 200",
        "w00 Ep: 103 | Ep_r: 199",
    ]
    for name in ("continue", "`global_ep`", "`global_ep_r`"):
        assert name in utils.record.__doc__


def test_counter_average_queue_and_line_change_under_one_lock(monkeypatch):
    global_ep, held = mp.Value("i", 0), {}

    def note(name):
        """Note whether `global_ep`'s lock is held: then no other thread gets it."""
        got = []
        other = threading.Thread(target=lambda: got.append(global_ep.get_lock().acquire(False)))
        other.start()
        other.join()
        held.setdefault(name, []).append(got == [False])

    class Average:
        def __setattr__(self, name, value):
            note("average")
            self.__dict__[name] = value

    monkeypatch.setattr(utils, "print", lambda *args, **kwargs: note("line"), raising=False)
    queue = SimpleNamespace(put=lambda value: note("queue"))
    utils.record(global_ep, Average(), 5.0, queue, "w00")
    assert held == {"average": [True], "queue": [True], "line": [True]}
    note("after")
    assert held["after"] == [False]


def worker_of(module, monkeypatch, env, name=0, max_ep=2):
    """Return a Worker of `module` whose environment is `env`, its updates as they come, its queue.

    An update is (done, actions, rewards).
    """
    updates = []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
        assert len(bs) == len(ba) == len(br)
        updates.append((done, list(ba), list(br)))

    monkeypatch.setattr(module, "make_env", lambda *args, **kwargs: env)
    monkeypatch.setattr(module, "push_and_pull", push_and_pull)
    monkeypatch.setattr(module, "MAX_EP", max_ep)
    gnet = module.Net(module.N_S, module.N_A).share_memory()
    queue = mp.SimpleQueue()
    worker = module.Worker(
        gnet, SharedAdam(gnet.parameters()), mp.Value("i", 0), mp.Value("d", 0.0), queue, name
    )
    return worker, updates, queue


def test_the_learning_rate_of_pendulum_falls_to_zero_and_not_below(monkeypatch):
    worker, _, _ = worker_of(continuous_A3C, monkeypatch, Paying(4), max_ep=5)
    group = worker.opt.param_groups[0]
    rates = []

    def push_and_pull(*arguments, **options):
        rates.append(group["lr"])

    monkeypatch.setattr(continuous_A3C, "push_and_pull", push_and_pull)
    worker.run()
    assert rates == pytest.approx([lr * continuous_A3C.LR for lr in (1.0, 0.8, 0.6, 0.4, 0.2)])

    class Counter:  # other workers count two episodes between two looks at it
        value = property(lambda counter: next(looks))

    looks = iter([4, 6, 6])
    worker.g_ep = Counter()
    monkeypatch.setattr(continuous_A3C, "record", lambda *arguments: None)
    worker.run()
    assert rates[5:] == [0.0]


@pytest.mark.parametrize("truncates", [False, True])
def test_a_time_limit_is_not_a_terminal_state(monkeypatch, truncates):
    worker, updates, queue = worker_of(discrete_A3C, monkeypatch, CountingEnv(7, truncates))
    worker.run()
    # Two episodes of 7 steps, updated after 5 and at the end.
    ends = [(done, len(rewards)) for done, _, rewards in updates]
    assert ends == [(False, 5), (not truncates, 2)] * 2
    assert worker.n_steps.value == 14
    # A fall is learned from as -1, and reported as the 7 that the environment pays.
    assert [r for _, _, r in updates[:2]] == [[1] * 5, [1, 1 if truncates else -1]]
    assert [queue.get(), queue.get()] == [7.0, 7.0]


def test_without_a_reward_for_a_fall_what_is_paid_is_learned_from(monkeypatch):
    monkeypatch.setattr(discrete_A3C, "FALL_REWARD", None)
    worker, updates, _ = worker_of(discrete_A3C, monkeypatch, CountingEnv(3))
    worker.run()
    assert updates[0][2] == [1, 1, 1]


class Paying(CountingEnv):
    """Three numbers to observe, and four rewards below 0, whatever the action."""

    rewards = [-2.0, -8.0, -4.0, -16.0]

    def observe(self):
        return np.zeros(3, np.float32)

    def step(self, action):
        s, _, *ended = super().step(action)
        return s, self.rewards[self.t - 1], *ended


def test_continuous_rewards_are_divided_by_the_largest_so_far_for_learning_only(monkeypatch):
    env = Paying(4, truncates=True)
    worker, updates, queue = worker_of(continuous_A3C, monkeypatch, env)
    worker.run()
    # The largest so far: 2, 8, 8, 16, and 16 in all of the second episode.
    assert [rewards for _, _, rewards in updates] == [
        [-1.0, -1.0, -0.5, -1.0],
        [-0.125, -0.5, -0.25, -1.0],
    ]
    assert [done for done, _, _ in updates] == [False, False]  # a time limit is not terminal
    assert queue.get() == -30.0


def test_continuous_actions_are_clipped_for_the_environment_only(monkeypatch):
    far = iter([1e3, -1e3, 0.5, 1e3])
    monkeypatch.setattr(
        continuous_A3C.Net, "choose_action", lambda net, s: np.full(1, next(far), np.float32)
    )
    env = Paying(4)
    worker, updates, _ = worker_of(continuous_A3C, monkeypatch, env, max_ep=1)
    worker.run()
    assert np.ravel(env.actions).tolist() == [2.0, -2.0, 0.5, 2.0]  # Pendulum's torque
    assert np.ravel(updates[0][1]).tolist() == [1e3, -1e3, 0.5, 1e3]
    assert updates[0][0] is True


class InPlace(CountingEnv):
    """Fills one array again and again."""

    state = np.zeros(4, np.float32)

    def observe(self):
        self.state[:] = self.t
        return self.state


def test_observations_that_change_in_place_are_kept_as_they_were(monkeypatch):
    worker, _, _ = worker_of(discrete_A3C, monkeypatch, InPlace(3), max_ep=1)
    kept = []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, *arguments, **options):
        kept.extend(s[0] for s in bs)

    monkeypatch.setattr(discrete_A3C, "push_and_pull", push_and_pull)
    worker.run()
    assert kept == [0, 1, 2]


@pytest.mark.parametrize("module", [discrete_A3C, continuous_A3C])
def test_workers_seed_all_that_draws_random_numbers(monkeypatch, module):
    torch.manual_seed(0)
    drawn = []
    for name in (0, 1):
        worker, _, _ = worker_of(module, monkeypatch, CountingEnv(), name, max_ep=0)
        for _ in range(2):
            np.random.seed(0)  # as after a fork: both start from their parent's generators
            random.seed(0)
            worker.run()
            drawn.append((np.random.uniform(), random.random()))
    assert drawn[0] == drawn[1] and drawn[2] == drawn[3]
    assert drawn[0][0] != drawn[2][0] and drawn[0][1] != drawn[2][1]


def test_workers_have_names_and_seeds_of_their_own(monkeypatch):
    torch.manual_seed(0)
    runs = []
    for name in (0, 11, "w12"):
        env = CountingEnv(50)
        worker, _, _ = worker_of(discrete_A3C, monkeypatch, env, name, max_ep=1)
        # As after a fork: each process starts from its parent's generators.
        random.seed(0)
        torch.manual_seed(worker.name == "w11")
        worker.run()
        runs.append((worker.name, env.seeds[0], tuple(env.actions)))
    assert [name for name, _, _ in runs] == ["w00", "w11", "w12"]
    assert len({seed for _, seed, _ in runs}) == 3
    assert len({actions for _, _, actions in runs}) == 3


@pytest.mark.parametrize("module", [discrete_A3C, continuous_A3C])
def test_a_worker_leaves_ctrl_c_to_its_parent_before_all_else(monkeypatch, module):
    worker, _, _ = worker_of(module, monkeypatch, CountingEnv(), max_ep=0)
    called = []

    def follow_parent():
        called.append("follow_parent")

    def make_env(*args, **options):
        called.append("make_env")
        return CountingEnv()

    monkeypatch.setattr(module, "follow_parent", follow_parent)
    monkeypatch.setattr(module, "make_env", make_env)
    worker.run()
    assert called == ["follow_parent", "make_env"]


class Sleeper(mp.Process):
    """Not ours: records `n` episodes, then does what `end` says."""

    def __init__(self, name, shared, n=3, seconds=0.0, end=None):
        super().__init__(name=name)
        self.shared, self.n, self.seconds, self.end = shared, n, seconds, end

    def run(self):
        utils.follow_parent()
        global_ep, global_ep_r, queue = self.shared
        for _ in range(self.n):
            time.sleep(self.seconds)
            utils.record(global_ep, global_ep_r, 1.0, queue, self.name)
        if self.end == "raise":
            raise ZeroDivisionError("a bug in the environment")
        if self.end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.end == "threads":
            queue.put(torch.get_num_threads())
        if self.end == "ctrl-c":
            queue.put(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
        if self.end == "numpy":
            queue.put(np.float32(2))
            queue.put("a text of its own")
        if self.end == "unreadable":
            queue._writer.send_bytes(b"no pickle")
            time.sleep(30)
        queue.put(None)


def ctrl_c():
    """Return whether Ctrl-C is held back, and what it does."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return signal.SIGINT in blocked, signal.getsignal(signal.SIGINT)


@pytest.fixture
def restore_ctrl_c():
    """Put Ctrl-C back for the other tests, where a failing one leaves it changed."""
    _, handler = ctrl_c()
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGINT, handler)


def test_all_results_of_all_workers_arrive():
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, n, 0.002 * i) for i, n in enumerate([0, 500, 40])]
    res, seconds, failure = utils.run_workers(workers, everything[2])
    assert res == [1.0] * 540
    assert failure is None
    assert 0.08 < seconds < 30
    assert [w.exitcode for w in workers] == [0, 0, 0]


def test_more_results_than_the_queue_holds_do_not_block():
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, 5000) for i in range(2)]
    res, _, failure = utils.run_workers(workers, everything[2])
    assert (len(res), failure) == (10_000, None)


@pytest.mark.parametrize("end, told", [("raise", "exitcode=1"), ("kill", "SIGKILL")])
def test_a_worker_that_dies_stops_the_others_and_is_named(capfd, end, told):
    everything = shared()
    workers = [Sleeper("w00", everything, 10**6, 0.01), Sleeper("w01", everything, 5, 0.01, end)]
    res, seconds, failure = utils.run_workers(workers, everything[2])
    assert seconds < 5
    assert failure.startswith("Worker w01 died: ") and told in failure
    assert ("a bug in the environment" in capfd.readouterr().err) == (end == "raise")
    assert len(res) >= 5
    assert not any(w.is_alive() for w in workers)


def test_ctrl_c_ends_the_workers_and_keeps_the_results(restore_ctrl_c):
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, 10**6, 0.01) for i in range(2)]

    def interrupt():
        while everything[0].value < 10:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    res, seconds, failure = utils.run_workers(workers, everything[2])
    assert ctrl_c() == (False, signal.SIG_DFL)  # the next one ends the program at once
    assert failure == 130
    assert seconds < 5
    assert len(res) >= 10
    assert not any(w.is_alive() for w in workers)


def test_whatever_a_worker_queues_arrives():
    everything = shared()
    workers = [Sleeper("w00", everything, 1, 0, "numpy")]
    res, _, failure = utils.run_workers(workers, everything[2])
    assert (res, failure) == ([1.0, np.float32(2), "a text of its own"], None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_read_ends_the_run():
    everything = shared()
    workers = [
        Sleeper("w00", everything, 1, 0, "unreadable"),
        Sleeper("w01", everything, 10**6, 0.1),
    ]
    _, seconds, failure = utils.run_workers(workers, everything[2])
    assert seconds < 5 and "could not be read" in failure


class Unstartable(Sleeper):
    """Not ours: there is no process for it."""

    def start(self):
        raise OSError("no more processes")


def test_ctrl_c_is_as_it_was_after_a_run(restore_ctrl_c):
    before = ctrl_c()
    everything = shared()
    utils.run_workers([Sleeper("w00", everything)], everything[2])
    assert ctrl_c() == before


def test_a_worker_that_cannot_start_ends_the_others_and_leaves_ctrl_c_as_it_was(restore_ctrl_c):
    before = ctrl_c()
    assert before[0] is False
    everything = shared()
    workers = [Sleeper("w00", everything, 10**6, 0.01), Unstartable("w01", everything)]
    with pytest.raises(OSError, match="no more processes"):
        utils.run_workers(workers, everything[2])
    assert ctrl_c() == before
    assert workers[0].exitcode == -signal.SIGKILL


def test_workers_use_one_thread_also_where_torch_came_first():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        everything = shared()
        res, _, _ = utils.run_workers([Sleeper("w00", everything, 0, 0, "threads")], everything[2])
    finally:
        torch.set_num_threads(threads)
    assert res == [1]


def test_workers_leave_ctrl_c_to_the_parent():
    everything = shared()
    res, _, _ = utils.run_workers([Sleeper("w00", everything, 0, 0, "ctrl-c")], everything[2])
    assert res == [True]


def test_a_worker_may_run_without_a_process_of_its_own():
    threads = threading.active_count()
    handler = signal.getsignal(signal.SIGINT)
    utils.follow_parent()
    assert (threading.active_count(), signal.getsignal(signal.SIGINT)) == (threads, handler)


def test_a_worker_killed_while_it_writes_does_not_hang_the_parent():
    everything = shared()

    class Partial(Sleeper):
        def run(self):
            everything[2]._wlock.acquire()
            os.write(everything[2]._writer.fileno(), b"\x00\x00\x01\x00abc")
            os.kill(os.getpid(), signal.SIGKILL)

    workers = [Partial("w00", everything), Sleeper("w01", everything, 10**6, 0.01)]
    _, seconds, failure = utils.run_workers(workers, everything[2])
    assert seconds < 5
    assert "w00" in failure and "SIGKILL" in failure
    assert not workers[1].is_alive()
