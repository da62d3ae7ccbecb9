"""A3C on many machines, with Ray. Run: pip install ray && python -m examples.cluster

Machines share no memory. Here the global network and SharedAdam are in a process of their own, the
parameter server: workers send it gradients and get weights back. push_and_pull stays the same; the
optimizer it gets is a RemoteAdam, whose step() calls the server.

Network and environment, ENV_NAME and ENTROPY_BETA are those of discrete_A3C.py: change them there.
So this file needs discrete_A3C.py, utils.py and shared_adam.py. Buffers of a network (BatchNorm's
running mean, say) are not sent.

As it is, two workers solve CartPole with 5 seeds of 5 (experiments/README.md).

One server takes 1,100 updates/s from workers that only send, all on two cores. A worker of CartPole
plays 8,100 steps/s on a core of its own, so a server feeds 2.7 workers with n = 20, 13.7 with
n = 100. For more, split the network over several servers.

On a cluster, every machine needs the packages of requirements.txt and ray. Set ADDRESS = "auto",
start Ray, and run this file on the first machine:

    ray start --head                    on the first machine; prints its address
    ray start --address=THAT_ADDRESS    on each of the others
"""

import os
import queue
import signal
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch, or small networks are slow
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import matplotlib.pyplot as plt
import numpy as np
import ray
import torch
import torch.multiprocessing as mp
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import discrete_A3C
import shared_adam
import utils
from discrete_A3C import ENTROPY_BETA  # noqa: F401 (Net uses it, and constants.json names it)
from discrete_A3C import ENV_NAME, N_A, N_S, Net, make_env
from shared_adam import SharedAdam
from utils import push_and_pull, record, v_wrap  # A3C itself
from utils import check_constants, seed_all  # a run
from utils import evaluate, new_run, save_results  # its results

ADDRESS = "local"  # this machine only; "auto": the cluster that `ray start` made
UPDATE_GLOBAL_ITER = 20  # n: steps per update; a larger n means fewer messages
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # total episodes, all workers (a few more may finish)
LR = 2e-3  # of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # Adam's decay rates, as in discrete_A3C.py
MAX_GRAD_NORM = None  # clip gradients to this L2 norm; None: don't clip
REWARD_SCALE = 10.0  # learn from rewards divided by this
N_WORKERS = os.cpu_count()  # worker processes; on a cluster, the cores of all machines
SEED = 2  # seeds all random number generators


def get_weights(net):
    """Return the weights of net: a list of arrays, in the order of net.parameters()."""
    return [p.detach().numpy() for p in net.parameters()]


def set_weights(net, weights):
    """Copy weights, as get_weights returns them, into net."""
    with torch.no_grad():
        for p, weight in zip(net.parameters(), weights):
            p.copy_(torch.tensor(weight))


class Server:
    """The parameter server: what discrete_A3C.py has in shared memory.

    Weights and gradients are lists of arrays, in the order of net.parameters(). Ray runs one call
    after the other, so that updates do not mix, as they may in shared memory.
    """

    def __init__(self, weights):
        self.gnet = Net(N_S, N_A)  # global network
        set_weights(self.gnet, weights)
        self.opt = SharedAdam(self.gnet.parameters(), lr=LR, betas=BETAS)  # global optimizer
        self.g_ep, self.g_ep_r = mp.Value("i", 0), mp.Value("d", 0.0)
        self.res_queue = queue.SimpleQueue()
        self.episodes = []  # (name of the worker, row of the episode)

    def weights(self):
        return get_weights(self.gnet)

    def update(self, gradients):
        """Take one step of Adam; return the new weights."""
        # Annealing is not in S3, but in the paper's experiments.
        self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - self.g_ep.value / MAX_EP)
        for p, gradient in zip(self.gnet.parameters(), gradients):
            p.grad = torch.tensor(gradient)
        self.opt.step()  # S3: asynchronous update
        return self.weights()

    def record(self, name, ep_r, log=()):
        """Record an episode of worker `name`, as utils.record does; return their number."""
        record(self.g_ep, self.g_ep_r, ep_r, self.res_queue, name, log)
        self.episodes.append((name, self.res_queue.get()))
        return len(self.episodes)

    def news(self, n):
        """Return all episodes after the first n, and the weights."""
        return self.episodes[n:], self.weights()


class RemoteAdam:
    """A worker's optimizer: its step sends gradients to the server and gets weights for gnet."""

    def __init__(self, server, gnet):
        self.server, self.gnet = server, gnet

    def step(self):
        gradients = [p.grad.numpy() for p in self.gnet.parameters()]
        set_weights(self.gnet, ray.get(self.server.update.remote(gradients)))


class Worker:
    """The Worker of discrete_A3C.py as a Ray actor, with a server in place of shared memory.

    Its gnet mirrors the server's network, and opt is a RemoteAdam; the server anneals lr and counts
    the episodes.
    """

    def __init__(self, seed, name):
        self.seed, self.name = seed, f"w{name:02d}"

    def run(self, server):
        torch.set_num_threads(1)  # in case torch was imported before OMP_NUM_THREADS was set
        seed_all(self.seed)
        env = make_env()
        env.reset(seed=self.seed)  # seeds the environment; later resets go on from it
        gnet = Net(N_S, N_A)
        set_weights(gnet, ray.get(server.weights.remote()))
        opt = RemoteAdam(server, gnet)
        lnet = Net(N_S, N_A)  # local network
        lnet.load_state_dict(gnet.state_dict())
        n_episodes = 0  # of all workers
        while n_episodes < MAX_EP:  # S3: until T > T_max
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r, log = 0.0, []
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may reuse its array
                a = lnet.choose_action(v_wrap(s)[None])  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    # Pass terminated only: at a time limit (truncated) the return still bootstraps.
                    numbers = push_and_pull(
                        opt, lnet, gnet, terminated, s_,
                        buffer_s, buffer_a, buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM,
                    )  # fmt: skip
                    log.append(numbers)
                    buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
                if terminated or truncated:
                    break
                s = s_
            n_episodes = ray.get(server.record.remote(self.name, ep_r, log))
        env.close()


def learn(gnet, res):
    """Start a server with the weights of gnet, and workers; return after MAX_EP episodes.

    Prints each episode and appends its row to res. Copies the server's weights to gnet five times a
    second: they are what is left if the server dies. Raises what a worker raises; exits with an
    error if the server dies, with 130 after Ctrl-C, with 143 after SIGTERM.
    """
    status = 130

    def on_sigterm(*_):
        nonlocal status
        status = 143
        raise KeyboardInterrupt  # Ray turns SystemExit into one of its own

    try:
        for module in (discrete_A3C, shared_adam, utils):  # other machines don't have these files
            ray.cloudpickle.register_pickle_by_value(module)
        ray.init(ADDRESS, log_to_driver=False, logging_level="ERROR")
        signal.signal(signal.SIGTERM, on_sigterm)  # after init, which sets Ray's
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Server).options(scheduling_strategy=here, num_cpus=0)
        server = actor.remote(get_weights(gnet))
        # If a worker or its machine dies, Ray starts it again, and its run() as well.
        again = {"max_restarts": -1, "max_task_retries": -1}
        actor = ray.remote(Worker).options(scheduling_strategy="SPREAD", **again)
        workers = [actor.remote(torch.randint(2**31, ()).item(), i) for i in range(N_WORKERS)]
        runs = [worker.run.remote(server) for worker in workers]
        while len(res) < MAX_EP:
            ended, _ = ray.wait(runs, num_returns=N_WORKERS, timeout=0.2)
            try:
                episodes, weights = ray.get(server.news.remote(len(res)))
            except ray.exceptions.RayActorError as error:
                sys.exit(f"The server died; its last weights are saved. {error}")
            set_weights(gnet, weights)
            for name, row in episodes:
                res.append(row)
                print(f"{name} Ep: {len(res)} | Ep_r: {row['average']:.2f}", flush=True)
            ray.get(ended)  # after news: if the server dies, workers raise errors too
    except KeyboardInterrupt:
        print("Saving ...", flush=True)
        sys.exit(status)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    check_constants(globals())
    env = make_env()
    seed_all(SEED)
    gnet = Net(N_S, N_A)  # a mirror of the server's
    run = new_run(ENV_NAME, globals().get("__file__"))
    print(f"Before training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    res = []
    try:
        learn(gnet, res)
    finally:  # also after Ctrl-C or an error
        save_results(run, gnet, res, globals())
    print(f"After training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    env.close()
    plt.show()
