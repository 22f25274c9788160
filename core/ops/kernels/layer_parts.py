"""What the kernels of a layer share: rows of C channels, normed; GELU; sums over all rows."""

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


PRODUCT = Blocks(64, 64, 4, 3)
PROGRAMS = 264  # of a sum over all rows: two for each multiprocessor of an H100

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


@triton.jit
def _product_kernel(
    a, b, partial, num_rows, rows_per_group,
    A: tl.constexpr, B: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Over one group of rows: some rows of a^T b, and the sums of these columns of a."""
    i = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    j = tl.arange(0, B)
    group = tl.program_id(1)
    product = tl.zeros([CHANNELS, B], tl.float32)
    sums = tl.zeros([CHANNELS], tl.float32)
    begin = group * rows_per_group
    end = tl.minimum(begin + rows_per_group, num_rows)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        there = (row < end)[:, None]
        left = tl.load(a + row[:, None].to(tl.int64) * A + i[None, :], there, 0.0)
        right = tl.load(b + row[:, None].to(tl.int64) * B + j[None, :], there, 0.0).to(ELEMENT)
        sums += tl.sum(left.to(tl.float32), 0)
        product = tl.dot(tl.trans(left.to(ELEMENT)), right, product, input_precision=PRECISION)
    place = partial + group.to(tl.int64) * (A * (B + 1))
    tl.store(place + i[:, None] * B + j[None, :], product)
    tl.store(place + A * B + i, sums)


def groups_of_rows(num_rows: int, block_rows: int, programs_per_group: int) -> tuple[int, int]:
    """Into how many groups to part rows that are summed up, and how many whole blocks of rows make a group."""
    blocks = triton.cdiv(num_rows, block_rows)
    groups = max(1, min(PROGRAMS // programs_per_group, blocks // 4))
    rows = triton.cdiv(blocks, groups) * block_rows
    return triton.cdiv(num_rows, rows), rows


def product_over_rows(a: Tensor, b: Tensor, element: tl.dtype, precision: str) -> tuple[Tensor, Tensor]:
    """a^T b and the sums of a's columns, in float32: a linear map's gradients, from those of its outputs, and its
    inputs."""
    num_rows, columns, channels = *a.shape, b.shape[1]
    constants = PRODUCT.constants(columns)
    blocks = columns // constants["CHANNELS"]
    groups, rows = groups_of_rows(num_rows, PRODUCT.rows, blocks)
    partial = torch.empty(groups, columns * (channels + 1), dtype=torch.float32, device=a.device)
    with torch.cuda.device_of(a):
        _product_kernel[(blocks, groups)](
            a, b, partial, num_rows, rows, A=columns, B=channels, ELEMENT=element, PRECISION=precision, **constants
        )
    total = partial.sum(0)
    return total[: columns * channels].view(columns, channels), total[columns * channels :]
