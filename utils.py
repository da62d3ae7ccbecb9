"""What the scripts share. S3 is Algorithm S3 of Mnih et al. 2016 (arXiv:1602.01783).

A3C itself    v_wrap, set_init, push_and_pull, record: read these with the tutorial
A run         check_constants, check_env, seed_all, follow_parent, run_workers
Its results   evaluate, new_run, save_results
"""

import json
import math
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from itertools import count
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
from torch.nn.utils import clip_grad_norm_

# A3C itself


def v_wrap(np_array, dtype=np.float32):
    """Return an array (or a list) as a tensor; an array of that dtype shares its memory."""
    return torch.from_numpy(np.asarray(np_array, dtype=dtype))


def set_init(layers):
    """Draw weights from a normal distribution with standard deviation 0.1; set biases to 0."""
    for layer in layers:
        torch.nn.init.normal_(layer.weight, mean=0.0, std=0.1)
        torch.nn.init.constant_(layer.bias, 0.0)


def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
    """Push the gradients of n steps to the global network, then pull its weights.

    Everything in Algorithm S3 except acting (tutorial: "Training Loop").

    opt            optimizer of the global network
    lnet, gnet     local and global network; the last output of forward is V(s), (n, 1)
    done           True if s_ is terminal; False at a time limit
    s_             state after the n steps
    bs, ba, br     lists of n states, actions and rewards
    gamma          discount factor
    max_grad_norm  clip gradients to this L2 norm; None: don't clip

    Returns a dict of numbers to look at: lnet.log, if loss_func sets it, and, with max_grad_norm,
    the "gradient norm" before clipping. Raises ValueError if V(s) is not (n, 1), and
    FloatingPointError if the loss is not finite; neither changes gnet.
    """
    with torch.no_grad():  # if done, only its shape is looked at
        value = lnet(v_wrap(bs[-1] if done else s_)[None])[-1]
    if value.shape != (1, 1):
        shape = tuple(value.shape)
        raise ValueError(
            f"The last output of forward must be V(s), (n, 1); with n = 1 it is {shape}."
        )
    R = 0.0 if done else value.item()  # S3: R = 0 for terminal state, or bootstrap from last state
    returns = []
    for r in reversed(br):  # S3: for i, backwards
        R = r + gamma * R  # S3: R = r_i + gamma R
        returns.append(R)
    returns.reverse()

    a = np.array(ba)
    if np.issubdtype(a.dtype, np.integer):
        a = v_wrap(a, np.int64)  # discrete actions, (n,)
    else:
        a = v_wrap(a.reshape(len(ba), -1))  # continuous actions, (n, a_dim)
    s, v_t = v_wrap(np.array(bs)), v_wrap(returns).view(-1, 1)
    loss = lnet.loss_func(s, a, v_t)
    if not loss.isfinite():
        raise FloatingPointError(
            f"The loss is {loss.item()}; the largest state is {s.abs().max():g}, the largest "
            f"return {v_t.abs().max():g}. Check states and rewards first, then lower LR."
        )

    # Not opt.zero_grad(): it clears the gradients of gnet, and those of lnet would add up.
    lnet.zero_grad()  # S3: reset gradients
    loss.backward()
    log = dict(getattr(lnet, "log", {}))
    if max_grad_norm is not None:
        norm = clip_grad_norm_(lnet.parameters(), max_grad_norm, error_if_nonfinite=True)
        log["gradient norm"] = norm.item()
    # Push. The weights of gnet are in shared memory; their .grad is private to each process.
    for lp, gp in zip(lnet.parameters(), gnet.parameters()):
        gp.grad = lp.grad
    for lb, gb in zip(lnet.buffers(), gnet.buffers()):
        gb.copy_(lb)  # BatchNorm's running mean, say: buffers have no gradients
    opt.step()  # S3: asynchronous update
    with torch.no_grad():  # pull
        for lp, gp in zip(lnet.parameters(), gnet.parameters()):
            lp.copy_(gp)  # S3: synchronize parameters
    return log


def record(global_ep, global_ep_r, ep_r, res_queue, name, log=()):
    """Count an episode of return ep_r; print and queue the moving average of all returns.

    log lists what push_and_pull returned in this episode. If given, a row is queued instead of the
    average: a dict of return, average and the mean of each number in log.
    """
    ep_r = np.asarray(ep_r).item()  # some environments return rewards as arrays
    with global_ep.get_lock():  # one lock for both values, so that they agree
        global_ep.value += 1  # S3: count T, here in episodes
        if global_ep.value == 1:
            global_ep_r.value = ep_r
        else:
            global_ep_r.value = 0.99 * global_ep_r.value + 0.01 * ep_r
        if log:
            row = {"return": ep_r, "average": global_ep_r.value}
            for key in log[0]:
                row[key] = float(sum(numbers[key] for numbers in log) / len(log))
            res_queue.put(row)
        else:
            res_queue.put(global_ep_r.value)
        print(f"{name} Ep: {global_ep.value} | Ep_r: {global_ep_r.value:.2f}", flush=True)


# A run: nothing below is needed to understand A3C

LIMITS = {  # of constants: type, lowest and highest value
    "UPDATE_GLOBAL_ITER": (Integral, 1, math.inf),
    "GAMMA": (Real, 0, 1),
    "MAX_EP": (Integral, 1, math.inf),
    "LR": (Real, 1e-12, 1),
    "ENTROPY_BETA": (Real, 0, 1e6),
    "MAX_GRAD_NORM": (Real, 1e-9, 1e9),
    "REWARD_SCALE": (Real, 1e-9, 1e9),
    "N_WORKERS": (Integral, 1, 1000),
    "SEED": (Integral, 0, 2**32 - 1),
}


def check_constants(constants):
    """Exit if one of a script's constants, given its globals(), is outside of LIMITS."""
    for name, (kind, low, high) in LIMITS.items():
        value = constants.get(name)
        if name not in constants or (name == "MAX_GRAD_NORM" and value is None):
            continue
        if not (isinstance(value, kind) and low <= value <= high):
            what = "a whole number" if kind is Integral else "a number"
            sys.exit(f"{name} = {value!r}: use {what} from {low} to {high}.")


def check_env(env, actions):
    """Return env; raise ValueError if a script for actions ("Discrete" or "Box") can't learn it."""
    s, a = env.observation_space, env.action_space
    problem = None
    if len(s.shape or ()) != 1:
        problem = f"{s} is not a vector; use FlattenObservation, or see examples/catch_pixels.py"
    elif type(a).__name__ != actions:  # a name: gym and Gymnasium have different classes
        problem = f"actions {a}: discrete_A3C.py learns Discrete, continuous_A3C.py learns Box"
    elif actions == "Discrete" and a.start != 0:
        problem = f"actions {a} must count from 0"
    elif actions == "Box" and not (a.is_bounded() and len(a.shape) == 1 and a.dtype.kind == "f"):
        problem = f"actions {a} must be a bounded float vector"
    if problem is not None:
        raise ValueError(f"ENV_NAME: {env}: {problem}")
    return env


def seed_all(seed):
    """Seed PyTorch, NumPy and Python's random in this process."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def follow_parent():
    """End this worker when its parent ends, and leave Ctrl-C to the parent."""

    def exit_with_parent():
        mp.parent_process().join()
        os._exit(1)

    if mp.parent_process() is not None:  # None: run() was called directly, to debug it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=exit_with_parent, daemon=True).start()


def run_workers(workers, res_queue, res):
    """Run all workers until they are done; append to res what they put on res_queue (not None).

    Exits with an error if a worker dies, with 130 after Ctrl-C, with 143 after SIGTERM; no worker
    is left running.
    """

    def gather():
        while not res_queue.empty():
            result = res_queue.get()
            if result is not None:
                res.append(result)

    received = []  # handlers only take note: an exception raised during a fork would be lost
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.signal(number, lambda signum, _: received.append(signum))
    try:
        for worker in workers:
            worker.start()
        running = True
        while running:
            running = any(worker.is_alive() for worker in workers)
            gather()  # all the time: a full queue would block the workers
            if received:
                print("Saving ...", flush=True)
                sys.exit(128 + received[0])
            for worker in workers:
                if worker.exitcode:  # None while it runs, 0 when it is done
                    sys.exit(f"Worker {worker.name} died (exit code {worker.exitcode}).")
            time.sleep(0.01)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        gather()
        for number, handler in handlers.items():
            signal.signal(number, handler)


# Its results


def evaluate(net, env, seed, episodes=10, max_steps=1000):
    """Return the returns (episodes,) of the greedy policy; episode i starts from seed + i."""
    returns = np.zeros(episodes)
    cut_off = 0
    training = net.training
    net.eval()
    for episode in range(episodes):
        s, _ = env.reset(seed=seed + episode)
        for _ in range(max_steps):
            a = net.choose_action(v_wrap(s)[None], greedy=True)
            s, r, terminated, truncated, _ = env.step(a)
            returns[episode] += np.asarray(r).item()
            if terminated or truncated:
                break
        else:
            cut_off += 1
    net.train(training)
    if cut_off:
        print(f"{cut_off} of {episodes} greedy episodes were cut off after {max_steps} steps.")
    return returns


def new_run(env_name, script=None):
    """Make the folder of a new run, results/NAME-1 (or -2, ...), with a copy of the file script."""
    results = Path(__file__).resolve().parent / "results"
    name = env_name.replace("/", "-").replace(":", "-")
    for number in count(1):
        run = results / f"{name}-{number}"
        try:
            run.mkdir(parents=True)  # fails if it exists, so that two runs never share a folder
        except FileExistsError:
            continue
        if script is not None:
            shutil.copy(script, run)
        return run


def save_results(run, net, res, constants):
    """Save weights.pt, episodes.csv, constants.json and curves.png in the folder run.

    res lists what record has queued; constants are the names in capitals in a script's globals().
    """
    torch.save(net.state_dict(), run / "weights.pt")
    text = json.dumps(as_json(constants), indent=2)
    (run / "constants.json").write_text(text, encoding="utf-8")
    rows = [row if isinstance(row, dict) else {"average": row} for row in res]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["return", "average"]
    columns = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
    table = np.column_stack([np.arange(1, len(rows) + 1), *columns.values()])
    formats, header = ["%d"] + ["%.6g"] * len(names), ",".join(["episode", *names])
    np.savetxt(run / "episodes.csv", table, formats, ",", header=header, comments="")
    draw_curves(columns, run.name).savefig(run / "curves.png")
    print(f"Saved {run}: weights.pt, episodes.csv, constants.json, curves.png", flush=True)


def as_json(names):
    """Return the constants in a script's globals(), with their repr where JSON can't hold them."""
    constants = {}
    for name, value in names.items():
        if name.isupper() and not isinstance(value, ModuleType):
            value = value.item() if isinstance(value, np.generic) else value
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                value = re.sub(" at 0x[0-9A-Fa-f]+", "", repr(value))  # addresses change
            constants[name] = value
    return constants


def draw_curves(columns, title):
    """Return a figure of columns {name: (episodes,)}: returns on top, a panel per other column."""
    others = [name for name in columns if name not in ("return", "average")]
    heights = [3] + [1] * len(others)
    fig = plt.figure(figsize=(9, 1 + 1.5 * sum(heights)), layout="constrained")
    axes = fig.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    top, *panels = axes
    n = len(columns["average"])
    episodes, window = np.arange(1, n + 1), max(1, n // 50)
    if "return" in columns:
        top.plot(episodes, columns["return"], alpha=0.25, label="return")
    top.plot(episodes, columns["average"], label="moving average")
    top.set(title=title, ylabel="Return")
    top.legend()
    for ax, name in zip(panels, others):
        numbers = columns[name]
        mean = np.convolve(numbers, np.ones(window) / window, "valid")
        ax.plot(episodes, numbers, color="tab:blue", alpha=0.25)
        ax.plot(episodes[window - 1 :], mean, color="tab:blue")
        ax.set(ylabel=name)
        if numbers.min() > 0 and numbers.max() > 100 * numbers.min():
            ax.set(yscale="log")
    axes[-1].set(xlabel="Episode")
    return fig
