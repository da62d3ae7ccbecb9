"""Adam for many processes (tutorial: "Shared Optimizer")."""

import torch


class SharedAdam(torch.optim.Adam):
    """Adam whose whole state lies in shared memory: all workers update it, without locks.

    Unlike torch.optim.Adam's, the state exists from the start, `betas` are the tutorial's, and a
    step is fused: make both networks channels_last or neither, as it checks no memory layout. The
    paper itself (section 4) uses RMSProp with shared statistics, without momentum.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0):
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = torch.tensor(0.0).share_memory_()  # counts all workers' updates
                state["exp_avg"] = torch.zeros_like(p.data).share_memory_()
                state["exp_avg_sq"] = torch.zeros_like(p.data).share_memory_()

    def add_param_group(self, param_group):
        """Refuse groups that come later, with a RuntimeError: running workers never see them."""
        if self.state:
            raise RuntimeError("Give all parameters to SharedAdam(...): no group can be added.")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict):
        """Load a saved state and share its tensors too; call it before the workers start."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for tensor in state.values():
                tensor.share_memory_()
