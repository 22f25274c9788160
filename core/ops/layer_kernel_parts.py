"""Parts that kernels of the graph's layers share: LayerNorm of rows of C channels, GELU, and products over all rows."""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Blocks(NamedTuple):
    """Block sizes of a kernel: rows of a program, channels of a step, warps, and pipeline stages of loads."""

    rows: int
    channels: int
    warps: int
    stages: int

    def constants(self, channels: int) -> dict:
        """Constants to launch a kernel with, for a total number of channels."""
        return {
            "ROWS": self.rows,
            "CHANNELS": math.gcd(self.channels, channels),
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


EPS = tl.constexpr(1e-5)  # the default of nn.LayerNorm
DENSITY_AT_0 = tl.constexpr(0.3989422804014327)  # of the standard normal distribution
MINUS_HALF_LOG2_E = tl.constexpr(-0.7213475204444817)


@triton.jit
def standardize(x, C: tl.constexpr):
    """Rows shifted and scaled to mean 0 and variance 1, and the factor of each row."""
    centered = x - (tl.sum(x, 1) / C)[:, None]
    inverse = 1.0 / tl.sqrt(tl.sum(centered * centered, 1) / C + EPS)
    return centered * inverse[:, None], inverse


@triton.jit
def standardize_backward(g, standard, inverse, C: tl.constexpr):
    """Adjoint of `standardize`."""
    along = tl.sum(g * standard, 1) / C
    return inverse[:, None] * (g - (tl.sum(g, 1) / C)[:, None] - standard * along[:, None])


@triton.jit
def _normal(x):
    """Cumulative distribution function of the standard normal distribution, to 1e-7, and exp(-x^2 / 2).

    Both need one exponential, and half as many instructions as erf. Abramowitz and Stegun (1964), 7.1.26.
    """
    bell = tl.exp2(x * x * MINUS_HALF_LOG2_E)
    t = 1.0 / (tl.abs(x) * 0.23164188 + 1.0)
    tail = ((((t * 0.5307027145 - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t * bell
    return tl.where(x < 0, tail, 1.0 - tail), bell


@triton.jit
def gelu(x):
    cdf, _bell = _normal(x)
    return x * cdf


@triton.jit
def gelu_and_slope(x):
    cdf, bell = _normal(x)
    return x * cdf, cdf + x * bell * DENSITY_AT_0


def product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in float32: the gradient of a linear map's weight, given the gradients of its outputs, and its inputs."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a.t(), b, out_dtype=torch.float32)
    return a.t().float() @ b.float()
