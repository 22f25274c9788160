"""Scaled sum of a branch, its bias and a skip connection."""

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels


def residual_sum_reference(
    x: Float[Tensor, "N C H W"],
    skip: Float[Tensor, "N C H W"],
    bias: Float[Tensor, " C"],
    scale: float,
) -> Float[Tensor, "N C H W"]:
    """Define `residual_sum` in plain PyTorch, for any device and dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return ((x.to(wide) + bias.to(wide)[:, None, None] + skip.to(wide)) * scale).to(x.dtype)


def residual_sum(
    x: Float[Tensor, "N C H W"],
    skip: Float[Tensor, "N C H W"],
    bias: Float[Tensor, " C"],
    scale: float,
) -> Float[Tensor, "N C H W"]:
    """`(x + bias + skip) * scale` in the dtype of `x`; differentiable; on CUDA in Triton, with channels last in memory.

    Raises:
        ValueError: If the maps differ in shape, or the bias has another number of channels.
    """
    if x.ndim != 4 or x.shape != skip.shape:
        raise ValueError(f"x and skip must be [N, C, H, W] of one shape, got {[*x.shape]} and {[*skip.shape]}")
    if bias.shape != x.shape[1:2]:
        raise ValueError(f"bias must be [C] = [{x.shape[1]}], got {[*bias.shape]}")
    if can_use_kernels(x, skip, dtypes=FLOAT_TYPES):
        from core.ops.residual_sum_kernel import ResidualSum

        x, skip = (maps.contiguous(memory_format=torch.channels_last) for maps in (x, skip))
        return ResidualSum.apply(x, skip, bias, scale)
    return residual_sum_reference(x, skip, bias, scale)
