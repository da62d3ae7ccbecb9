"""What A3C is mostly put together from, to compare with: see speed.py, which copies this file.

A SharedAdam and a push_and_pull of stock parts: PyTorch's Adam as it comes, tensors by way of
np.vstack, load_state_dict to pull. They do what those of shared_adam.py and utils.py do.
"""

import numpy as np
import torch

from utils import v_wrap


class SharedAdam(torch.optim.Adam):
    def __init__(self, params, lr, betas):
        super().__init__(params, lr=lr, betas=betas)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.tensor(0.0).share_memory_(),
                    "exp_avg": torch.zeros_like(p).share_memory_(),
                    "exp_avg_sq": torch.zeros_like(p).share_memory_(),
                }


def push_and_pull(opt, lnet, gnet, done, s_, bs, ba, br, gamma, *, max_grad_norm=None):
    if done:
        v_s_ = 0.0
    else:
        v_s_ = lnet.forward(v_wrap(s_[None, :]))[-1].detach().numpy()[0, 0]
    buffer_v_target = []
    for r in br[::-1]:
        v_s_ = r + gamma * v_s_
        buffer_v_target.append(v_s_)
    buffer_v_target.reverse()
    a = np.array(ba)
    if a.dtype == np.int64:
        a = v_wrap(a, dtype=np.int64)
    else:
        a = v_wrap(np.vstack(ba))
    loss = lnet.loss_func(v_wrap(np.vstack(bs)), a, v_wrap(np.array(buffer_v_target)[:, None]))
    lnet.zero_grad()
    loss.backward()
    for lp, gp in zip(lnet.parameters(), gnet.parameters()):
        gp.grad = lp.grad
    opt.step()
    lnet.load_state_dict(gnet.state_dict())
