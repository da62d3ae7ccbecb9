"""A3C on many machines, by Ray. Run: pip install ray && python -m examples.cluster

Shared memory ends where a machine ends. So the global network lies in a process of its own, the
parameter server: workers send it their gradients, and it sends back its weights. push_and_pull and
Net stay as they are, and so does the loop of Worker. What a worker prints is not shown, and buffers
of Net, such as BatchNorm's, are not learned. To make it yours, copy this file beside utils.py and
shared_adam.py.

On a cluster, each machine needs the packages of requirements.txt and ray. Start Ray on them, let
ADDRESS below be "auto", and run this file on the first:

    ray start --head                   on the first machine, which prints its address
    ray start --address=IT_PRINTED     on each of the others
"""

import os
import random
import signal
import sys
import time
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: later it does nothing

import gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import shared_adam
import utils
from shared_adam import SharedAdam
from utils import answer_ctrl_c, as_number, check_constants, check_env, check_finite, check_shapes
from utils import evaluate, print_greedy, push_and_pull, save_results, seed_all, set_init
from utils import show_picture, v_wrap

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # or Ray warns about it

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    sys.exit("The cluster needs one more package: pip install ray")

ADDRESS = None  # Ray on this machine alone; "auto": the cluster that `ray start` has started

ENV_NAME = "CartPole-v0"
UPDATE_GLOBAL_ITER = 10  # n, the steps between two updates
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # episodes of all workers together; those under way at the end are dropped
LR = 1e-3  # learning rate of Adam at the start; it falls to 0 over the run
BETAS = (0.92, 0.999)  # decay rates of Adam's two averages
ENTROPY_BETA = 0.01  # weight of the entropy bonus (section 4 of the paper, not in S3)
MAX_GRAD_NORM = None  # or a number, such as 40: a longer gradient is scaled down to this L2 norm
REWARD_SCALE = 1.0  # rewards are divided by this to learn from
FALL_REWARD = -1.0 if "CartPole" in str(ENV_NAME) else None  # learned from a fall; None: as paid
N_WORKERS = os.cpu_count()  # processes, ideally one for each core of the cluster
SEED = 2  # of all random numbers


def make_env(render=False):
    """Return a new environment. `render`: True for a window, or a render mode of Gym's."""
    options = {}
    if render:
        options["render_mode"] = "human" if render is True else render
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date")  # CartPole-v0 is meant
        return gym.make(ENV_NAME, disable_env_checker=True, **options)


try:
    env = make_env()
    N_S, N_A = env.observation_space.shape[0], int(env.action_space.n)
    env.close()  # each worker makes its own
except Exception:  # main says what is wrong with ENV_NAME
    N_S, N_A = None, None


class Net(nn.Module):
    """Actor and critic of states (n, s_dim) (tutorial: "Neural Network Architecture")."""

    def __init__(self, s_dim, a_dim):
        super().__init__()
        self.s_dim, self.a_dim = s_dim, a_dim
        self.pi1 = nn.Linear(s_dim, 128)
        self.pi2 = nn.Linear(128, a_dim)
        self.v1 = nn.Linear(s_dim, 128)
        self.v2 = nn.Linear(128, 1)
        set_init([self.pi1, self.pi2, self.v1, self.v2])
        self.distribution = torch.distributions.Categorical

    def forward(self, x):
        pi1 = F.relu(self.pi1(x))
        logits = self.pi2(pi1)
        v1 = F.relu(self.v1(x))
        values = self.v2(v1)
        return logits, values  # (n, a_dim), (n, 1)

    @torch.no_grad()
    def choose_action(self, s, greedy=False):
        """Draw an action for one state (1, s_dim); greedy: take the likeliest."""
        logits, _ = self.forward(s)
        probs = F.softmax(logits, dim=1)[0].tolist()
        check_finite("policy", sum(probs), self, s)
        if greedy:
            return logits.argmax().item()
        return random.choices(range(self.a_dim), probs)[0]  # it is m.sample(), but faster

    def loss_func(self, s, a, v_t):
        """Return the scalar loss of states (n, s_dim), actions (n, ...) and returns (n, 1)."""
        logits, values = self.forward(s)
        m = self.distribution(logits=logits, validate_args=False)
        check_shapes(s, a, v_t, values, m)
        td = v_t - values  # the advantage
        c_loss = td.pow(2).sum()  # S3: accumulate gradients, critic
        log_prob = m.log_prob(a).view(len(a), -1)
        a_loss = -(log_prob * td.detach()).sum()  # S3: accumulate gradients, actor
        return c_loss + a_loss - ENTROPY_BETA * m.entropy().sum()


class Server:
    """What lies in shared memory elsewhere: global network, optimizer, counter and average."""

    def __init__(self, weights):
        torch.set_num_threads(1)
        self.gnet = Net(N_S, N_A)
        load_arrays(self.gnet, weights)
        self.opt = SharedAdam(self.gnet.parameters(), lr=LR, betas=BETAS)
        self.episodes = []  # (name of the worker, moving average), one an episode
        self.n_steps = 0

    def weights(self):
        return arrays_of(self.gnet)

    def update(self, gradients):
        """Take one step of Adam along `gradients`, arrays by parameter; return the weights."""
        # Annealed to 0 as in the paper's experiments (its supplement); S3 does not say so.
        self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - len(self.episodes) / MAX_EP)
        for p, gradient in zip(self.gnet.parameters(), gradients):
            p.grad = None  # it stays so where forward does not use p
            if gradient is not None:
                # Laid out in memory as p: the fused Adam takes both for alike.
                p.grad = torch.empty_like(p.data).copy_(torch.tensor(gradient))
        self.opt.step()  # S3: asynchronous update
        return self.weights()

    def record(self, name, ep_r, steps):
        """Count an episode of `name`, of return `ep_r`; return how many episodes there are."""
        average = ep_r
        if self.episodes:
            average = 0.99 * self.episodes[-1][1] + 0.01 * ep_r
        self.episodes.append((name, average))  # S3: count T, here in episodes
        self.n_steps += steps
        return len(self.episodes)

    def news(self, known):
        """Return what came after the first `known` episodes, the count of steps, and weights."""
        return self.episodes[known:], self.n_steps, self.weights()


class RemoteAdam:
    """The optimizer of a worker, whose `gnet` mirrors the server's: it steps there."""

    def __init__(self, server, gnet):
        self.server, self.gnet = server, gnet

    def step(self):
        gradients = [None if p.grad is None else p.grad.numpy() for p in self.gnet.parameters()]
        load_arrays(self.gnet, ray.get(self.server.update.remote(gradients)))


def arrays_of(net):
    """Return the weights of `net` as arrays by name, as Ray sends them."""
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def load_arrays(net, weights):
    """Copy `weights`, arrays by name, into `net`."""
    net.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})


class Worker:
    """Actor-learner number `name`, as in discrete_A3C.py but on Ray, with a `server`.

    Ray makes the process: `Worker` and `__init__` know no `Process`, `run` no `follow_parent`. It
    gets the `server`, of whose network `gnet` is a mirror; `opt` is a `RemoteAdam`. The `server`
    anneals `lr`, and counts episodes and steps (`n_episodes`, `n_steps`, `g_ep`, `record`). Each
    worker has one thread (`set_num_threads`), is told its `seed`, and `make_env` has no `RENDER`.
    """

    def __init__(self, name, seed):
        torch.set_num_threads(1)
        self.name, self.seed = f"w{name:02d}", seed

    def run(self, server):
        seed_all(self.seed)
        env = make_env()
        env.reset(seed=self.seed)
        gnet = Net(N_S, N_A)
        load_arrays(gnet, ray.get(server.weights.remote()))
        opt = RemoteAdam(server, gnet)
        lnet = Net(N_S, N_A)  # the local network
        lnet.load_state_dict(gnet.state_dict())
        n_episodes = 0  # of all workers
        while n_episodes < MAX_EP:  # S3: until T > T_max
            n_steps = 0  # S3: initialize t
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may write into s
                a = lnet.choose_action(v_wrap(s[None, :]))  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                n_steps += 1  # S3: t = t + 1
                ep_r += r
                if terminated and FALL_REWARD is not None:
                    r = FALL_REWARD
                buffer_r.append(r / REWARD_SCALE)
                # S3: until terminal or t_max; a time limit (truncated) is not terminal
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    push_and_pull(opt, lnet, gnet, terminated, s_, buffer_s, buffer_a, buffer_r,
                                  GAMMA, max_grad_norm=MAX_GRAD_NORM)  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []
                    if terminated or truncated:
                        break
                s = s_
            n_episodes = ray.get(server.record.remote(self.name, as_number(ep_r), n_steps))


def learn(gnet, res):
    """Run server and workers; print the episodes, and append their moving averages to `res`.

    Five times a second `gnet` becomes what the server has learned: all that is left if it dies.
    Returns the number of steps. SystemExit: a sentence on what died, or 130 after Ctrl-C.
    """
    n_steps = 0
    try:
        for module in (utils, shared_adam):  # other machines get them by Ray
            ray.cloudpickle.register_pickle_by_value(module)
        options = {"log_to_driver": False, "logging_level": "ERROR"}
        if ADDRESS is None:  # one of its own, even if another Ray runs on this machine
            ray.init("local", include_dashboard=False, **options)
        else:
            ray.init(ADDRESS, **options)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Server).options(scheduling_strategy=here, num_cpus=0)
        server = actor.remote(arrays_of(gnet))
        # Ray starts a worker that died, or whose machine did, again, and its run() too.
        again = {"max_restarts": -1, "max_task_retries": -1}
        actor = ray.remote(Worker).options(scheduling_strategy="SPREAD", **again)
        seeds = torch.randint(2**31, (N_WORKERS,)).tolist()  # each worker's differs
        workers = [actor.remote(i, seed) for i, seed in enumerate(seeds)]
        runs = [worker.run.remote(server) for worker in workers]
        while len(res) < MAX_EP:
            ended, _ = ray.wait(runs, num_returns=N_WORKERS, timeout=0.2)
            try:
                episodes, n_steps, weights = ray.get(server.news.remote(len(res)))
            except ray.exceptions.RayActorError:
                sys.exit("The server died, or its machine; its last weights are saved.")
            load_arrays(gnet, weights)
            for name, average in episodes:
                res.append(average)
                print(f"{name} Ep: {len(res)} | Ep_r: {average:.2f}", flush=True)
            ray.get(ended)  # raises what a worker raised, in its run or at its start
        return n_steps
    except (ray.exceptions.RayTaskError, ray.exceptions.RayActorError) as error:
        print(error, file=sys.stderr)
        sys.exit("A worker died: its error stands above.")
    except ConnectionError as error:
        sys.exit(f"ADDRESS = {ADDRESS!r}: {error} Use `ray start` first, or None.")
    except KeyboardInterrupt:
        answer_ctrl_c(signal.SIG_IGN)
        print("Saving ...", flush=True)
        sys.exit(130)


if __name__ == "__main__":
    check_constants(globals())
    env = check_env(ENV_NAME, make_env, gym.spaces.Discrete)
    threshold = env.spec.reward_threshold if env.spec else None  # of the picture's dashed line
    seed_all(SEED)
    gnet = Net(N_S, N_A)  # a copy of the server's network
    before = evaluate(gnet, env, SEED)
    res = []
    begin = time.perf_counter()
    try:
        n_steps = learn(gnet, res)
    finally:
        seconds = time.perf_counter() - begin
        title = (
            f"{UPDATE_GLOBAL_ITER = }, {GAMMA = }, {MAX_EP = }, {LR = }, {BETAS = }, "
            f"{ENTROPY_BETA = }, {MAX_GRAD_NORM = }, {REWARD_SCALE = }, "
            f"{FALL_REWARD = }, "
            f"{N_WORKERS = }, {SEED = }"
        )
        saved = save_results(gnet, res, ENV_NAME, title, threshold)
    print(f"{len(res)} episodes in {seconds:.1f} s, {n_steps / seconds:.0f} env steps/s")
    print_greedy(gnet, env, SEED, before)
    show_picture()
    if not saved:
        raise SystemExit(1)  # save_results has said why
