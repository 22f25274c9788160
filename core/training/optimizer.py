"""AdamW for this network, and a step that leaves out what is not finite."""

from typing import Any

import torch
from torch import Tensor, nn

from core.options import TrainOptions


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW over the parameters that are not frozen; only weights of convolutions and linear layers decay.

    Norms, biases and the vertices' own features (embeddings and offsets) have no reason to be near zero.
    """
    decaying = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, fused=True)


def restore_optimizer(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Take over the moments of an earlier run, but none of its options: weight decay and betas are this run's."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)


def finite_step(optimizer: torch.optim.AdamW, max_norm: float) -> Tensor:
    """Clip the gradients and step, or leave the parameters alone if the gradients' norm is not finite.

    The fused AdamW does both on its way: it divides gradients by `grad_scale`, and skips its step where `found_inf` is
    one. The decision is made on the device, nothing waits for it.

    Returns:
        The norm of the gradients before clipping.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp_min(1)
    optimizer.found_inf = (~norm.isfinite()).float()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
