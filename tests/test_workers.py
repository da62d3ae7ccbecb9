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


both = pytest.mark.parametrize("module", [discrete_A3C, continuous_A3C])


def shared():
    return mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()


def test_record_counts_averages_queues_and_prints(capsys):
    global_ep, global_ep_r, queue = shared()
    utils.record(global_ep, global_ep_r, 34.4, queue, "w00")
    utils.record(global_ep, global_ep_r, 134.4, queue, "w01")
    assert global_ep.value == 2
    assert queue.get() == pytest.approx(34.4)
    assert queue.get() == global_ep_r.value == pytest.approx(0.99 * 34.4 + 0.01 * 134.4)
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 34.40\nw01 Ep: 2 | Ep_r: 35.40\n"


@pytest.mark.parametrize(
    "ep_r, printed",
    [(-1234.567, "-1234.57"), (2e-5, "0.00"), (-1e20, "-100000000000000000000.00")],
)
def test_an_average_is_printed_with_two_decimals_and_no_exponent(ep_r, printed, capsys):
    utils.record(*shared()[:2], ep_r, mp.SimpleQueue(), "w00")
    assert capsys.readouterr().out == f"w00 Ep: 1 | Ep_r: {printed}\n"


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
    assert capsys.readouterr().out == "w00 Ep: 1 | Ep_r: 200.00\nw00 Ep: 2 | Ep_r: 200.00\n"


@pytest.mark.parametrize("ep_r", [None, np.ones(2), np.ones((2, 1)), torch.ones(3), [], ()])
def test_a_return_that_is_not_one_number_is_an_error_that_counts_nothing(ep_r, capsys):
    global_ep, global_ep_r, queue = mp.Value("i", 0), mp.Value("d", 7.0), mp.SimpleQueue()
    with pytest.raises(ValueError, match="^A reward must be one number, ") as error:
        utils.record(global_ep, global_ep_r, ep_r, queue, "w00")
    assert repr(ep_r) in str(error.value)
    assert (global_ep.value, global_ep_r.value, queue.empty()) == (0, 7.0, True)
    assert capsys.readouterr().out == ""
    assert global_ep.get_lock().acquire(False)  # other workers can go on


def test_a_run_that_is_continued_goes_on_from_its_average(capsys):
    global_ep, global_ep_r, queue = mp.Value("i", 100), mp.Value("d", 200.0), mp.SimpleQueue()
    for ep_r in (200.0, 200.0, 100.0):
        utils.record(global_ep, global_ep_r, ep_r, queue, "w00")
    assert [queue.get(), queue.get(), queue.get()] == pytest.approx([200.0, 200.0, 199.0])
    assert capsys.readouterr().out.splitlines() == [
        "w00 Ep: 101 | Ep_r: 200.00",
        "w00 Ep: 102 | Ep_r: 200.00",
        "w00 Ep: 103 | Ep_r: 199.00",
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

    An update is (done, actions, rewards). `states`, of the worker, lists what it observed: the
    first number of each observation.
    """
    updates, states = [], []

    def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
        assert len(bs) == len(ba) == len(br)
        updates.append((done, list(ba), list(br)))
        states.extend(s[0] for s in bs)

    monkeypatch.setattr(module, "make_env", lambda *args, **kwargs: env)
    monkeypatch.setattr(module, "push_and_pull", push_and_pull)
    monkeypatch.setattr(module, "MAX_EP", max_ep)
    gnet = module.Net(module.N_S, module.N_A).share_memory()
    queue = mp.SimpleQueue()
    worker = module.Worker(
        gnet, SharedAdam(gnet.parameters()), mp.Value("i", 0), mp.Value("d", 0.0), queue, name
    )
    worker.states = states
    return worker, updates, queue


class Paying(CountingEnv):
    """Four rewards below 0, whatever the action. Pendulum's has three numbers to observe."""

    rewards = [-2.0, -8.0, -4.0, -16.0]

    def __init__(self, module, truncates=False):
        super().__init__(4, truncates)
        self.size = module.N_S

    def observe(self):
        return np.zeros(self.size, np.float32)

    def step(self, action):
        s, _, *ended = super().step(action)
        return s, self.rewards[self.t - 1], *ended


@both
def test_the_learning_rate_falls_to_zero_and_not_below(monkeypatch, module):
    worker, _, _ = worker_of(module, monkeypatch, Paying(module), max_ep=5)
    group = worker.opt.param_groups[0]
    rates = []

    def push_and_pull(*arguments, **options):
        rates.append(group["lr"])

    monkeypatch.setattr(module, "push_and_pull", push_and_pull)
    monkeypatch.setattr(module, "LR", 0.5)
    worker.run()
    assert rates == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])

    class Counter:  # other workers count two episodes between two looks at it
        value = property(lambda counter: next(looks))

    looks = iter([4, 6, 6])
    worker.g_ep = Counter()
    monkeypatch.setattr(module, "record", lambda *arguments: None)
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


@pytest.mark.parametrize("fall, learned", [(None, [0.25, 0.25, 0.25]), (-2.0, [0.25, 0.25, -0.5])])
def test_the_reward_for_a_fall_is_a_constant_and_is_scaled_as_others(monkeypatch, fall, learned):
    monkeypatch.setattr(discrete_A3C, "FALL_REWARD", fall)
    monkeypatch.setattr(discrete_A3C, "REWARD_SCALE", 4.0)
    worker, updates, queue = worker_of(discrete_A3C, monkeypatch, CountingEnv(3))
    worker.run()
    assert updates[0][2] == learned
    assert queue.get() == 3.0


def test_rewards_of_pendulum_are_divided_by_16_for_learning_only(monkeypatch):
    env = Paying(continuous_A3C, truncates=True)
    worker, updates, queue = worker_of(continuous_A3C, monkeypatch, env)
    worker.run()
    # The same in both episodes: the scale does not depend on what was paid before.
    assert [rewards for _, _, rewards in updates] == [[-0.125, -0.5, -0.25, -1.0]] * 2
    assert [done for done, _, _ in updates] == [False, False]  # a time limit is not terminal
    assert [queue.get(), queue.get()] == [-30.0, -30.0]
    assert worker.n_steps.value == 8


@pytest.mark.parametrize("a_type", [np.float32, np.float64])
def test_continuous_actions_are_clipped_and_cast_for_the_environment_only(monkeypatch, a_type):
    drawn = np.float32([1e3, -1e3, 0.5, 1e3])

    class Overwriting(Paying):
        def step(self, action):
            assert action.shape == (1,) and action.dtype == a_type
            seen.append(action.item())
            action[:] = 9
            return super().step(action)

    seen, far = [], iter(drawn)
    monkeypatch.setattr(
        continuous_A3C.Net, "choose_action", lambda net, s: np.full(1, next(far), np.float32)
    )
    monkeypatch.setattr(continuous_A3C, "A_TYPE", a_type)
    env = Overwriting(continuous_A3C)
    worker, updates, _ = worker_of(continuous_A3C, monkeypatch, env, max_ep=1)
    worker.run()
    assert seen == [2.0, -2.0, 0.5, 2.0]  # Pendulum's torque
    ((done, actions, _),) = updates
    assert np.ravel(actions).tolist() == drawn.tolist() and actions[0].dtype == np.float32
    assert done is True


class InPlace(CountingEnv):
    """Fills one array of observations, and one of a reward, again and again."""

    def __init__(self, module):
        super().__init__(3, truncates=True)
        self.state = np.zeros(module.N_S, np.float32)
        self.pay = np.zeros(1)

    def observe(self):
        self.state[:] = self.t
        return self.state

    def step(self, action):
        s, _, *ended = super().step(action)
        self.pay[:] = 16 * self.t
        return s, self.pay, *ended


@both
def test_what_changes_in_place_is_kept_as_it_was(monkeypatch, module):
    worker, updates, queue = worker_of(module, monkeypatch, InPlace(module), max_ep=1)
    monkeypatch.setattr(module, "REWARD_SCALE", 16.0)
    worker.run()
    ((_, _, rewards),) = updates
    assert worker.states == [0, 1, 2]
    assert rewards == [1, 2, 3]
    assert queue.get() == 96.0


@both
def test_worker_w00_shows_its_environment_where_render_is_true(monkeypatch, module):
    shown = []
    for render, name in ((True, 0), (True, 1), (False, 0)):
        worker, _, _ = worker_of(module, monkeypatch, CountingEnv(), name, max_ep=0)
        monkeypatch.setattr(module, "RENDER", render)
        monkeypatch.setattr(module, "make_env", lambda r: shown.append(r) or CountingEnv())
        worker.run()
    assert shown == [True, False, False]


@both
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
    for name in (0, 11, 100):
        env = CountingEnv(50)
        worker, _, _ = worker_of(discrete_A3C, monkeypatch, env, name, max_ep=1)
        # As after a fork: each process starts from its parent's generators.
        random.seed(0)
        torch.manual_seed(worker.name == "w11")
        worker.run()
        runs.append((worker.name, env.seeds[0], tuple(env.actions)))
    assert [name for name, _, _ in runs] == ["w00", "w11", "w100"]
    assert len({seed for _, seed, _ in runs}) == 3
    assert len({actions for _, _, actions in runs}) == 3


@both
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
        if self.end == "unreadable, the last":
            queue._writer.send_bytes(b"no pickle")
        queue.put(None)


def gather(workers, everything):
    """Run `workers`; return what they queued, what run_workers exits with, and the seconds."""
    res, code = [], None
    begin = time.perf_counter()
    try:
        assert utils.run_workers(workers, everything[2], res) is None
    except SystemExit as end:
        code = end.code
    return res, code, time.perf_counter() - begin


@pytest.fixture
def ctrl_c():
    """Return a function that returns what answers Ctrl-C: Python, also where a shell ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, handler)


def test_all_results_of_all_workers_arrive(ctrl_c):
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, n, 0.002 * i) for i, n in enumerate([0, 500, 40])]
    res, code, seconds = gather(workers, everything)
    assert res == [1.0] * 540
    assert code is None
    assert 0.08 < seconds < 30
    assert [w.exitcode for w in workers] == [0, 0, 0]
    assert ctrl_c() == signal.default_int_handler


def test_more_results_than_the_queue_holds_do_not_block():
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, 5000) for i in range(2)]
    res, code, _ = gather(workers, everything)
    assert (len(res), code) == (10_000, None)


def test_results_are_added_to_what_is_there():
    everything = shared()
    res = [5.0]
    utils.run_workers([Sleeper("w00", everything, 2)], everything[2], res)
    assert res == [5.0, 1.0, 1.0]


@pytest.mark.parametrize("end, told", [("raise", "exitcode=1"), ("kill", "SIGKILL")])
def test_a_worker_that_dies_stops_the_others_and_is_named(ctrl_c, capfd, end, told):
    everything = shared()
    workers = [Sleeper("w00", everything, 10**6, 0.01), Sleeper("w01", everything, 5, 0.01, end)]
    res, code, seconds = gather(workers, everything)
    assert seconds < 5
    assert code.startswith("Worker w01 died: ") and told in code
    assert ("a bug in the environment" in capfd.readouterr().err) == (end == "raise")
    assert len(res) >= 5
    assert not any(w.is_alive() for w in workers)
    assert ctrl_c() == signal.default_int_handler


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "death, argument, told", [(os.rmdir, "", "exitcode=1"), (signal.raise_signal, 9, "SIGKILL")]
)
def test_deaths_are_seen_with_every_start_method(method, death, argument, told):
    # Processes without torch: they start fast.
    start = mp.get_context(method).Process
    workers = [
        start(name="w00", target=time.sleep, args=(30,)),
        start(name="w01", target=death, args=(argument,)),
        start(name="w02", target=time.sleep, args=(30,)),
    ]
    _, code, seconds = gather(workers, shared())
    assert code.startswith("Worker w01 died: ") and told in code
    assert seconds < 20
    assert [w.exitcode for w in (workers[0], workers[2])] == [-signal.SIGKILL] * 2


def test_ctrl_c_ends_the_workers_and_has_no_effect_until_all_is_saved(ctrl_c, capsys):
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, 10**6, 0.01) for i in range(2)]

    def interrupt():
        while everything[0].value < 10:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    res, code, seconds = gather(workers, everything)
    assert code == 130
    assert seconds < 5
    assert len(res) >= 10
    assert not any(w.is_alive() for w in workers)
    assert capsys.readouterr().out == "Saving ...\n"
    assert ctrl_c() == signal.SIG_IGN
    assert utils.save_results(None, [], "Mine-v0", "") is True  # nothing, and Ctrl-C is back
    assert ctrl_c() == signal.default_int_handler


def test_workers_may_be_run_by_a_thread_that_is_not_the_main_one(ctrl_c):
    everything = shared()
    workers = [Sleeper(f"w{i:02d}", everything, 3, 0.01) for i in range(2)]
    returned = []

    def run():
        returned.append(gather(workers, everything))
        returned.append(utils.save_results(None, [], "Mine-v0", ""))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=20)
    (res, code, _), saved = returned
    assert (res, code, saved) == ([1.0] * 6, None, True)
    assert ctrl_c() == signal.default_int_handler


def test_whatever_a_worker_queues_arrives():
    everything = shared()
    res, code, _ = gather([Sleeper("w00", everything, 1, 0, "numpy")], everything)
    assert (res, code) == ([1.0, np.float32(2), "a text of its own"], None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_read_ends_the_run():
    everything = shared()
    workers = [
        Sleeper("w00", everything, 1, 0, "unreadable"),
        Sleeper("w01", everything, 10**6, 0.1),
    ]
    _, code, seconds = gather(workers, everything)
    assert seconds < 5 and "could not be read" in code
    assert not any(w.is_alive() for w in workers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_read_at_the_very_end_is_told_too():
    everything = shared()
    _, code, _ = gather([Sleeper("w00", everything, 1, 0, "unreadable, the last")], everything)
    assert "could not be read" in code


class Unstartable(Sleeper):
    """Not ours: there is no process for it."""

    def start(self):
        raise OSError("no more processes")


def test_a_worker_that_cannot_start_ends_the_others_and_leaves_ctrl_c_as_it_was(ctrl_c):
    everything = shared()
    workers = [Sleeper("w00", everything, 10**6, 0.01), Unstartable("w01", everything)]
    with pytest.raises(OSError, match="no more processes"):
        utils.run_workers(workers, everything[2], [])
    assert ctrl_c() == signal.default_int_handler
    assert workers[0].exitcode == -signal.SIGKILL


def test_workers_use_one_thread_also_where_torch_came_first():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        everything = shared()
        res, _, _ = gather([Sleeper("w00", everything, 0, 0, "threads")], everything)
    finally:
        torch.set_num_threads(threads)
    assert res == [1]


def test_workers_leave_ctrl_c_to_the_parent(ctrl_c):
    everything = shared()
    res, _, _ = gather([Sleeper("w00", everything, 0, 0, "ctrl-c")], everything)
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

    threads = threading.enumerate()
    workers = [Partial("w00", everything), Sleeper("w01", everything, 10**6, 0.01)]
    _, code, seconds = gather(workers, everything)
    assert seconds < 5
    assert "w00" in code and "SIGKILL" in code
    assert not workers[1].is_alive()
    # Not even at its end: the thread that reads for ever is a daemon.
    assert [thread.daemon for thread in threading.enumerate() if thread not in threads] == [True]
