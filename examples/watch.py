"""Watch a trained agent: the game, the actor and the critic. Run: python -m examples.watch

Needs pygame-ce for the pictures of gym: pip install pygame-ce. With SHOW = None nothing is drawn:
it plays EPISODES and prints their returns.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before importing torch

import json
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter

from examples.sweep import change
from utils import evaluate, v_wrap

PROGRAM = "discrete_A3C.py"  # that trained the run
WEIGHTS = "examples/weights/CartPole-v0"  # folder of a run, such as "results/CartPole-v0-1"
SHOW = "window"  # or "gif", which is written to the run's folder in results/; None: don't draw
STEPS = 400  # to show
EVERY = 2  # steps between two pictures
EPISODES = 100  # to play with SHOW = None
MAX_STEPS = 10_000  # of each of these episodes
SEED = 1  # of the first episode
SEEN = 200  # steps of V(s) in the plot


def load(program, folder):
    """Return `program` as a module with the constants of the run in `folder`, and its network."""
    constants = json.loads(Path(folder, "constants.json").read_text())
    text = Path(program).read_text()
    constants = {name: value for name, value in constants.items() if f"\n{name} = " in text}
    module = types.ModuleType("program")
    exec(compile(change(text, constants), program, "exec"), module.__dict__)
    net = module.Net(module.N_S, module.N_A)
    net.load_state_dict(torch.load(Path(folder, "weights.pt"), weights_only=True))
    return module, net.eval()


def play(net, env):
    """Yield each step of the greedy policy: picture, outputs of the policy, V(s) and reward."""
    for episode in range(STEPS):
        s, _ = env.reset(seed=SEED + episode)
        if hasattr(net, "forget"):
            net.forget()
        terminated = truncated = False
        r = 0.0
        while not (terminated or truncated):
            s = v_wrap(s)[None]
            with torch.no_grad():
                *outputs, value = net(s)
            yield env.render(), outputs, value.item(), np.asarray(r).item()
            s, r, terminated, truncated, _ = env.step(net.choose_action(s, greedy=True))


class Picture:
    """The game at the left; at the right what the actor and the critic think of it."""

    def __init__(self, net, env):
        self.net, self.steps, self.values, self.rewards = net, play(net, env), [], []
        self.fig, axes = plt.subplot_mosaic(
            [["game", "actor"], ["game", "critic"]], figsize=(6, 2.4), layout="constrained"
        )
        self.game, self.actor, self.critic = axes["game"], axes["actor"], axes["critic"]
        self.space = env.action_space

    def draw(self, _):
        for _ in range(EVERY):
            frame, outputs, value, r = next(self.steps)
            self.values.append(value)
            self.rewards.append(r)
        for ax in (self.game, self.actor, self.critic):
            ax.clear()
        self.game.imshow(frame)
        self.game.axis("off")
        self.actor.set_title("actor", size=8)
        if self.net.distribution is torch.distributions.Categorical:
            probs = torch.softmax(outputs[-1], dim=1)[0].tolist()
            self.actor.bar(range(len(probs)), probs, color="tab:orange")
            self.actor.set(ylim=(0, 1), xticks=range(len(probs)))
        else:
            mu, sigma = (output[0].tolist() for output in outputs[-2:])
            low, high = self.space.low.min(), self.space.high.max()
            self.actor.errorbar(mu, range(len(mu)), xerr=sigma, fmt="o", color="tab:orange")
            self.actor.set(xlim=(low, high), yticks=range(len(mu)), ylim=(-1, len(mu)))
        first = max(0, len(self.values) - SEEN)
        steps = range(first, len(self.values))
        self.critic.plot(steps, self.values[first:], label="V(s)")
        self.critic.plot(steps, self.rewards[first:], color="silver", label="reward")
        self.critic.set_title("critic", size=8)
        self.critic.legend(loc="lower left", fontsize=6)
        for ax in (self.actor, self.critic):
            ax.tick_params(labelsize=6)


def show(net, env):
    """Show the picture in a window, or write it to results/NAME.gif."""
    picture = Picture(net, env)
    frames = STEPS // EVERY
    animation = FuncAnimation(picture.fig, picture.draw, frames, lambda: None, interval=40)
    if SHOW == "gif":
        path = Path("results", f"{Path(WEIGHTS).name}.gif")
        path.parent.mkdir(exist_ok=True)
        animation.save(path, PillowWriter(fps=25), dpi=80)
        print(f"Saved {path}")
    else:
        plt.show()


def open_env(program):
    """Return an environment that draws, or None after a sentence on why it can't."""
    try:
        env = program.make_env(render_mode="rgb_array")
        env.reset(seed=SEED)
        np.shape(env.render())[2]
        return env
    except Exception as error:  # each game says it in another way
        print(f"{program.ENV_NAME} can't be drawn: {error}. Playing without pictures.")


def main():
    program, net = load(PROGRAM, WEIGHTS)
    has_window = plt.get_backend().lower() != "agg"  # agg: there is no display
    if SHOW == "gif" or (SHOW == "window" and has_window):
        env = open_env(program)
        if env is not None:
            show(net, env)
            env.close()
            return
    env = program.make_env()
    returns = evaluate(net, env, SEED, EPISODES, MAX_STEPS)
    env.close()
    numbers = returns.mean(), returns.std(), returns.min(), returns.max()
    told = "{} episodes: mean {:.2f}, standard deviation {:.2f}, lowest {:.2f}, highest {:.2f}"
    print(told.format(EPISODES, *numbers))


if __name__ == "__main__":
    main()
