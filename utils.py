"""What both scripts share. S3 is the box "Algorithm S3" of Mnih et al. 2016 (arXiv:1602.01783).

A3C itself (read it with the tutorial): v_wrap, set_init, push_and_pull, actions_to_tensor, record
What comes from outside: as_number, check_shapes, check_finite
Before a run: check_constants, check_env, seed_all
During a run (why nothing hangs): follow_parent, run_workers
After a run: evaluate, print_greedy, new_run, save_results, load_weights, show_picture
"""

import io
import math
import os
import random
import re
import signal
import sys
import textwrap
import threading
import time
import warnings
from importlib.util import find_spec
from itertools import count
from multiprocessing.connection import wait
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp


def v_wrap(np_array, dtype=np.float32):
    """Return a tensor of `np_array`, of any shape.

    An array of type `dtype` and its tensor share their memory; another one is copied and cast.
    """
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
    lnet, gnet     local and global network, whose last output is the values (n, 1);
                   lnet.loss_func gets observations (n, ...), actions as actions_to_tensor returns
                   them, and returns (n, 1)
    done           whether `s_` is terminal; at a time limit it is not
    s_             the observation after the n steps (without a batch axis)
    bs, ba, br     lists of n observations, n actions, n rewards
    gamma          discount factor
    max_grad_norm  the largest L2 norm (length) of all gradients together; None: any

    FloatingPointError: the loss is not finite; then `gnet` is as it was.
    """
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm = {max_grad_norm!r}: use a number above 0, or None.")
    if done:
        v_s_ = 0.0  # S3: R = 0 for terminal state
    else:
        last_s = v_wrap(np.asarray(s_)[None])
        with torch.no_grad():
            v_s_ = lnet(last_s)[-1].item()  # S3: bootstrap from last state
        check_finite("value of s_", v_s_, lnet, last_s)
    buffer_v_target = []
    for r in reversed(br):  # S3: for i, backwards
        v_s_ = as_number(r) + gamma * v_s_  # S3: R = r_i + gamma R
        buffer_v_target.append(v_s_)
    buffer_v_target.reverse()
    s, v_t = v_wrap(np.array(bs)), v_wrap(np.array(buffer_v_target)[:, None])
    loss = lnet.loss_func(s, actions_to_tensor(ba), v_t)
    check_finite("loss", loss.item(), lnet, s, br)

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
    """Count an episode of return `ep_r`; queue and print the moving average of all returns.

    To continue a run, restore `global_ep` and `global_ep_r`, and raise MAX_EP: above episode 0 the
    average goes on. (The .csv of save_results counts from 1 again.)
    """
    ep_r = as_number(ep_r)
    with global_ep.get_lock():  # one lock for both, so that they agree
        global_ep.value += 1  # S3: count T, here in episodes
        if global_ep.value == 1:
            global_ep_r.value = ep_r
        else:
            global_ep_r.value = 0.99 * global_ep_r.value + 0.01 * ep_r
        res_queue.put(global_ep_r.value)
        print(f"{name} Ep: {global_ep.value} | Ep_r: {global_ep_r.value:.2f}", flush=True)


def as_number(r):
    """Return a reward or a return, a number or an array of one number, as a float."""
    a = np.asarray(r)
    if a.size != 1 or a.dtype.kind not in "fiub":
        raise ValueError(f"A reward must be one number, and this is {r!r}.")
    return float(a.item())


def check_shapes(s, a, v_t, values, m):
    """Raise a ValueError where the loss would broadcast, which makes it wrong without a word.

    The `values` of states `s` must have the shape of the returns `v_t`, (n, 1); and the policy `m`,
    a distribution, must score each of the actions `a` once.
    """
    if values.shape != v_t.shape:
        raise ValueError(
            f"States {tuple(s.shape)} have values {tuple(values.shape)}, not {tuple(v_t.shape)}: "
            "give states (n, s_dim), one row a step, and let forward return values (n, 1)."
        )
    scored = m.batch_shape + m.event_shape
    if a.shape != scored:
        raise ValueError(
            f"Actions {tuple(a.shape)}, but the policy scores {tuple(scored)}: let "
            "choose_action return a number for one choice, or an array of as many as there are."
        )


def check_finite(what, value, net, s, br=()):
    """Raise a FloatingPointError if `value`, a number, is not finite, and say where to look.

    `net` made it of the observations `s`, a tensor, and the rewards `br`; `what` is its name.
    """
    if math.isfinite(value):
        return
    weights = torch.cat([p.detach().abs().flatten() for p in net.parameters()]).max().item()
    far_s = [x for x in s.flatten().tolist() if not abs(x) < 1e15]  # squared, near float32's end
    far_r = [as_number(r) for r in br if not abs(as_number(r)) < 1e15]
    if far_s:
        where = f"an observation holds {far_s[0]}. Look at the environment."
    elif far_r:
        where = f"a reward is {far_r[0]}. Look at the environment, or at REWARD_SCALE."
    elif not weights < 1e6:
        where = f"the largest weight is {weights}. Turn down LR, or set MAX_GRAD_NORM."
    else:
        where = "observations, rewards and weights are finite. Look at forward and loss_func."
    raise FloatingPointError(f"The {what} is {value}: {where}")


def is_whole(x):
    return isinstance(x, Integral) and not isinstance(x, bool)


def is_number(x):
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)


def is_norm(x):
    if x is None:
        return True
    return is_number(x) and x > 0


def is_reward(x):
    return x is None or is_number(x)


def are_betas(x):
    # PyTorch takes no whole numbers here.
    return np.shape(x) == (2,) and all(isinstance(b, float) and 0 <= b < 1 for b in x)


CONSTANTS = {  # name: what to use, and whether x is that
    "ENV_NAME": ("a name in quotes", lambda x: isinstance(x, str)),
    "UPDATE_GLOBAL_ITER": ("a whole number from 1 on", lambda x: is_whole(x) and x >= 1),
    "GAMMA": ("a number from 0 to 1", lambda x: is_number(x) and 0 <= x <= 1),
    "MAX_EP": ("a whole number from 1 on", lambda x: is_whole(x) and x >= 1),
    "LR": ("a number above 0, at most 1", lambda x: is_number(x) and 0 < x <= 1),
    "BETAS": ("two numbers from 0.0 to below 1.0, such as (0.92, 0.999)", are_betas),
    "ENTROPY_BETA": ("a number from 0 on", lambda x: is_number(x) and x >= 0),
    "MAX_GRAD_NORM": ("a number above 0, or None", is_norm),
    "REWARD_SCALE": ("a number above 0", lambda x: is_number(x) and x > 0),
    "FALL_REWARD": ("a number, or None", is_reward),
    "N_WORKERS": ("a whole number from 1 on", lambda x: is_whole(x) and x >= 1),
    "SEED": ("a whole number from 0 to 2**63 - 1", lambda x: is_whole(x) and 0 <= x < 2**63),
    "RENDER": ("True or False", lambda x: isinstance(x, bool)),
}


def check_constants(constants):
    """Exit with a sentence on the first of `constants`, a script's globals(), that cannot work."""
    for name, (what, works) in CONSTANTS.items():
        if name in constants and not works(constants[name]):
            sys.exit(f"{name} = {constants[name]!r}: use {what}.")
    if constants.get("RENDER") and find_spec("pygame") is None:
        sys.exit("RENDER = True needs pygame: `pip install pygame-ce`, or set RENDER = False.")


def check_env(env_name, make_env, kind):
    """Return make_env(), or exit with a sentence if the script that calls this can't learn it.

    `kind`: the class of the actions that the script chooses, gym.spaces.Discrete or Box.
    """
    try:
        env = make_env()
    except Exception as error:
        if not isinstance(error, ImportError) and "gym" not in type(error).__module__:
            raise  # an error in an environment of one's own
        said = " ".join(str(error).split())
        sys.exit(f"ENV_NAME = {env_name!r}: change it, or install what it needs ({said}).")
    a, s = env.action_space, env.observation_space
    scripts = {"Discrete": "discrete_A3C.py", "Box": "continuous_A3C.py"}
    problem = None
    if len(s.shape or ()) != 1:
        problem = f"its observations are {s}, not vectors. Change Net, as examples/ do"
    elif np.any(getattr(a, "start", 0)):
        problem = f"its actions are {a}. Wrap it, so that they count from 0 on"
    elif hasattr(a, "is_bounded") and not (a.is_bounded() and len(a.shape) == 1):
        problem = f"its actions are {a}. Wrap it, so that they are a bounded vector"
    elif not isinstance(a, kind):
        problem = f"its actions are {a}. Use {scripts.get(type(a).__name__, 'a Net of your own')}"
    if problem is not None:
        sys.exit(" ".join(f"ENV_NAME = {env_name!r}: {problem}.".split()))  # in one line
    return env


def seed_all(seed):
    """Seed all that draws random numbers in this process: torch, NumPy and Python's random."""
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


def run_workers(workers, res_queue, res):
    """Start `workers`, append what they queue (but None) to `res`, and leave none running.

    SystemExit: a sentence on the worker that died (its traceback stands above), or 130 after
    Ctrl-C, which has no effect from then on until save_results has saved.
    """
    ended, all_read = threading.Event(), threading.Event()

    def gather():  # all the time: a full queue would stop the workers
        while not (ended.is_set() and res_queue.empty()):
            if res_queue.empty():
                time.sleep(0.01)
                continue
            result = res_queue.get()
            if result is not None:
                res.append(result)
        all_read.set()

    # A thread of its own, as get() never returns where a worker is killed inside put().
    reader = threading.Thread(target=gather, daemon=True)
    try:
        for worker in workers:
            worker.start()
        reader.start()
        running = {worker.sentinel: worker for worker in workers}
        while running:
            for sentinel in wait(running, timeout=1):
                worker = running.pop(sentinel)
                worker.join()
                if worker.exitcode != 0:
                    sys.exit(f"Worker {worker.name} died: {worker}")
            if not reader.is_alive():
                break
        ended.set()
        reader.join()
        if not all_read.is_set():
            sys.exit("What a worker queued could not be read: see the error above.")
    except KeyboardInterrupt:
        answer_ctrl_c(signal.SIG_IGN)
        print("Saving ...", flush=True)
        sys.exit(130)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        ended.set()
        if reader.is_alive():
            reader.join(timeout=2)


def answer_ctrl_c(handler):
    """Let `handler` answer Ctrl-C from now on; only the main thread may, and only it gets one."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


def evaluate(net, env, seed, episodes=10, max_steps=10_000):
    """Return the mean return of `net`'s greedy policy; an episode ends after `max_steps`."""
    total = 0.0
    for episode in range(episodes):
        s, _ = env.reset(seed=seed + episode)
        for _ in range(max_steps):
            a = net.choose_action(v_wrap(np.asarray(s)[None]), greedy=True)
            s, r, terminated, truncated, _ = env.step(a)
            total += as_number(r)
            if terminated or truncated:
                break
    return total / episodes


def print_greedy(net, env, seed, before):
    """Print the greedy policy's mean return, `before` training and now, lowest and highest."""
    returns = [evaluate(net, env, seed + episode, episodes=1) for episode in range(10)]
    after = sum(returns) / len(returns)
    spread = f"{min(returns):.1f} to {max(returns):.1f}"
    print(f"Greedy policy: mean return {before:.1f} before, {after:.1f} after ({spread})")
    if after <= before:
        print("It is no better than before: train longer, or turn down LR (unless it is perfect).")


def new_run(env_name):
    """Return the path, without an ending, of a new run's files: results/NAME-1, then NAME-2, ...

    An empty .pt takes the number, so that two runs at once never share it.
    """
    folder = Path(__file__).resolve().parent / "results"
    folder.mkdir(exist_ok=True)
    name = re.sub("[/:]", "-", env_name)
    for number in count(1):
        run = folder / f"{name}-{number}"
        if not list(folder.glob(f"{run.name}.*")):
            try:
                open(f"{run}.pt", "x").close()
                return run
            except FileExistsError:
                pass  # another run was faster


def save_results(net, res, env_name, title, threshold=None, run=None):
    """Save a run in results/: weights (.pt), returns (.csv) and a picture of them (.png).

    `res` lists the moving averages; without any, nothing is saved. `title` tells the constants;
    `run` is the path of new_run, which is called if it is None. Ctrl-C has no effect meanwhile.
    Returns whether it worked.
    """
    answer_ctrl_c(signal.SIG_IGN)
    try:
        if not res:
            print("Nothing to save: no episode has ended.")
            free_number(run)
            return True
        run = run or new_run(env_name)
        save_weights(net, run)
        averages = np.array(res, dtype=float)
        returns = averages.copy()
        returns[1:] = (averages[1:] - 0.99 * averages[:-1]) / 0.01  # what record has averaged
        rows = [f"{i},{r:.6g},{a:.6g}" for i, (r, a) in enumerate(zip(returns, averages), 1)]
        lines = [f"# {title}", "episode,return,average", *rows, ""]
        write_whole(f"{run}.csv", "\n".join(lines).encode())
        picture = io.BytesIO()
        draw(returns, averages, f"{run.name}\n{title}", threshold).savefig(picture)
        write_whole(f"{run}.png", picture.getvalue())
        return True
    except OSError as error:
        print(f"Not saved: {error}. Make room, or make results/ writable.", file=sys.stderr)
        free_number(run)
        return False
    finally:
        answer_ctrl_c(signal.default_int_handler)


def free_number(run):
    """Remove the .pt of `run` that only takes the number: nothing was saved."""
    number = Path(f"{run}.pt")
    if run is not None and number.exists() and number.stat().st_size == 0:
        number.unlink()


def save_weights(net, run):
    """Save the weights of `net` as the .pt of `run`, a path of new_run."""
    weights = io.BytesIO()
    torch.save(net.state_dict(), weights)
    write_whole(f"{run}.pt", weights.getvalue())


def write_whole(path, data):
    """Write `data`, bytes, to the file `path`, whole or not at all; an OSError says why not."""
    part = Path(f"{path}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    print(f"Saved {path}", flush=True)


def draw(returns, averages, title, threshold):
    """Return the figure, always the same one, of the returns, faint, and their moving averages."""
    try:
        fig, ax = plt.subplots(figsize=(11, 6), num="A3C", clear=True)
    except Exception:  # the display is gone: each window toolkit raises an error of its own
        plt.switch_backend("agg")
        fig, ax = plt.subplots(figsize=(11, 6), num="A3C", clear=True)
    episodes = range(1, len(returns) + 1)
    ax.plot(episodes, returns, alpha=0.25, label="return")
    ax.plot(episodes, averages, label="moving average (0.99)")
    if threshold is not None:
        ax.axhline(threshold, color="gray", linestyle="--", label=f"{threshold:g}")
    ax.set(xlabel="Episode", ylabel="Return")
    ax.set_title(textwrap.fill(title, 130, replace_whitespace=False), size=9)
    ax.legend()
    return fig


def load_weights(net, path):
    """Load the weights that a run saved at `path` into `net`, or exit with a sentence."""
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except FileNotFoundError:
        sys.exit(f"{path!r}: there is no such file; train first, or change the name.")
    except Exception as error:
        made = f"no weights of {type(net).__module__}.Net ({type(error).__name__})"
        sys.exit(f"{path!r}: {made}; train again, or change the name.")


def show_picture():
    """Show the picture of the run, where there is a display."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive")
        plt.show()
