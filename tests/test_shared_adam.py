"""SharedAdam, with torch.optim.Adam as the oracle."""

import copy

import torch
import torch.multiprocessing as mp
from torch import nn

from shared_adam import SharedAdam


def steps(net, opt, gradient=1.0):
    for i in range(10):
        for p in net.parameters():
            p.grad = torch.full_like(p, gradient * (i + 1))
        opt.step()


def pair():
    """Return a network with SharedAdam, and the same one with torch.optim.Adam."""
    ours = nn.Linear(3, 2).share_memory()
    theirs = copy.deepcopy(ours)
    options = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
    opt = SharedAdam(ours.parameters(), **options)
    return ours, opt, theirs, torch.optim.Adam(theirs.parameters(), **options)


def assert_close(ours, theirs):
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-6)


def test_defaults_are_the_tutorials():
    defaults = SharedAdam(nn.Linear(3, 2).parameters()).defaults
    names = ("lr", "betas", "eps", "weight_decay")
    assert tuple(defaults[name] for name in names) == (1e-3, (0.9, 0.99), 1e-8, 0)


def test_workers_update_and_count_together():
    ours, opt, theirs, adam = pair()
    assert all(tensor.is_shared() for state in opt.state.values() for tensor in state.values())
    for number in (1, 2):
        process = mp.Process(target=steps, args=(ours, opt))
        process.start()
        process.join(600)
        assert process.exitcode == 0
        assert [state["step"].item() for state in opt.state.values()] == [10 * number] * 2
        steps(theirs, adam)
        assert_close(ours, theirs)


def test_a_loaded_state_is_shared_and_goes_on():
    ours, opt, theirs, adam = pair()
    steps(ours, opt)
    continued = SharedAdam(ours.parameters())
    continued.load_state_dict(copy.deepcopy(opt.state_dict()))
    for state in continued.state.values():
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(tensor.is_shared() for tensor in state.values())
    steps(ours, continued, gradient=-3.0)
    steps(theirs, adam)
    steps(theirs, adam, gradient=-3.0)
    assert_close(ours, theirs)
