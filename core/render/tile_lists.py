"""Lists of the splats of each tile, and what kernels that build them share: the tiles that a splat's ellipse reaches,
and sets of bits in 32-bit words."""

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from core.render import projection
from core.render.splat_table import LOG2_OPACITY, MEAN_X, MEAN_Y, STRIDE, P, Q, R

LOG2_ALPHA_MIN = tl.constexpr(math.log2(projection.ALPHA_MIN))


@dataclass(frozen=True)
class TileLists:
    """Depth-sorted splats of each tile of each view, near to far; tiles are in row-major order."""

    slots: Int[Tensor, " V*N+capacity"]
    """Indices into the splat table: first all splats of each view from near to far, then the tiles' lists, with gaps
    between them."""
    ranges: Int[Tensor, "V*tiles 2"]
    """First slot of each tile's list, and the slot after its last."""
    used: Int[Tensor, " 1"]
    """Slots that all lists need. If more than `capacity`, `ranges` is invalid, and each tile uses all splats of its
    view."""
    capacity: int
    """Slots available for the tiles' lists."""
    tile: int
    """Side of a tile in pixels."""
    overflow: Int[Tensor, " 1"] | None = None
    """Host memory to which `composite` copies `used` if it exceeds `capacity`."""


@triton.jit
def columns_in_row(mean_x, mean_y, p, q, r, level, tile_y, columns, TILE: tl.constexpr):
    """First and last tile that the ellipse |W d|^2 = level reaches in a row of tiles; none if first > last.

    Its right edge at height y is (sqrt(level - r^2 y^2) - q y) / p, a concave function with its maximum at -q
    sqrt(level) / (r s) where s^2 = q^2 + r^2; its left edge is the point reflection of it. A small margin ensures that
    rounding drops no pixel.
    """
    root = tl.sqrt(level)
    half_height = root / r
    low = tl.maximum(tile_y * TILE + 0.5 - mean_y, -half_height)
    high = tl.minimum(tile_y * TILE + (TILE - 0.5) - mean_y, half_height)
    top = q * root / (r * tl.sqrt(q * q + r * r))
    right_y = tl.minimum(tl.maximum(-top, low), high)
    left_y = tl.minimum(tl.maximum(top, low), high)
    right = (tl.sqrt(tl.maximum(level - r * r * right_y * right_y, 0.0)) - q * right_y) / p
    left = (tl.sqrt(tl.maximum(level - r * r * left_y * left_y, 0.0)) + q * left_y) / p
    right = mean_x + right + 0.0001 * tl.abs(right) + 0.01
    left = mean_x - left - 0.0001 * tl.abs(left) - 0.01
    # Clamp before the conversion: values far outside, and NaN, would overflow.
    first = tl.ceil(tl.minimum(tl.maximum((left + 0.5) / TILE, 0.0), columns + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((right - 0.5) / TILE, -1.0), columns - 1.0)).to(tl.int32)
    return tl.maximum(first, 0), tl.where(low <= high + 0.01, last, -1)


@triton.jit
def load_splat(table, i, mask):
    """Centre, whitener and log2 opacity of splats."""
    splat = table + i.to(tl.int64) * STRIDE
    mean_x, mean_y = tl.load(splat + MEAN_X, mask, 0.0), tl.load(splat + MEAN_Y, mask, 0.0)
    p, q, r = tl.load(splat + P, mask, 1.0), tl.load(splat + Q, mask, 0.0), tl.load(splat + R, mask, 1.0)
    return mean_x, mean_y, p, q, r, tl.load(splat + LOG2_OPACITY, mask, float("-inf"))


@triton.jit
def ellipse(splat, rows, TILE: tl.constexpr):
    """Centre, whitener and level of splats, and the first and last row of tiles that each reaches."""
    mean_x, mean_y, p, q, r, log2_opacity = splat
    level = log2_opacity - LOG2_ALPHA_MIN
    drawn = level >= 0
    # Slightly larger: the margin of `columns_in_row`, for the height.
    level = tl.where(drawn, level * 1.0002 + 0.0001, 1.0)
    half_height = tl.sqrt(level) / r + 0.01
    first = tl.ceil(tl.minimum(tl.maximum((mean_y - half_height + 0.5) / TILE, 0.0), rows + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((mean_y + half_height - 0.5) / TILE, -1.0), rows - 1.0)).to(tl.int32)
    return mean_x, mean_y, p, q, r, level, tl.maximum(first, 0), tl.where(drawn, last, -1)


@triton.jit
def count_bits(word):
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return (((word + (word >> 4) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def lowest_bit(word, others):
    """Index of the lowest bit of a word, given the word without it; -127 if there is none."""
    return ((word ^ others).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def load_words(bits, first, words, BLOCK: tl.constexpr):
    at = first + tl.arange(0, BLOCK)
    return tl.load(bits + at, at < words, 0).to(tl.uint32, bitcast=True)
