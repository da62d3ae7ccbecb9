"""What the scripts share. S3 is Algorithm S3 of Mnih et al. 2016 (arXiv:1602.01783).

A3C itself    v_wrap, set_init, push_and_pull, record: read these with the tutorial
A run         check_constants, check_env, seed_all, follow_parent, run_workers
Its results   evaluate, new_run, save_results
"""

import json
import math
import os
import random
import signal
import sys
import threading
import time
from itertools import count
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp

# A3C itself


def v_wrap(np_array, dtype=np.float32):
    """Return an array (or a list) as a tensor; it shares memory if it has that dtype already."""
    return torch.from_numpy(np.asarray(np_array, dtype=dtype))


def set_init(layers):
    """Draw weights from a normal distribution with standard deviation 0.1; set biases to 0."""
    for layer in layers:
        torch.nn.init.normal_(layer.weight, mean=0.0, std=0.1)
        torch.nn.init.constant_(layer.bias, 0.0)


def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
    """Push the gradients of n steps to the global network, then pull its weights.

    S3 without acting; the tutorial calls it in "Training Loop".

    opt            optimizer of the global network
    lnet, gnet     local and global network; the last output of forward is V(s), (n, 1)
    done           True if s_ is terminal; False at a time limit
    s_             state after the n steps
    bs, ba, br     lists of n states, actions and rewards
    gamma          discount factor
    max_grad_norm  clip gradients to this L2 norm; None: don't clip

    Raises FloatingPointError, before gnet is changed, if the loss is not finite.
    """
    if done:
        v_s_ = 0.0  # S3: R = 0 for terminal state
    else:
        with torch.no_grad():
            v_s_ = lnet(v_wrap(s_)[None])[-1].item()  # S3: bootstrap from last state
    buffer_v_target = []
    for r in reversed(br):  # S3: for i, backwards
        v_s_ = r + gamma * v_s_  # S3: R = r_i + gamma R
        buffer_v_target.append(v_s_)
    buffer_v_target.reverse()
    a = np.array(ba)
    discrete = np.issubdtype(a.dtype, np.integer)  # (n,); continuous actions are (n, a_dim)
    a = v_wrap(a, np.int64) if discrete else v_wrap(a.reshape(len(ba), -1))
    s, v_t = v_wrap(np.array(bs)), v_wrap(buffer_v_target).view(-1, 1)
    loss = lnet.loss_func(s, a, v_t)
    if not loss.isfinite():
        raise FloatingPointError(
            f"The loss is {loss.item()}; the largest state is {s.abs().max():g}, the largest "
            f"target {v_t.abs().max():g}. Check states and rewards first, then lower LR."
        )

    # Not opt.zero_grad(): it clears the gradients of gnet, and those of lnet would add up.
    lnet.zero_grad()  # S3: reset gradients
    loss.backward()
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(lnet.parameters(), max_grad_norm, error_if_nonfinite=True)
    # The weights of gnet are in shared memory; their .grad is private to each process.
    for lp, gp in zip(lnet.parameters(), gnet.parameters()):
        gp.grad = lp.grad
    opt.step()  # S3: asynchronous update
    with torch.no_grad():
        for lp, gp in zip(lnet.parameters(), gnet.parameters()):
            lp.copy_(gp)  # S3: synchronize parameters
        for lb, gb in zip(lnet.buffers(), gnet.buffers()):
            gb.copy_(lb)  # buffers (BatchNorm's running mean, say) have no gradient: push values


def record(global_ep, global_ep_r, ep_r, res_queue, name):
    """Count an episode of return ep_r; queue and print the moving average of all returns.

    To continue a run, restore global_ep and global_ep_r: above episode 0 the average goes on.
    """
    ep_r = np.asarray(ep_r).item()  # some environments pay arrays of one number
    with global_ep.get_lock():  # one lock for both values, so that they agree
        global_ep.value += 1  # S3: count T, here in episodes
        if global_ep.value == 1:
            global_ep_r.value = ep_r
        else:
            global_ep_r.value = 0.99 * global_ep_r.value + 0.01 * ep_r
        res_queue.put(global_ep_r.value)
        print(f"{name} Ep: {global_ep.value} | Ep_r: {global_ep_r.value:.2f}", flush=True)


# A run: nothing below is needed to understand A3C

LIMITS = {  # type, lowest and highest value
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
    """Return a script's constants, given its globals(); exit if one is outside of LIMITS."""
    for name, (kind, low, high) in LIMITS.items():
        value = constants.get(name)
        if name not in constants or (name == "MAX_GRAD_NORM" and value is None):
            continue
        if not (isinstance(value, kind) and low <= value <= high):
            what = "a whole number" if kind is Integral else "a number"
            sys.exit(f"{name} = {value!r}: use {what} from {low} to {high}.")
    kinds = (Real, str, tuple, list, type(None))
    return {k: v for k, v in constants.items() if k.isupper() and isinstance(v, kinds)}


def check_env(env, actions):
    """Return env; raise ValueError if it does not suit a script that learns `actions`.

    actions is the name of a class of spaces, "Discrete" or "Box": gym and Gymnasium each have one.
    """
    s, a = env.observation_space, env.action_space
    problem = None
    if len(s.shape or ()) != 1:
        problem = f"{s} is not a vector; use FlattenObservation, or see examples/catch_pixels.py"
    elif type(a).__name__ != actions:
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
    """Let a worker end when its parent ends, and leave Ctrl-C to the parent."""

    def exit_with_parent():
        mp.parent_process().join()
        os._exit(1)

    if mp.parent_process() is not None:  # None: run() was called directly, to debug it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=exit_with_parent, daemon=True).start()
        torch.set_num_threads(1)


def run_workers(workers, res_queue, res):
    """Run all workers until they are done; append to res what they put on res_queue (not None).

    Raises SystemExit if a worker died (its traceback stands above), with 130 after Ctrl-C and with
    143 after SIGTERM. In any case no worker is left running.
    """

    def gather():
        while not res_queue.empty():
            result = res_queue.get()
            if result is not None:
                res.append(result)

    received = []  # a handler that raises would not do: during a fork exceptions get lost
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers[number] = signal.signal(number, lambda number, _: received.append(number))
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
    training = net.training
    net.eval()
    for episode in range(episodes):
        s, _ = env.reset(seed=seed + episode)
        if hasattr(net, "forget"):
            net.forget()  # as in examples/memory.py
        for _ in range(max_steps):
            a = net.choose_action(v_wrap(s)[None], greedy=True)
            s, r, terminated, truncated, _ = env.step(a)
            returns[episode] += np.asarray(r).item()
            if terminated or truncated:
                break
    net.train(training)
    return returns


def new_run(env_name):
    """Make the folder of a new run, results/NAME-1, or NAME-2 and so on, and return its path."""
    results = Path(__file__).resolve().parent / "results"
    name = env_name.replace("/", "-").replace(":", "-")
    for number in count(1):
        run = results / f"{name}-{number}"
        try:
            run.mkdir(parents=True)  # fails if it exists, so that two runs never share a folder
            return run
        except FileExistsError:
            continue


def save_results(run, net, res, constants):
    """Save weights.pt, constants.json, returns.csv and returns.png in the folder run.

    res lists the moving averages that record has queued.
    """
    torch.save(net.state_dict(), run / "weights.pt")
    (run / "constants.json").write_text(json.dumps(constants, indent=2, default=str))
    averages = np.array(res, dtype=float)
    returns = averages.copy()
    returns[1:] = (averages[1:] - 0.99 * averages[:-1]) / 0.01  # undoes the moving average
    episodes = np.arange(1, len(res) + 1)
    table, header = np.column_stack([episodes, returns, averages]), "episode,return,average"
    np.savetxt(run / "returns.csv", table, "%.6g", ",", header=header, comments="")
    fig, ax = plt.subplots(figsize=(11, 6))
    ax.plot(episodes, returns, alpha=0.25, label="return")
    ax.plot(episodes, averages, label="moving average")
    ax.set(title=run.name, xlabel="Episode", ylabel="Return")
    ax.legend()
    fig.savefig(run / "returns.png")
    print(f"Saved {run}: weights.pt, constants.json, returns.csv, returns.png", flush=True)
