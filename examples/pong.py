"""A3C from pixels: learns Pong. Run: pip install gymnasium ale-py && python -m examples.pong

The loss and Algorithm S3 are those of discrete_A3C.py, push_and_pull and SharedAdam too. What
images change: the screen becomes four small frames with a background of 0, actor and critic share
their first layers, and the weights are saved every few minutes, as a run takes 20 minutes. To make
it yours, copy this file beside utils.py and shared_adam.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import random
import sys
import time

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, check_finite, evaluate, follow_parent, load_weights, new_run
from utils import push_and_pull, record, run_workers, save_results, save_weights, seed_all, set_init
from utils import show_picture, v_wrap

try:
    import ale_py
    import gymnasium as gym
except ImportError:
    sys.exit("Pong needs two more packages: pip install gymnasium ale-py")

ENV_NAME = "ALE/Pong-v5"
UPDATE_GLOBAL_ITER = 20  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # games of all workers together; those under way at the end come on top
LR = 3e-4  # learning rate of Adam
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus
VALUE_WEIGHT = 0.5  # weight of the critic's loss: it shares layers with the actor
MAX_GRAD_NORM = 40  # a longer gradient is scaled down to this L2 norm; None: any length
REWARD_SCALE = 1.0  # rewards are divided by this to learn from
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 0  # of all random numbers
RENDER = False  # True: worker w00 shows its game
SAVE_MINUTES = 3  # the weights are saved that often
CONTINUE_FROM = None  # "results/ALE-Pong-v5-1.pt": start from these weights
N_S, N_A = (4, 80, 80), 6

gym.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


def preprocess(screen):
    """Cut the court out of a gray screen (210, 160): every second pixel, (80, 80), background 0."""
    return (screen[34:194:2, ::2].astype(np.float32) - 87) / 149  # 87: background; 236: the ball


def stack_frames(env):
    """Return `env` with the last four preprocessed screens to observe, (4, 80, 80), newest last."""
    court = gym.spaces.Box(-1, 1, (80, 80), np.float32)
    env = gym.wrappers.TransformObservation(env, preprocess, court)
    return gym.wrappers.FrameStackObservation(env, 4)


def make_env(render=False):
    """Return a new game: a step is four frames, and no action is sticky (v5 repeats one in four).

    `render`: True for a window, or a render mode of Gymnasium's.
    """
    options = {"obs_type": "grayscale", "frameskip": 4, "repeat_action_probability": 0}
    if render:
        options["render_mode"] = "human" if render is True else render
    return stack_frames(gym.make(ENV_NAME, disable_env_checker=True, **options))


class Net(nn.Module):
    """Actor and critic on one trunk: states (n, 4, 80, 80) to logits (n, a_dim), values (n, 1)."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.conv1 = nn.Conv2d(s_dim[0], 16, 8, stride=4)  # to 16 x 19 x 19
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)  # to 32 x 8 x 8
        self.fc = nn.Linear(32 * 8 * 8, 256)
        self.pi = nn.Linear(256, a_dim)
        self.v = nn.Linear(256, 1)
        set_init([self.conv1, self.conv2, self.fc, self.pi, self.v])
        nn.init.zeros_(self.pi.weight)  # so the first policy is uniform
        self.to(memory_format=torch.channels_last)  # a tenth more steps/s
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
        check_finite("policy", logits.max().item(), self, s)
        if greedy:
            return logits.argmax().item()
        probs = F.softmax(logits, dim=1)[0].tolist()
        return random.choices(range(self.a_dim), probs)[0]  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, 4, 80, 80), actions (n,) and returns (n, 1)."""
        logits, values = self.forward(s)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits, validate_args=False)
        log_prob = m.log_prob(a).view(len(a), -1)
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return VALUE_WEIGHT * c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name`, as in discrete_A3C.py but for `FALL_REWARD` and annealing `LR`.

    Instead of `n_steps`, `g_step` counts the steps of all workers. w00 tells the time (`now`, since
    `start`), and its weights are `saved` as those of `g_run` every SAVE_MINUTES.
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
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                with self.g_step.get_lock():
                    self.g_step.value += 1  # S3: t = t + 1
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                # S3: until terminal or t_max; a time limit (truncated) is not terminal
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    push_and_pull(opt, lnet, gnet, terminated, s_, buffer_s, buffer_a, buffer_r,
                                  GAMMA, max_grad_norm=MAX_GRAD_NORM)  # fmt: skip
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
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # the global network
    if CONTINUE_FROM is not None:
        load_weights(gnet, CONTINUE_FROM)
        print(f"Continuing from {CONTINUE_FROM}; games and Adam's averages start anew")
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # the global optimizer
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
            f"{ENTROPY_BETA = }, {VALUE_WEIGHT = }, {MAX_GRAD_NORM = }, {REWARD_SCALE = }, "
            f"{N_WORKERS = }, {SEED = }"
        )
        saved = save_results(gnet, res, ENV_NAME, title, run=run)
        print_progress(global_step.value, seconds)
    score = evaluate(gnet, make_env(), SEED, episodes=1)
    print(f"Greedy policy: return {score:.0f} in one game (nothing in it is random)")
    show_picture()
    if not saved:
        raise SystemExit(1)  # save_results has said why
