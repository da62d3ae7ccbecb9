"""A3C from pixels: any Atari game. Run: pip install gymnasium ale-py && python -m examples.atari

Pong takes 20 to 40 minutes; ENV_NAME names another game, such as "ALE/Breakout-v5" or
"ALE/SpaceInvaders-v5". What helps with these two stands in experiments/README.md. Algorithm S3 is
that of discrete_A3C.py, and so are push_and_pull and SharedAdam. What the games change: the screen
becomes four small frames with a background of 0, actor and critic share their first layers (so the
critic's loss has a weight), rewards are learned by their sign, a lost life ends the return, and the
weights are saved every few minutes. No action is sticky here, where v5 of the games repeats one in
four: scores with and without are not comparable. To make it yours, copy this file beside utils.py
and shared_adam.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, check_finite, check_shapes, evaluate, follow_parent
from utils import load_weights, new_run, push_and_pull, record, run_workers, save_results
from utils import save_weights, seed_all, set_init, show_picture, v_wrap

try:
    import ale_py
    import gymnasium as gym
except ImportError:
    sys.exit("Atari games need two more packages: pip install gymnasium ale-py")

ENV_NAME = "ALE/Pong-v5"
UPDATE_GLOBAL_ITER = 20  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # games of all workers together; games other than Pong need more
LR = 6e-4  # learning rate of Adam at the start; it falls to 0 over the run
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus
VALUE_WEIGHT = 0.5  # weight of the critic's loss: it shares layers with the actor
MAX_GRAD_NORM = 40  # a longer gradient is scaled down to this L2 norm; None: any length
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 0  # of all random numbers
FRAME_SKIP = 4  # frames of a step; 3 for Space Invaders: every second frame lacks some shots
ROWS = slice(34, 194)  # of 210 on the screen: those with the game, without score and rim
RENDER = False  # True: worker w00 shows its game
SAVE_MINUTES = 3  # the weights are saved that often
CONTINUE_FROM = None  # "results/ALE-Pong-v5-1.pt": start from these weights

gym.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


class Frames(gym.ObservationWrapper):
    """Screens of half the size, whose background is 0: the network sees what stands out."""

    def __init__(self, env):
        super().__init__(env)
        env.reset(seed=0)
        screen, *_ = env.step(0)  # nothing is pressed; some games are painted only now
        self.background = int(np.bincount(screen[ROWS].ravel()).argmax())  # the commonest gray
        shape = self.observation(screen).shape
        self.observation_space = gym.spaces.Box(-2, 2, shape, np.float32)

    def observation(self, screen):
        """Return the brightest of each 2 x 2 pixels in ROWS of a gray screen (210, 160)."""
        seen = screen[ROWS]
        pairs = np.maximum(seen[:-1:2], seen[1::2])  # so a shot one pixel wide is seen
        brightest = np.maximum(pairs[:, :-1:2], pairs[:, 1::2])
        return (brightest.astype(np.float32) - self.background) / 128


def make_env(render=False):
    """Return a new game; its states are what the newest four steps show (4, 80, 80).

    `render`: True for a window, or a render mode of Gymnasium's.
    """
    options = {"obs_type": "grayscale", "frameskip": FRAME_SKIP, "repeat_action_probability": 0}
    if render:
        options["render_mode"] = "human" if render is True else render
    env = gym.make(ENV_NAME, disable_env_checker=True, **options)
    return gym.wrappers.FrameStackObservation(Frames(env), 4)


def shapes():
    """Return the shape of a state of ENV_NAME and its number of actions; None, None: no game."""
    if not str(ENV_NAME).startswith("ALE/"):
        return None, None
    try:
        env = make_env()
    except gym.error.Error:  # main says what is wrong with ENV_NAME
        return None, None
    env.close()  # each worker makes its own
    return env.observation_space.shape, int(env.action_space.n)


def game_of(path):
    """Return the game that a file of weights names, or None: ALE-Pong-v5-1.pt is of ALE/Pong-v5."""
    name = re.fullmatch(r"ALE-(.+)-\d+", Path(path).stem)
    return f"ALE/{name[1]}" if name else None


N_S, N_A = shapes()


class Net(nn.Module):
    """Actor and critic on one trunk: states (n, 4, 80, 80) to logits (n, a_dim), values (n, 1)."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.conv1 = nn.Conv2d(s_dim[0], 16, 8, stride=4)  # of 80 x 80 to 16 x 19 x 19
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)  # to 32 x 8 x 8
        size = self.conv2(self.conv1(torch.zeros(1, *s_dim))).numel()
        self.fc = nn.Linear(size, 256)
        self.pi = nn.Linear(256, a_dim)
        self.v = nn.Linear(256, 1)
        set_init([self.conv1, self.conv2, self.fc, self.pi, self.v])
        nn.init.zeros_(self.pi.weight)  # so the first policy is uniform
        self.to(memory_format=torch.channels_last)  # more steps/s
        self.distribution = torch.distributions.Categorical

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.fc(x.flatten(1)))
        return self.pi(x), self.v(x)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Draw an action for one state (1, 4, 80, 80); greedy: take the likeliest."""
        logits, _ = self.forward(s)
        probs = F.softmax(logits, dim=1)[0].tolist()
        check_finite("policy", sum(probs), self, s)
        if greedy:
            return logits.argmax().item()
        return random.choices(range(self.a_dim), probs)[0]  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, 4, 80, 80), actions (n,) and returns (n, 1)."""
        logits, values = self.forward(s)
        m = self.distribution(logits=logits, validate_args=False)
        check_shapes(s, a, v_t, values, m)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        log_prob = m.log_prob(a).view(len(a), -1)
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return VALUE_WEIGHT * c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name`, as in discrete_A3C.py but for `FALL_REWARD` and `REWARD_SCALE`.

    Rewards are learned by their `sign`. A `lost_life` ends the return as `terminated` does: `reset`
    and `step` tell the `lives` in `info`. Not `n_steps` but `g_step` counts, for all workers. w00
    tells the time (`now`, `start`), and every SAVE_MINUTES the global weights are `saved` as
    `g_run`'s.
    """

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name, g_step, g_run):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.g_step, self.g_run = g_step, g_run
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent: each worker's differs

    def run(self):
        follow_parent()
        seed_all(self.seed)
        start = saved = time.perf_counter()
        env = make_env(RENDER and self.name == "w00")
        env.reset(seed=self.seed)
        gnet, opt = self.gnet, self.opt
        lnet = Net(N_S, N_A)  # the local network
        lnet.load_state_dict(gnet.state_dict())
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealed to 0 as in the paper's experiments (its supplement); S3 does not say so.
            opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, info = env.reset()  # S3: get state
            lives = info["lives"]
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, info = env.step(a)  # S3: receive reward and new state
                with self.g_step.get_lock():
                    self.g_step.value += 1  # S3: t = t + 1
                ep_r += r
                buffer_r.append(np.sign(r))  # as the paper does: games pay from 1 to thousands
                lost_life = info["lives"] < lives  # it ends the return, and the game goes on
                lives = info["lives"]
                # S3: until terminal or t_max; a time limit (truncated) is not terminal
                if terminated or truncated or lost_life or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    push_and_pull(opt, lnet, gnet, terminated or lost_life, s_, buffer_s, buffer_a,
                                  buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM)  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []
                    if terminated or truncated:
                        break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name)

            now = time.perf_counter()
            if self.name == "w00" and now - saved > 60 * SAVE_MINUTES:
                print_progress(self.g_step.value, now - start)
                save_weights(gnet, self.g_run)
                saved = now


def print_progress(steps, seconds):
    print(f"{steps} env steps in {seconds / 60:.1f} min, {steps / seconds:.0f} env steps/s")


if __name__ == "__main__":
    check_constants(globals())
    if not isinstance(FRAME_SKIP, int) or FRAME_SKIP < 1:
        sys.exit(f"FRAME_SKIP = {FRAME_SKIP!r}: use a whole number from 1 on.")
    if N_S is None:
        sys.exit(f'ENV_NAME = {ENV_NAME!r}: no such game; use a name such as "ALE/Pong-v5".')
    if CONTINUE_FROM is not None and game_of(CONTINUE_FROM) not in (None, ENV_NAME):
        sys.exit(f"CONTINUE_FROM = {CONTINUE_FROM!r}: these are no weights of {ENV_NAME}.")
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # the global network
    if CONTINUE_FROM is not None:
        load_weights(gnet, CONTINUE_FROM)
        print(f"Continuing from {CONTINUE_FROM}; games and Adam's averages start anew")
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer; workers set its lr
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    shared = [gnet, opt, global_ep, global_ep_r, res_queue]
    global_step, run = mp.Value("q", 0), new_run(ENV_NAME)
    workers = [Worker(*shared, i, global_step, run) for i in range(N_WORKERS)]
    res = []
    begin = time.perf_counter()
    try:
        run_workers(workers, res_queue, res)
    finally:
        seconds = time.perf_counter() - begin
        title = (
            f"{UPDATE_GLOBAL_ITER = }, {GAMMA = }, {MAX_EP = }, {LR = }, {BETAS = }, "
            f"{ENTROPY_BETA = }, {VALUE_WEIGHT = }, {MAX_GRAD_NORM = }, {N_WORKERS = }, "
            f"{SEED = }, {FRAME_SKIP = }"
        )
        saved = save_results(gnet, res, ENV_NAME, title, run=run)
        # Without its lock, which a worker may have held when it was killed.
        print_progress(global_step.get_obj().value, seconds)
    # All greedy games are the same one; it may wait for a start button until 10000 steps are over.
    score = evaluate(gnet, make_env(), SEED, episodes=1)
    print(f"Greedy policy: return {score:.0f} in one game (no action of it sticky)")
    show_picture()
    if not saved:
        raise SystemExit(1)  # save_results has said why
