"""A3C on Atari games. Run: pip install gymnasium ale-py && python -m examples.atari

The constants below learn Pong: in 32 to 36 minutes on two cores, 1.8 million steps, the mean return
of the last 100 games rises to 19 (3 seeds). Other games have constants of their own:

    Breakout        MAX_EP = 5000, BETAS = (0.98, 0.999), ENTROPY_BETA = 0.001, OWN_INIT = True,
                    NO_OPS = 30
    Space Invaders  MAX_EP = 8000, FRAME_SKIP = 3

Two of three runs of Breakout reached a mean of 31, a human's score; after 45 minutes, when they
were stopped, it was 24.7, 32.2 and 24.7. One run of Space Invaders reached 409 in 50 minutes. All
runs are in experiments/README.md.

Unlike the paper: frames of 80 x 80 pixels (2 x 2 max-pooled, minus the background); n = 20; Adam;
gradient clipping; a weight for the critic's loss. Unlike the default of ALE/Pong-v5: no sticky
actions. As in DQN, rewards are clipped to their sign, and a lost life ends the return. To make it
yours, copy this file beside utils.py and shared_adam.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch, or forked workers may hang

import time
from pathlib import Path

import ale_py
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import push_and_pull, record, set_init, v_wrap  # A3C itself
from utils import check_constants, follow_parent, run_workers, seed_all  # a run
from utils import evaluate, new_run, save_results  # its results

ENV_NAME = "ALE/Pong-v5"  # or "ALE/Breakout-v5", "ALE/SpaceInvaders-v5"
UPDATE_GLOBAL_ITER = 20  # n: steps per update
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # total episodes, all workers (a few more may finish)
LR = 6e-4  # of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # Adam's decay rates, as for CartPole; the tutorial's are (0.9, 0.99)
ENTROPY_BETA = 0.01  # weight of the entropy bonus
VALUE_WEIGHT = 0.5  # weight of the critic's loss, as it shares layers with the actor
MAX_GRAD_NORM = 40  # clip gradients to this L2 norm; None: don't clip
N_WORKERS = mp.cpu_count()  # worker processes
SEED = 0  # seeds all random number generators
RENDER = False  # show the environment of worker w00
FRAME_SKIP = 4  # frames per step; 4 can hide Space Invaders' shots, drawn in every other frame
OWN_INIT = False  # PyTorch's default initialization with zero heads, instead of set_init
NO_OPS = 0  # up to this many no-op frames at the start of a game; 30 in DQN
ROWS = (34, 194)  # of the screen's 210: the game, without score and border
SAVE_MINUTES = 3  # minutes between two saves of the weights
CONTINUE_FROM = None  # a run's folder, such as "results/ALE-Pong-v5-1": start from its weights

gym.register_envs(ale_py)
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)


class Frames(gym.ObservationWrapper):
    """Screens at half the size, with a background of 0."""

    def __init__(self, env):
        super().__init__(env)
        env.reset(seed=0)
        screen, *_ = env.step(0)  # some games draw their screen only now
        self.background = int(np.bincount(screen[slice(*ROWS)].ravel()).argmax())  # commonest gray
        shape = self.observation(screen).shape
        self.observation_space = gym.spaces.Box(-2, 2, shape, np.float32)

    def reset(self, **options):
        screen, info = self.env.reset(**options)
        for _ in range(self.np_random.integers(NO_OPS + 1)):
            # Frames, not steps: after 4, 8, 12, ... frames, Breakout's ball starts the same way.
            self.unwrapped.ale.act(0)
            screen = self.unwrapped.ale.getScreenGrayscale()
        return self.observation(screen), info

    def observation(self, screen):
        """Return ROWS of a gray screen (210, 160), 2 x 2 max-pooled, minus the background."""
        game = screen[slice(*ROWS)]
        pairs = np.maximum(game[:-1:2], game[1::2])  # shots are 1 pixel wide
        brightest = np.maximum(pairs[:, :-1:2], pairs[:, 1::2])
        return (brightest.astype(np.float32) - self.background) / 128


def make_env(**options):
    """Return a new game; options are those of gym.make, such as render_mode="human"."""
    env = gym.make(
        ENV_NAME, obs_type="grayscale", frameskip=FRAME_SKIP, repeat_action_probability=0,
        disable_env_checker=True, **options,
    )  # fmt: skip
    return gym.wrappers.FrameStackObservation(Frames(env), 4)


env = make_env()
N_S, N_A = env.observation_space.shape, int(env.action_space.n)
env.close()  # each process makes its own


class Net(nn.Module):
    """Actor and critic of the last 4 frames (n, 4, 80, 80), with shared layers as in the paper."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.conv1 = nn.Conv2d(s_dim[0], 16, 8, stride=4)  # to 16 x 19 x 19
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)  # to 32 x 8 x 8
        size = self.conv2(self.conv1(torch.zeros(1, *s_dim))).numel()
        self.fc = nn.Linear(size, 256)
        self.pi = nn.Linear(256, a_dim)
        self.v = nn.Linear(256, 1)
        if OWN_INIT:
            nn.init.zeros_(self.v.weight)
            nn.init.zeros_(self.v.bias)
            nn.init.zeros_(self.pi.bias)
        else:
            set_init([self.conv1, self.conv2, self.fc, self.pi, self.v])
        nn.init.zeros_(self.pi.weight)  # the first policy is uniform
        self.to(memory_format=torch.channels_last)  # faster convolutions
        self.distribution = torch.distributions.Categorical

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.fc(x.flatten(1)))
        return self.pi(x), self.v(x)  # (n, a_dim), (n, 1)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Sample an action for one state (1, *s_dim); greedy: return the most probable one."""
        logits, _ = self.forward(s)
        if greedy:
            return logits.argmax().item()
        return F.softmax(logits, dim=1).multinomial(1).item()  # as distribution.sample(), faster

    def loss_func(self, s, a, v_t):
        """Return the loss of states s (n, *s_dim), actions a (n,), returns v_t (n, 1)."""
        logits, values = self.forward(s)
        advantage = v_t - values
        c_loss = advantage.pow(2).sum()  # S3: accumulate gradients, critic
        m = self.distribution(logits=logits)
        log_prob = m.log_prob(a)[:, None]  # (n, 1); (n,) times (n, 1) would be (n, n)
        assert log_prob.shape == values.shape == v_t.shape, "A_i log pi(a_i|s_i) would broadcast"
        a_loss = -(log_prob * advantage.detach()).sum()  # S3: accumulate gradients, actor
        entropy = m.entropy().sum()
        self.log = {"entropy": entropy.item() / len(s), "value error": c_loss.item() / len(s)}
        return VALUE_WEIGHT * c_loss + a_loss - ENTROPY_BETA * entropy


class Worker(mp.Process):
    """The Worker of discrete_A3C.py, for games with lives.

    It learns the sign of rewards, and a lost life ends the return but not the game. It adds its
    steps to g_step, and w00 saves the weights to folder every SAVE_MINUTES.
    """

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name, g_step, folder):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.g_step, self.folder = g_step, folder
        self.seed = torch.randint(2**31, ()).item()  # drawn in the parent, so workers differ

    def run(self):
        follow_parent()  # end when the parent ends; leave Ctrl-C to it
        torch.set_num_threads(1)  # in case torch was imported before OMP_NUM_THREADS was set
        seed_all(self.seed)
        env = make_env(render_mode="human") if RENDER and self.name == "w00" else make_env()
        env.reset(seed=self.seed)  # seeds the environment; later resets go on from it
        lnet = Net(N_S, N_A)  # local network
        lnet.load_state_dict(self.gnet.state_dict())
        begin, saved = time.perf_counter(), 0.0  # saved: minutes until the last save
        while self.g_ep.value < MAX_EP:  # S3: until T > T_max
            # Annealing is not in S3, but in the paper's experiments.
            self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
            s, info = env.reset()  # S3: get state
            lives = info["lives"]
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r, log = 0.0, []
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may reuse its array
                a = lnet.choose_action(v_wrap(s)[None])  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, info = env.step(a)  # S3: receive reward and new state
                ep_r += r
                buffer_r.append(np.sign(r))
                lost_life = info["lives"] < lives
                lives = info["lives"]
                if terminated or truncated or lost_life or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    with self.g_step.get_lock():
                        self.g_step.value += len(buffer_s)  # S3: count T
                    # done is terminated or lost_life; at a time limit the return bootstraps.
                    numbers = push_and_pull(
                        self.opt, lnet, self.gnet, terminated or lost_life, s_,
                        buffer_s, buffer_a, buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM,
                    )  # fmt: skip
                    log.append(numbers)
                    buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
                if terminated or truncated:
                    break
                s = s_
            record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, self.name, log)
            minutes = (time.perf_counter() - begin) / 60
            if self.name == "w00" and minutes - saved >= SAVE_MINUTES:
                save_weights(self.gnet, self.folder, self.g_ep.value, self.g_step.value, minutes)
                saved = minutes
        env.close()


def save_weights(gnet, folder, episodes, steps, minutes):
    """Replace folder/weights.pt, which is whole at any time, and print the run's progress."""
    torch.save(gnet.state_dict(), folder / "weights.part")
    (folder / "weights.part").replace(folder / "weights.pt")
    left = minutes * max(0, MAX_EP - episodes) / episodes
    speed = steps / (60 * minutes)
    print(f"Saved weights: {steps} steps, {speed:.0f} steps/s, {left:.0f} minutes left", flush=True)


if __name__ == "__main__":
    check_constants(globals())
    env = make_env()
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()  # global network
    if CONTINUE_FROM is not None:
        gnet.load_state_dict(torch.load(Path(CONTINUE_FROM) / "weights.pt", weights_only=True))
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    g_step = mp.Value("q", 0)
    run = new_run(ENV_NAME, globals().get("__file__"))
    shared = [gnet, opt, global_ep, global_ep_r, res_queue]
    workers = [Worker(*shared, i, g_step, run) for i in range(N_WORKERS)]
    res = []
    try:
        run_workers(workers, res_queue, res)
    finally:  # also after Ctrl-C or an error
        save_results(run, gnet, res, globals())
    # One game: without NO_OPS, all greedy games are the same.
    score = evaluate(gnet, env, SEED, episodes=1, max_steps=10_000).item()
    print(f"After training, the greedy policy returns {score:.0f} in one game")
    env.close()
    plt.show()
