"""What the kernels of a layer share: rows of C channels, normed; GELU; products over all rows."""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

EPSILON = 1e-5  # of nn.LayerNorm


class Blocks(NamedTuple):
    """How a kernel is cut up: rows of a program, channels at a time, warps, and stages of its loads."""

    rows: int
    channels: int
    warps: int
    stages: int

    def constants(self, channels: int) -> dict:
        """What a kernel is started with, for so many channels in all."""
        return {
            "ROWS": self.rows,
            "CHANNELS": math.gcd(self.channels, channels),
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


EPS = tl.constexpr(EPSILON)
DENSITY_AT_0 = tl.constexpr(0.3989422804014327)  # of the normal distribution
MINUS_HALF_LOG2_E = tl.constexpr(-0.7213475204444817)


@triton.jit
def standardize(x, C: tl.constexpr):
    """Rows with mean 0 and variance 1, and what they were divided by, inverted."""
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
    """The standard normal distribution below x, right to 1e-7, and a multiple of its density, exp(-x^2 / 2).

    Abramowitz and Stegun (1964), 7.1.26. Both take one exponential; half as many instructions as erf.
    """
    bell = tl.exp2(x * x * MINUS_HALF_LOG2_E)
    t = 1.0 / (tl.abs(x) * 0.23164188 + 1.0)
    tail = ((((t * 0.5307027145 - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t * bell
    return tl.where(x < 0, tail, 1.0 - tail), bell


@triton.jit
def gelu(x):
    share, _bell = _normal(x)
    return x * share


@triton.jit
def gelu_and_slope(x):
    share, bell = _normal(x)
    return x * share, share + x * bell * DENSITY_AT_0


def product_over_rows(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in float32: the gradient of a linear map's weight, from those of its outputs, and its inputs."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a.t(), b, out_dtype=torch.float32)
    return a.t().float() @ b.float()
