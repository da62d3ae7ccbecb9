"""A3C on many machines, with Ray. Run: pip install ray && python -m examples.cluster

Shared memory ends where a machine ends, so here the global network and SharedAdam are in a process
of their own, the parameter server: workers send it gradients and get weights back. push_and_pull
does not change, because all it asks of an optimizer is step(), and that can call the server.

Network and environment, ENV_NAME and ENTROPY_BETA are those of discrete_A3C.py: change them there.
So this file needs discrete_A3C.py, utils.py and shared_adam.py. Buffers of a network (BatchNorm's
running mean, say) are not sent.

With two workers it takes a minute or two, and then CartPole-v0's greedy policy returns 200 (5 seeds
of 5).

On a cluster, every machine needs the packages of requirements.txt and ray. Set ADDRESS = "auto",
start Ray, and run this file on the first machine:

    ray start --head                    on the first machine; prints its address
    ray start --address=THAT_ADDRESS    on each of the others
"""

import os
import signal
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch, or small networks are slow
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import matplotlib.pyplot as plt
import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import discrete_A3C
import shared_adam
import utils
from discrete_A3C import ENV_NAME, N_A, N_S, Net, make_env
from shared_adam import SharedAdam
from utils import check_constants, evaluate, new_run, push_and_pull, save_results, seed_all, v_wrap

ADDRESS = "local"  # this machine only; "auto": the cluster that `ray start` made
UPDATE_GLOBAL_ITER = 20  # n, steps between two updates; a larger n means fewer messages
GAMMA = 0.99  # discount factor
MAX_EP = 1000  # total episodes, all workers (a few more may finish)
LR = 2e-3  # initial learning rate of Adam, annealed to 0 over MAX_EP
BETAS = (0.92, 0.999)  # decay rates of Adam's moving averages
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
        self.episodes = []  # (name of the worker, moving average of all returns)

    def weights(self):
        return get_weights(self.gnet)

    def update(self, gradients):
        """Take one step of Adam; return the new weights."""
        # Annealing is not in S3, but in the paper's experiments.
        self.opt.param_groups[0]["lr"] = LR * max(0.0, 1.0 - len(self.episodes) / MAX_EP)
        for p, gradient in zip(self.gnet.parameters(), gradients):
            p.grad = torch.tensor(gradient)
        self.opt.step()  # S3: asynchronous update
        return self.weights()

    def record(self, name, ep_r):
        """Count an episode of return ep_r by worker `name`; return the number of episodes."""
        average = np.asarray(ep_r).item()
        if self.episodes:
            average = 0.99 * self.episodes[-1][1] + 0.01 * average
        self.episodes.append((name, average))  # S3: count T, here in episodes
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
    """An actor-learner, as in discrete_A3C.py but with a `server` in place of shared memory.

    Ray starts and ends it: `Worker` and its `__init__` need no `Process`, `run` no `follow_parent`.
    `gnet` mirrors the server's network, and `opt` is a `RemoteAdam`. The server anneals `lr`, and
    its `record` returns `n_episodes`, which was `g_ep`. The main program draws each `seed`, and
    `make_env` knows no `RENDER`.
    """

    def __init__(self, seed, name):
        self.seed, self.name = seed, f"w{name:02d}"

    def run(self, server):
        seed_all(self.seed)
        env = make_env()
        env.reset(seed=self.seed)
        gnet = Net(N_S, N_A)
        set_weights(gnet, ray.get(server.weights.remote()))
        opt = RemoteAdam(server, gnet)
        lnet = Net(N_S, N_A)  # local network
        lnet.load_state_dict(gnet.state_dict())
        n_episodes = 0  # of all workers
        while n_episodes < MAX_EP:  # S3: until T > T_max
            s, _ = env.reset()  # S3: get state
            buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
            ep_r = 0.0
            while True:
                buffer_s.append(np.array(s))  # a copy: the environment may reuse its array
                a = lnet.choose_action(v_wrap(s)[None])  # S3: perform a_t
                buffer_a.append(a)
                s_, r, terminated, truncated, _ = env.step(a)  # S3: receive reward and new state
                ep_r += r
                buffer_r.append(r / REWARD_SCALE)
                if terminated or truncated or len(buffer_s) >= UPDATE_GLOBAL_ITER:
                    # At a time limit (truncated) rewards would go on, so it does not count as done.
                    push_and_pull(
                        opt, lnet, gnet, terminated, s_,
                        buffer_s, buffer_a, buffer_r, GAMMA, max_grad_norm=MAX_GRAD_NORM,
                    )  # fmt: skip
                    buffer_s, buffer_a, buffer_r = [], [], []  # S3: t_start = t
                if terminated or truncated:
                    break
                s = s_
            n_episodes = ray.get(server.record.remote(self.name, ep_r))
        env.close()


def learn(gnet, res):
    """Start a server with the weights of gnet, and workers; return after MAX_EP episodes.

    Prints each episode and appends its moving average to res. Copies the server's weights to gnet
    five times a second: they are what is left if the server dies. Raises what a worker raises;
    SystemExit if the server died, with 130 after Ctrl-C, and with 143 after SIGTERM.
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
            for name, average in episodes:
                res.append(average)
                print(f"{name} Ep: {len(res)} | Ep_r: {average:.2f}", flush=True)
            ray.get(ended)  # after news: if the server dies, workers raise errors too
    except KeyboardInterrupt:
        print("Saving ...", flush=True)
        sys.exit(status)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    constants = check_constants(vars(discrete_A3C) | globals())
    env = make_env()
    seed_all(SEED)
    gnet = Net(N_S, N_A)  # a mirror of the server's
    run = new_run(ENV_NAME)
    print(f"Before training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    res = []
    try:
        learn(gnet, res)
    finally:  # also after Ctrl-C or an error
        save_results(run, gnet, res, constants)
    print(f"After training, the greedy policy returns {evaluate(gnet, env, SEED).mean():.2f}")
    env.close()
    plt.show()
