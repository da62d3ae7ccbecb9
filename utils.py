"""What both scripts share. S3 is Algorithm S3 of Mnih et al. 2016 (arXiv:1602.01783)."""

import io
import math
import os
import random
import signal
import sys
import threading
import time
import warnings
from importlib.util import find_spec
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp

warnings.filterwarnings("ignore", message=".*(is out of date|non-interactive)")  # gym, plt.show()


def v_wrap(np_array, dtype=np.float32):
    """Return a tensor over `np_array`, of any shape, cast to `dtype` first where it differs."""
    return torch.from_numpy(np.asarray(np_array, dtype=dtype))


def set_init(layers):
    """Draw the weights of `layers` from N(0, 0.1), 0.1 the standard deviation; biases are 0."""
    for layer in layers:
        torch.nn.init.normal_(layer.weight, mean=0.0, std=0.1)
        torch.nn.init.constant_(layer.bias, 0.0)


def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
    """Push the gradients of n steps to the global network, then pull its weights.

    S3 but for acting (tutorial: "Training Loop").

    opt            optimizer of the global network's parameters
    lnet, gnet     local and global network; lnet.loss_func gets observations (n, ...), actions as
                   actions_to_tensor returns them, and returns (n, 1)
    done           whether `s_` is terminal; at a time limit it is not
    s_             the observation after the n steps (without a batch axis)
    bs, ba, br     lists of n observations, n actions, n rewards
    gamma          discount factor
    max_grad_norm  the largest L2 norm of all gradients together; None: any

    FloatingPointError: the loss is not finite; then `gnet` is as it was.
    """
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm = {max_grad_norm!r}: use a number above 0, or None.")
    if done:
        v_s_ = 0.0  # S3: R = 0 for terminal state
    else:
        with torch.no_grad():
            v_s_ = lnet(v_wrap(np.asarray(s_)[None]))[-1].item()  # S3: bootstrap from last state
    buffer_v_target = []
    for r in reversed(br):  # S3: for i, backwards
        v_s_ = r + gamma * v_s_  # S3: R = r_i + gamma R
        buffer_v_target.append(v_s_)
    buffer_v_target.reverse()
    v_t = v_wrap(np.reshape(buffer_v_target, (-1, 1)))
    loss = lnet.loss_func(v_wrap(np.array(bs)), actions_to_tensor(ba), v_t)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"The loss is {loss.item()}: turn down LR, or set MAX_GRAD_NORM.")

    # Not opt.zero_grad(): it clears the gradients of gnet, and those of lnet pile up.
    lnet.zero_grad()  # S3: reset gradients
    loss.backward()
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(lnet.parameters(), max_grad_norm, error_if_nonfinite=True)
    # The weights of gnet lie in shared memory, but each process has its own `.grad` of them: no
    # worker overwrites the gradients of another.
    for lp, gp in zip(lnet.parameters(), gnet.parameters()):
        gp.grad = lp.grad
    opt.step()  # S3: asynchronous update
    with torch.no_grad():
        for lp, gp in zip(lnet.parameters(), gnet.parameters()):
            lp.copy_(gp)  # S3: synchronize parameters
        # Buffers, such as BatchNorm's running mean, have no gradients: the last writer wins.
        for lb, gb in zip(lnet.buffers(), gnet.buffers()):
            gb.copy_(lb)


def actions_to_tensor(ba):
    """Return a list of n actions, as choose_action returned them, as a tensor."""
    a = np.array(ba)
    if a.ndim == 1 and a.dtype.kind in "iub":
        return v_wrap(a, np.int64)  # one choice a step, as Categorical scores it: (n,)
    if a.dtype in (np.int32, np.int64):
        return v_wrap(a, np.int64)  # several choices a step: (n, number of choices)
    # Numbers, as Normal scores them, or switches (int8, bool), as Bernoulli does: (n, dim).
    return v_wrap(a.reshape(len(a), -1))


def record(global_ep, global_ep_r, ep_r, res_queue, name):
    """Count an episode of return `ep_r`, a number; update the moving average, queue and print it.

    To continue a run, restore `global_ep` and `global_ep_r`: above episode 0 the average goes on.
    """
    ep_r = np.asarray(ep_r, dtype=float).item()
    with global_ep.get_lock():  # one lock for both, so that they agree
        # S3: count T, here in episodes
        global_ep.value += 1
        global_ep_r.value = ep_r if global_ep.value == 1 else 0.99 * global_ep_r.value + 0.01 * ep_r
        res_queue.put(global_ep_r.value)
        print(f"{name} Ep: {global_ep.value} | Ep_r: {global_ep_r.value:.0f}", flush=True)


def check_constants(n, gamma, max_ep, lr, betas, entropy_beta, clip, n_workers, seed, render):
    """Exit with a sentence on the first constant that cannot work; return all in a line of text."""
    ranges = [
        ("UPDATE_GLOBAL_ITER", n, Integral, 1, math.inf),
        ("GAMMA", gamma, Real, 0, 1),
        ("MAX_EP", max_ep, Integral, 1, math.inf),
        ("LR", lr, Real, 1e-12, 1),
        ("ENTROPY_BETA", entropy_beta, Real, 0, 1e12),
        ("MAX_GRAD_NORM", math.inf if clip is None else clip, Real, 1e-12, math.inf),
        ("N_WORKERS", n_workers, Integral, 1, math.inf),
        ("SEED", seed, Integral, 0, 2**63 - 1),
        ("RENDER", render, bool, False, True),
    ]
    for name, value, kind, low, high in ranges:
        if not isinstance(value, kind) or not low <= value <= high:
            what = "a whole number" if kind is Integral else "a value"
            sys.exit(f"{name} = {value!r}: use {what} from {low} to {high}.")
    if np.shape(betas) != (2,) or not all(isinstance(b, Real) and 0 <= b < 1 for b in betas):
        sys.exit(f"BETAS = {betas!r}: use two numbers from 0 to below 1, such as (0.92, 0.999).")
    if render and find_spec("pygame") is None:
        sys.exit("RENDER = True needs pygame: `pip install pygame`, or set RENDER = False.")
    text = f"UPDATE_GLOBAL_ITER = {n}, GAMMA = {gamma}, LR = {lr}, BETAS = {betas}, ENTROPY_BETA = "
    return f"{text}{entropy_beta}, MAX_GRAD_NORM = {clip}, N_WORKERS = {n_workers}, SEED = {seed}"


def make_env(make, env_name, space, render=False):
    """Return gym's `make(env_name)`, or exit with a sentence if its actions are not of `space`."""
    options = {"render_mode": "human"} if render else {}
    try:
        env = make(str(env_name), disable_env_checker=True, **options)
    except Exception as error:
        if not isinstance(error, ImportError) and "gym" not in type(error).__module__:
            raise
        sys.exit(f"ENV_NAME = {env_name!r}: change it, or install what it needs ({error}).")
    a, s = env.action_space, env.observation_space
    bounded = not hasattr(a, "is_bounded") or a.is_bounded()
    vectors = len(a.shape or ()) < 2 and len(s.shape or ()) == 1
    if not isinstance(a, space) or not bounded or not vectors or getattr(a, "start", 0) != 0:
        needs = f"bounded {space.__name__} actions (Discrete: from 0 on) and observations (n,)"
        sys.exit(f"ENV_NAME = {env_name!r}: {a}, {s}. Use {needs}, or the other script.")
    return env


def seed_all(seed):
    """Seed all random numbers of this process: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # it takes no larger one
    random.seed(seed)


def follow_parent():
    """Leave Ctrl-C to the parent, and end when it ends: the first line of a worker's `run`."""

    def end_with_parent():
        mp.parent_process().join()
        os._exit(1)

    if mp.parent_process() is not None:  # run() may be called without a process of its own
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=end_with_parent, daemon=True).start()
        torch.set_num_threads(1)  # for a notebook, where torch comes before OMP_NUM_THREADS


def run_workers(workers, res_queue):
    """Start `workers`, gather what they put on `res_queue` until all end, and leave none running.

    Returns the results (but for None), the seconds, and the failure for sys.exit(): 130 after
    Ctrl-C, a sentence on the worker that died (its traceback stands above), or None.
    """
    begin = time.perf_counter()
    results = []
    failure = None
    running = True

    def interrupt(signum, frame):
        nonlocal failure
        failure = 130

    def gather():
        while running or not res_queue.empty():
            time.sleep(0.01)
            while not res_queue.empty():
                results.append(res_queue.get())

    reader = threading.Thread(target=gather, daemon=True)  # a put() that is killed blocks get()
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        start(workers)
        reader.start()
        while running and failure is None:
            time.sleep(0.01)
            running = any(worker.is_alive() for worker in workers)
            for worker in workers:
                if worker.exitcode:
                    failure = f"Worker {worker.name} died: {worker}"
            if not reader.is_alive():
                failure = "What a worker put on the queue could not be read: see the error above."
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        running = False
        # A second Ctrl-C leaves at once.
        signal.signal(signal.SIGINT, signal.SIG_DFL if failure == 130 else previous)
    reader.join(timeout=2)
    return [r for r in results if r is not None], time.perf_counter() - begin, failure


def start(workers):
    """Start `workers`. Ctrl-C waits until all have started, so that it meets none half-way."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for worker in workers:
            worker.start()
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def evaluate(net, env, seed, episodes=10, max_steps=10_000):
    """Return the mean return of `net`'s greedy policy; an episode ends after `max_steps`."""
    total = 0.0
    for episode in range(episodes):
        s, _ = env.reset(seed=seed + episode)
        for _ in range(max_steps):
            s, r, terminated, truncated, _ = env.step(net.choose_action(v_wrap(s[None]), True))
            total += r
            if terminated or truncated:
                break
    return total / episodes


def save_results(net, res, env_name, title, threshold=None):
    """Save in results/ the weights of `net` and a picture of `res`; return whether it worked."""
    stem = env_name.replace("/", "-").replace(":", "-")
    weights, picture = io.BytesIO(), io.BytesIO()
    torch.save(net.state_dict(), weights)
    saved = write_whole(f"{stem}.pt", weights)
    try:
        fig, ax = plt.subplots(figsize=(11, 6))
    except Exception:  # the display is gone: each window toolkit raises an error of its own
        plt.switch_backend("agg")
        fig, ax = plt.subplots(figsize=(11, 6))
    ax.plot(range(1, len(res) + 1), res, label="moving average (0.99)")
    if threshold is not None:
        ax.axhline(threshold, color="gray", linestyle="--", label=f"solved: {threshold:g}")
    ax.set(xlabel="Episode", ylabel="Return")
    ax.set_title(f"{env_name}\n{title}", size=9)
    ax.legend()
    fig.savefig(picture)
    return write_whole(f"{stem}.png", picture) and saved


def write_whole(name, data):
    """Write the BytesIO `data` to results/`name`, whole or not at all; return if it worked."""
    path = Path(__file__).resolve().parent / "results" / name
    part = path.with_name(f"{name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(data.getvalue())
        part.replace(path)
    except OSError as error:
        print(f"Not saved: {error}. Make room, or make results/ writable.", file=sys.stderr)
        if part.exists():
            part.unlink()
        return False
    print(f"Saved {path}", flush=True)
    return True
