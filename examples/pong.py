"""A3C from pixels: learns Pong. Run: pip install gymnasium ale-py && python -m examples.pong

The loss and Algorithm S3 are those of discrete_A3C.py, push_and_pull and SharedAdam too. What
images change: the screen becomes four small frames with a background of 0, actor and critic share
their first layers, and the weights are saved every few minutes, as a run takes 20 minutes.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import io
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

from shared_adam import SharedAdam
from utils import check_constants, evaluate, follow_parent, run_workers
from utils import push_and_pull, record, save_results, seed_all, set_init, v_wrap, write_whole

try:
    import ale_py
    import gymnasium as gym
except ImportError:
    sys.exit("Pong needs two more packages: pip install gymnasium ale-py")

ENV_NAME = "ALE/Pong-v5"
UPDATE_GLOBAL_ITER = 20  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # games of all workers together
LR = 3e-4  # learning rate of Adam
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus
VALUE_WEIGHT = 0.5  # weight of the critic's loss: it shares layers with the actor
MAX_GRAD_NORM = 40  # clips the gradient to that L2 norm
N_WORKERS = mp.cpu_count()  # processes, ideally one for each core
SEED = 0  # of all random numbers
RENDER = False  # True: worker w00 shows its game
SAVE_MINUTES = 3  # the weights are saved that often
CONTINUE_FROM = None  # "results/ALE-Pong-v5.pt": start from these weights
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
    """Return a new game, in a window if `render`. A step is four frames of the game."""
    window = "human" if render else None
    game = {"obs_type": "grayscale", "frameskip": 4, "repeat_action_probability": 0}
    return stack_frames(gym.make(ENV_NAME, render_mode=window, disable_env_checker=True, **game))


class Net(nn.Module):
    """Actor and critic on one trunk: states (n, 4, 80, 80) to logits (n, a_dim), values (n, 1)."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim = s_dim
        self.a_dim = a_dim
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

    def choose_action(self, s, greedy=False):
        """Draw an action, an int, for one state (1, 4, 80, 80); greedy: take the likeliest."""
        with torch.no_grad():
            logits, _ = self.forward(s)
            if greedy:
                return logits.argmax().item()
            return torch.multinomial(F.softmax(logits, dim=1), 1).item()

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, 4, 80, 80), actions (n,) and returns (n, 1)."""
        logits, values = self.forward(s)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()
        m = self.distribution(logits=logits, validate_args=False)
        a_loss = -(m.log_prob(a) * td.detach().squeeze(1)).sum()
        return VALUE_WEIGHT * c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Worker(mp.Process):
    """Actor-learner number `name`; w00 also tells the time and saves the weights."""

    def __init__(self, gnet, opt, global_ep, global_ep_r, res_queue, name, global_step):
        super().__init__(name=f"w{name:02d}")
        self.gnet, self.opt = gnet, opt
        self.g_ep, self.g_ep_r, self.res_queue = global_ep, global_ep_r, res_queue
        self.g_step = global_step
        self.seed = torch.randint(2**31, ()).item()  # its own: a fork copies the generators

    def run(self):
        follow_parent()
        seed_all(self.seed)
        start = saved = time.perf_counter()
        env = make_env(RENDER and self.name == "w00")
        env.reset(seed=self.seed)
        gnet, opt = self.gnet, self.opt
        lnet = Net(N_S, N_A)
        lnet.load_state_dict(gnet.state_dict())
        while self.g_ep.value < MAX_EP:
            s, _ = env.reset()
            buffer_s, buffer_a, buffer_r = [], [], []
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None]))
                s_, r, terminated, truncated, _ = env.step(a)
                ep_r += r
                buffer_a.append(a)
                buffer_r.append(r)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    with self.g_step.get_lock():
                        self.g_step.value += len(buffer_s)
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
                save_weights(gnet)
                saved = now


def print_progress(steps, seconds):
    print(f"{steps} env steps in {seconds / 60:.1f} min, {steps / seconds:.0f} env steps/s")


def save_weights(net):
    """Save the weights of `net` where the run's end saves them too."""
    data = io.BytesIO()
    torch.save(net.state_dict(), data)
    write_whole(f"{ENV_NAME.replace('/', '-')}.pt", data)


def load_weights(net, path):
    """Load the weights that a run saved at `path`, or exit with a sentence on what to change."""
    try:
        net.load_state_dict(torch.load(path, weights_only=True))
    except Exception as error:
        sys.exit(f"CONTINUE_FROM = {path!r}: take a file that Pong saved ({type(error).__name__}).")
    saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(Path(path).stat().st_mtime))
    print(f"Continuing from {path}, saved {saved}; games and Adam's averages start anew")


if __name__ == "__main__":
    title = check_constants(UPDATE_GLOBAL_ITER, GAMMA, MAX_EP, LR, BETAS, ENTROPY_BETA,
                            MAX_GRAD_NORM, N_WORKERS, SEED, RENDER)  # fmt: skip
    seed_all(SEED)
    gnet = Net(N_S, N_A).share_memory()
    if CONTINUE_FROM is not None:
        load_weights(gnet, CONTINUE_FROM)
    opt = SharedAdam(gnet.parameters(), lr=LR, betas=BETAS)
    global_ep, global_ep_r, res_queue = mp.Value("i", 0), mp.Value("d", 0.0), mp.SimpleQueue()
    shared = [gnet, opt, global_ep, global_ep_r, res_queue]
    global_step = mp.Value("q", 0)
    workers = [Worker(*shared, i, global_step) for i in range(N_WORKERS)]
    res, seconds, failure = run_workers(workers, res_queue)
    saved = save_results(gnet, res, ENV_NAME, title)
    print_progress(global_step.value, seconds)
    if failure is None:
        score = evaluate(gnet, make_env(), SEED, episodes=1)
        print(f"Greedy policy: return {score:.0f} in one game (nothing in it is random)")
        plt.show()
    sys.exit(failure or int(not saved))
