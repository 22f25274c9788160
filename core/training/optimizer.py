"""AdamW for this network, with a step that skips non-finite gradients, and the learning-rate schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from core.options import TrainOptions

FIRST_FACTOR = 0.04
"""Learning rate at the start of the schedule, relative to its peak."""
LAST_FACTOR = 1e-3
"""Learning rate at the end of the schedule, relative to its peak."""


def make_optimizer(module: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with weight decay for the weights of convolutions and linear layers only.

    Norms, biases, and per-vertex embeddings and offsets have no reason to be near zero.
    """
    decaying = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, fused=True)


def restore_optimizer(optimizer: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Load the moments of an earlier run, but not its options: weight decay and betas are those of this run."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)


def finite_step(optimizer: torch.optim.AdamW, max_norm: float) -> Tensor:
    """Clip the gradients and step, or skip the step if the gradients' norm is not finite.

    The fused AdamW does both: it divides gradients by `grad_scale`, and skips its step where `found_inf` is one. The
    decision is made on the device, without synchronisation.

    Returns:
        Norm of the gradients before clipping.
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


def one_cycle(progress: float, warmup: float) -> float:
    """Learning rate relative to its peak, at `progress` from 0 to 1: linear up to `warmup`, then half a cosine down.

    Source: Smith and Topin, Super-convergence (2018), with the cosine of PyTorch's `OneCycleLR`.
    """
    if progress < warmup:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * progress / warmup
    fall = min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))
    return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * fall)) / 2


def run_progress(step: int, steps: int, seconds: float, max_minutes: float | None) -> float:
    """Progress of a run from 0 to 1: by its steps or, if it has a time limit and that is further, by its time."""
    by_steps = step / steps
    by_time = seconds / (60 * max_minutes) if max_minutes is not None else 0.0
    return min(1.0, max(by_steps, by_time))
