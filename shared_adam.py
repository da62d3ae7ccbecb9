"""Adam for many processes (tutorial: "Shared Optimizer")."""

import torch


class SharedAdam(torch.optim.Adam):
    """Adam with its statistics in shared memory, so that all workers update them, without locks.

    The arguments are those of torch.optim.Adam, the defaults the tutorial's. Each process keeps its
    own param_groups, and so its own lr. The paper (section 4) shares RMSProp's statistics instead.
    Gradients must have the memory layout of their weights (both contiguous, or both channels_last):
    otherwise the fused kernel computes wrong updates, without an error.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0):
        # fused: one kernel for all weights, faster than the default
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                # Counts the updates of all workers; a few get lost, as nothing is locked.
                state["step"] = torch.tensor(0.0).share_memory_()
                state["exp_avg"] = torch.zeros_like(p).share_memory_()
                state["exp_avg_sq"] = torch.zeros_like(p).share_memory_()

    def load_state_dict(self, state_dict):
        """Load a saved state and share it again; call it before the workers start."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for tensor in state.values():
                tensor.share_memory_()
