"""Adam for many processes (tutorial: "Shared Optimizer"; Mnih et al. 2016, section 4)."""

import torch


class SharedAdam(torch.optim.Adam):
    """Adam whose whole state all workers share, without locks; options as torch.optim.Adam's."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0):
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)  # a third of the time
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["step"] = torch.tensor(0.0).share_memory_()  # counts all the updates
                self.state[p]["exp_avg"] = torch.zeros_like(p.data).share_memory_()
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p.data).share_memory_()

    def load_state_dict(self, state_dict):
        """Load a saved state and share its tensors too; call it before the workers start."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for tensor in state.values():
                tensor.share_memory_()
