"""Robust losses: quadratic near zero, bounded or linear far from it. Arguments are residuals in standard deviations."""

import torch
from torch import Tensor


def geman_mcclure(squared: Tensor, width: float) -> Tensor:
    """`squared / 2` near zero and `width ** 2 / 2` far away; takes squared residuals.

    Source: Geman and McClure (1987); the form of Barron (2019), alpha = -2, up to its width.
    """
    return 0.5 * squared / (1 + squared / width**2)


def huber(residual: Tensor, width: float) -> Tensor:
    """`residual ** 2 / 2` up to `width`, linear beyond."""
    size = residual.abs()
    return torch.where(size <= width, 0.5 * size.square(), width * (size - 0.5 * width))
