"""SSIM of many pictures in one launch, and its gradient in another. Wang et al. (2004).

Reference: `ssim_reference` in `core/losses/ssim.py`. A program takes a square of a channel; to blur it is to multiply it
from both sides with a banded matrix, which is what tensor cores do well.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.losses import ssim

SIDE = 32  # pixels of the square that a program loads
WARPS = 4

WINDOW = tl.constexpr(ssim.SSIM_WINDOW)
C1, C2 = tl.constexpr(ssim.SSIM_C1), tl.constexpr(ssim.SSIM_C2)
INNER = tl.constexpr(SIDE - ssim.SSIM_WINDOW + 1)  # of which the window fits around so many
KINDS = tl.constexpr(3)  # of derivatives: with respect to the blurred x, x x and x y


@triton.jit
def _band(window, SIDE: tl.constexpr):
    """The window once for each row, one further to the right each time."""
    shift = tl.arange(0, SIDE)[None, :] - tl.arange(0, SIDE)[:, None]
    fits = (shift >= 0) & (shift < WINDOW) & (tl.arange(0, SIDE) < INNER)[:, None]
    return tl.load(window + shift, fits, 0.0)


@triton.jit
def _blur(band, square):
    rows = tl.dot(band, square, input_precision="tf32x3")
    return tl.dot(rows, tl.trans(band), input_precision="tf32x3")


@triton.jit
def _fwd_kernel(predicted, target, window, sums, slopes, height, width, HAS_SLOPES: tl.constexpr, SIDE: tl.constexpr):
    picture = tl.program_id(2).to(tl.int64)
    y, x = tl.program_id(1) * INNER + tl.arange(0, SIDE), tl.program_id(0) * INNER + tl.arange(0, SIDE)
    where = y[:, None] * width + x[None, :]
    inside = (y < height)[:, None] & (x < width)[None, :]
    a = tl.load(predicted + picture * height * width + where, inside, 0.0)
    b = tl.load(target + picture * height * width + where, inside, 0.0)
    band = _band(window, SIDE)
    mean_a, mean_b = _blur(band, a), _blur(band, b)
    both = mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    covariance = _blur(band, a * b) - both
    variances = _blur(band, a * a + b * b) - squares

    luminance = (2 * both + C1) / (squares + C1)
    contrast = (2 * covariance + C2) / (variances + C2)
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    first_rows, first_columns = tl.arange(0, SIDE) < INNER, tl.arange(0, SIDE) < INNER
    counts = (first_rows & (y < rows))[:, None] & (first_columns & (x < columns))[None, :]
    tile = (picture * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + tile, tl.sum(tl.sum(tl.where(counts, luminance * contrast, 0.0), 1), 0))
    if HAS_SLOPES:
        by_luminance = 2 * (mean_b - luminance * mean_a) / (squares + C1)
        by_contrast = 2 * (contrast * mean_a - mean_b) / (variances + C2)
        out = slopes + picture * KINDS * rows * columns + y[:, None] * columns + x[None, :]
        tl.store(out, by_luminance * contrast + luminance * by_contrast, counts)
        tl.store(out + rows * columns, -luminance * contrast / (variances + C2), counts)
        tl.store(out + rows * columns * 2, 2 * luminance / (variances + C2), counts)


@triton.jit
def _load_slopes(slopes, y, x, rows, columns):
    exists = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < columns))[None, :]
    return tl.load(slopes + y[:, None] * columns + x[None, :], exists, 0.0)


@triton.jit
def _bwd_kernel(predicted, target, window, slopes, g_sums, g_predicted, height, width, SIDE: tl.constexpr):
    """The window is symmetric, so that the transposed blur is a blur of squares that start where it first reaches."""
    picture = tl.program_id(2).to(tl.int64)
    y, x = tl.program_id(1) * INNER + tl.arange(0, SIDE), tl.program_id(0) * INNER + tl.arange(0, SIDE)
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    band = _band(window, SIDE)
    slopes += picture * KINDS * rows * columns
    first_y, first_x = y - (WINDOW - 1), x - (WINDOW - 1)
    g = _blur(band, _load_slopes(slopes, first_y, first_x, rows, columns))
    of_squares = _blur(band, _load_slopes(slopes + rows * columns, first_y, first_x, rows, columns))
    of_products = _blur(band, _load_slopes(slopes + rows * columns * 2, first_y, first_x, rows, columns))

    first = tl.arange(0, SIDE) < INNER
    inside = (first & (y < height))[:, None] & (first & (x < width))[None, :]
    where = picture * height * width + y[:, None] * width + x[None, :]
    a, b = tl.load(predicted + where, inside, 0.0), tl.load(target + where, inside, 0.0)
    g = (g + 2 * a * of_squares + b * of_products) * tl.load(g_sums + picture)
    tl.store(g_predicted + where, g, inside)


class SsimMeans(torch.autograd.Function):
    """Mean similarity [n] of channels [n, H, W]; gradients reach the first ones."""

    @staticmethod
    def forward(ctx, predicted, target):
        count, height, width = predicted.shape
        window = ssim.ssim_window(predicted)
        rows, columns = height - ssim.SSIM_WINDOW + 1, width - ssim.SSIM_WINDOW + 1
        tiles = triton.cdiv(columns, INNER.value), triton.cdiv(rows, INNER.value), count
        sums = predicted.new_empty(count, tiles[0] * tiles[1])
        has_slopes = ctx.needs_input_grad[0]
        slopes = predicted.new_empty(count, KINDS.value, rows, columns) if has_slopes else sums
        with torch.cuda.device_of(predicted):
            _fwd_kernel[tiles](
                predicted, target, window, sums, slopes, height, width, has_slopes, SIDE, num_warps=WARPS
            )
        ctx.save_for_backward(predicted, target, window, slopes)
        return sums.sum(1) / (rows * columns)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_means: Float[Tensor, " n"]):
        predicted, target, window, slopes = ctx.saved_tensors
        count, height, width = predicted.shape
        g_sums = g_means / (slopes.shape[-2] * slopes.shape[-1])
        g_predicted = torch.empty_like(predicted)
        tiles = triton.cdiv(width, INNER.value), triton.cdiv(height, INNER.value), count
        with torch.cuda.device_of(predicted):
            _bwd_kernel[tiles](
                predicted, target, window, slopes, g_sums, g_predicted, height, width, SIDE, num_warps=WARPS
            )
        return g_predicted, None
