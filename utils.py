"""What both scripts share. S3 is Algorithm S3 of Mnih et al. 2016 (arXiv:1602.01783)."""

import functools
import importlib.util
import io
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
from torch import nn


def v_wrap(np_array, dtype=np.float32):
    """Return a tensor over `np_array`, of any shape, cast to `dtype` first where it differs."""
    return torch.from_numpy(np.asarray(np_array, dtype=dtype))


def set_init(layers):
    """Draw the weights of `layers` from N(0, 0.1), 0.1 the standard deviation; biases are 0."""
    for layer in layers:
        nn.init.normal_(layer.weight, mean=0.0, std=0.1)
        nn.init.constant_(layer.bias, 0.0)


def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, max_grad_norm=None):
    """Update `gnet` by the gradients of `lnet` over n steps, then copy `gnet` into `lnet`.

    S3 from "R = 0 for terminal s_t" on (tutorial: "Training Loop"). `bs`, `ba`, `br` list n
    observations, actions, rewards; `done`: `s_`, which follows, is terminal; a time limit is not.
    `lnet.loss_func` gets observations (n, ...), actions, int64 (n,) or float32 (n, dim), and
    n-step returns (n, 1). `max_grad_norm` clips the gradient's L2 norm. FloatingPointError: the
    loss is not finite, and `gnet` left alone. Only parameters are pulled: buffers stay local.
    """
    v_s_ = 0.0
    if not done:
        with torch.no_grad():
            v_s_ = lnet(v_wrap(np.asarray(s_)[None]))[-1].item()
    buffer_v_target = []
    for r in reversed(br):
        v_s_ = r + gamma * v_s_  # S3: R <- r_i + gamma R
        buffer_v_target.insert(0, v_s_)
    a = np.array(ba)
    a = v_wrap(a, np.int64) if a.dtype.kind in "iub" else v_wrap(a.reshape(len(a), -1))
    loss = lnet.loss_func(v_wrap(np.array(bs)), a, v_wrap(np.reshape(buffer_v_target, (-1, 1))))
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"The loss is {loss.item()}: turn down LR, or set MAX_GRAD_NORM.")

    pairs = list(zip(lnet.parameters(), gnet.parameters()))  # one walk, which costs, for all loops
    for lp, _ in pairs:  # lnet.zero_grad(): without it local gradients pile up, and opt.zero_grad()
        lp.grad = None  # clears only the global ones
    loss.backward()
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(lnet.parameters(), max_grad_norm, error_if_nonfinite=True)
    for lp, gp in pairs:
        gp.grad = lp.grad
    opt.step()
    with torch.no_grad():  # a third of the time of load_state_dict
        for lp, gp in pairs:
            lp.copy_(gp)


def record(global_ep, global_ep_r, ep_r, res_queue, name):
    """Count an episode of return `ep_r`, update the 0.99 moving average, queue it, print it."""
    with global_ep.get_lock():  # one lock for all, so that they agree
        global_ep.value += 1
        global_ep_r.value = ep_r if global_ep.value == 1 else 0.99 * global_ep_r.value + 0.01 * ep_r
        res_queue.put(global_ep_r.value)
        print(f"{name} Ep: {global_ep.value} | Ep_r: {global_ep_r.value:.0f}", flush=True)


def check_constants(c):
    """Exit with what to change where a constant in `c`, a script's globals(), is out of range."""
    ranges = {"UPDATE_GLOBAL_ITER": (1, math.inf), "GAMMA": (0.0, 1.0), "MAX_EP": (1, math.inf)}
    ranges |= {"LR": (1e-12, 1e12), "N_WORKERS": (1, math.inf), "SEED": (0, 2**63 - 1)}
    ranges |= {} if c["MAX_GRAD_NORM"] is None else {"MAX_GRAD_NORM": (1e-12, math.inf)}
    for name, (low, high) in ranges.items():
        if not (isinstance(c[name], (int, type(low))) and low <= c[name] <= high):
            sys.exit(f"{name} = {c[name]!r}: use any {type(low).__name__}, {low:g} to {high:g}.")
    if c["RENDER"] and importlib.util.find_spec("pygame") is None:
        sys.exit("RENDER = True needs pygame: `pip install pygame`, or set RENDER = False.")


def make_env(gym, env_name, space, render=False):
    """Make `env_name` by `gym` (gym or gymnasium) for actions of `space`, or exit and say why."""
    warnings.filterwarnings("ignore", message=".*is out of date")  # the tutorial's CartPole-v0
    window = {"render_mode": "human"} if render else {}
    try:
        env = gym.make(str(env_name), disable_env_checker=True, **window)
    except (gym.error.Error, ImportError) as error:
        sys.exit(f"ENV_NAME = {env_name!r}: change it, or install what it needs ({error}).")
    a, s = env.action_space, env.observation_space
    bounded = np.isfinite([getattr(a, "low", 0.0), getattr(a, "high", 0.0)]).all()
    if not (isinstance(a, space) and bounded and len(a.shape) < 2 and len(s.shape or ()) == 1):
        needs = f"bounded {space.__name__} actions and observations (n,), or run the other script"
        sys.exit(f"ENV_NAME = {env_name!r} has actions {a}, observations {s}: take one of {needs}.")
    return env


def guard(worker, res_queue):
    """Run `worker`; end it with its parent, and hand the parent the traceback of an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)  # for a notebook, where torch comes before OMP_NUM_THREADS
    threading.Thread(target=lambda: mp.parent_process().join() or os._exit(1), daemon=True).start()
    try:
        type(worker).run(worker)
    except Exception:
        res_queue.put(Exception(f"{traceback.format_exc()}Worker {worker.name} raised this."))
        sys.exit(1)


def run_workers(workers, res_queue):
    """Run `workers`; return what they queue, seconds, and for sys.exit() None, a text or 130."""
    entries, failures, running, ended = [], [], True, threading.Event()

    def gather():  # in a thread: get() waits for ever where a worker is killed while it writes
        while not (ended.is_set() and res_queue.empty()):
            time.sleep(0.01)
            while not res_queue.empty():
                entries.append(res_queue.get())

    reader, start = threading.Thread(target=gather, daemon=True), time.perf_counter()
    previous = signal.signal(signal.SIGINT, lambda *_: failures.append(130))
    mask = getattr(signal, "pthread_sigmask", lambda *_: None)  # Windows has none
    mask(getattr(signal, "SIG_BLOCK", 0), [signal.SIGINT])  # Ctrl-C waits until all have started
    for w in workers:
        w.run, w.daemon = functools.partial(guard, w, res_queue), True
        w.start()
    reader.start()
    mask(getattr(signal, "SIG_UNBLOCK", 0), [signal.SIGINT])
    while running:
        time.sleep(0.01)
        running = any(w.is_alive() for w in workers)
        failures += [f"Worker {w.name} died: {w}" for w in workers if w.exitcode]
        failures += [] if reader.is_alive() else ["What a worker queued could not be read."]
        for w in workers if failures else []:
            w.kill()
    signal.signal(signal.SIGINT, signal.SIG_DFL if 130 in failures else previous)  # 2nd: at once
    ended.set()
    reader.join(timeout=1)
    texts = [str(entry) for entry in entries if isinstance(entry, Exception)]
    res = [r for r in entries if not (r is None or isinstance(r, Exception))]
    return res, time.perf_counter() - start, (texts + failures + [None])[0]


def evaluate(net, env, seed, episodes=10, max_steps=10_000):
    """Return the mean return of `net`'s greedy policy; an episode ends after `max_steps`."""
    total, (s, _) = 0.0, env.reset(seed=seed)
    for _ in range(episodes):
        for _ in range(max_steps):
            s, r, terminated, truncated, _ = env.step(net.choose_action(v_wrap(s[None, :]), True))
            total += r
            if terminated or truncated:
                break
        s, _ = env.reset()
    return total / episodes


def save_results(net, res, c, threshold):
    """Save weights and picture in results/, each whole or not at all; return whether it worked."""
    warnings.filterwarnings("ignore", message=".*non-interactive")  # plt.show() with no display
    try:
        fig, ax = plt.subplots(figsize=(11, 6))
    except Exception:  # the display is gone
        plt.switch_backend("agg")
        fig, ax = plt.subplots(figsize=(11, 6))
    ax.plot(range(1, len(res) + 1), res, label="moving average (0.99)")
    if threshold is not None:
        ax.axhline(threshold, color="gray", linestyle="--", label=f"solved: {threshold:g}")
    names = "UPDATE_GLOBAL_ITER GAMMA LR BETAS ENTROPY_BETA MAX_GRAD_NORM N_WORKERS SEED".split()
    ax.set(xlabel="Episode", ylabel="Return")
    ax.set_title(c["ENV_NAME"] + "\n" + ", ".join(f"{n} = {c[n]}" for n in names), size=9)
    ax.legend()
    folder = Path(__file__).resolve().parent / "results"
    stem = folder / c["ENV_NAME"].replace("/", "-").replace(":", "-")
    files = {".pt": functools.partial(torch.save, net.state_dict()), ".png": fig.savefig}
    for suffix, write in files.items():
        data, path, part = io.BytesIO(), Path(f"{stem}{suffix}"), Path(f"{stem}{suffix}.part")
        write(data)
        try:
            folder.mkdir(exist_ok=True)
            part.write_bytes(data.getvalue())
            part.replace(path)
            print(f"Saved {path}")
        except OSError as error:
            if folder.is_dir():
                part.unlink(missing_ok=True)
            print(f"Not saved: {error}. Make room, or make results/ writable.", file=sys.stderr)
            return False
    return True
