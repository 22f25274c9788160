"""Group normalisation, with an optional SiLU. Wu and He, Group Normalization (2018)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels

MAX_GROUP = 512
"""Channels of a group for which there are kernels."""


def group_norm_reference(
    x: Float[Tensor, "N C H W"],
    num_groups: int,
    weight: Float[Tensor, " C"],
    bias: Float[Tensor, " C"],
    eps: float = 1e-5,
    silu: bool = False,
    shift: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "N C H W"]:
    """Define `group_norm` in plain PyTorch, for any device and dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) if shift is None else x.to(wide) + shift.to(wide)[:, None, None]
    y = functional.group_norm(y, num_groups, weight.to(wide), bias.to(wide), eps)
    return (functional.silu(y) if silu else y).to(x.dtype)


def group_norm(
    x: Float[Tensor, "N C H W"],
    num_groups: int,
    weight: Float[Tensor, " C"],
    bias: Float[Tensor, " C"],
    eps: float = 1e-5,
    silu: bool = False,
    shift: Float[Tensor, " C"] | None = None,
) -> Float[Tensor, "N C H W"]:
    """Normalise groups of adjacent channels over an image, in the dtype of `x`; differentiable; on CUDA in Triton.

    Args:
        x: Maps. On CUDA the result has channels last in memory, and `x` is best given so.
        weight: Factor of each channel after normalisation.
        bias: Added to each channel after that.
        eps: Added to the variance.
        silu: Apply SiLU to the result.
        shift: Added to each channel before normalisation, in place of the bias of the preceding convolution.
    Raises:
        ValueError: If the channels do not divide into the groups, or an argument has another number of channels.
    """
    if x.ndim != 4 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"x must be [N, C, H, W] with C a multiple of num_groups {num_groups}, got {[*x.shape]}")
    for name, values in (("weight", weight), ("bias", bias), ("shift", shift)):
        if values is not None and values.shape != x.shape[1:2]:
            raise ValueError(f"{name} must be [C] = [{x.shape[1]}], got {[*values.shape]}")
    if can_use_kernels(x, dtypes=FLOAT_TYPES) and x.shape[1] // num_groups <= MAX_GROUP:
        from core.ops.group_norm_kernel import GroupNorm

        x = x.contiguous(memory_format=torch.channels_last)
        return GroupNorm.apply(x, weight, bias, shift, num_groups, eps, silu)
    return group_norm_reference(x, num_groups, weight, bias, eps, silu, shift)
