"""SSIM of many images in one kernel, and its gradient in another. Wang et al. (2004).

Reference: `ssim_reference` in `core/losses/ssim.py`. A program processes a square of one channel. Its blur is a product
with a banded matrix on both sides, which runs on tensor cores.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.losses.ssim_window import SSIM_C1, SSIM_C2, SSIM_WINDOW, ssim_window

SIDE = 32  # side in pixels of the square that a program loads
WARPS = 4

WINDOW = tl.constexpr(SSIM_WINDOW)
C1, C2 = tl.constexpr(SSIM_C1), tl.constexpr(SSIM_C2)
INNER = tl.constexpr(SIDE - SSIM_WINDOW + 1)  # positions of the window inside the square, along one axis
NUM_DERIVATIVES = tl.constexpr(3)  # with respect to the blurred x, x x and x y


@triton.jit
def _band(window, SIDE: tl.constexpr):
    """Banded matrix [SIDE, SIDE]: row i holds the window, starting at column i."""
    shift = tl.arange(0, SIDE)[None, :] - tl.arange(0, SIDE)[:, None]
    fits = (shift >= 0) & (shift < WINDOW) & (tl.arange(0, SIDE) < INNER)[:, None]
    return tl.load(window + shift, fits, 0.0)


@triton.jit
def _blur(band, square):
    """Weighted means under the window, in the first INNER rows and columns."""
    rows = tl.dot(band, square, input_precision="tf32x3")
    return tl.dot(rows, tl.trans(band), input_precision="tf32x3")


@triton.jit
def _fwd_kernel(
    predicted, target, window, sums, derivatives, height, width, HAS_DERIVATIVES: tl.constexpr, SIDE: tl.constexpr
):
    """Sum of the similarity over a square, and on request its derivatives at each position of the window."""
    image = tl.program_id(2).to(tl.int64)
    y, x = tl.program_id(1) * INNER + tl.arange(0, SIDE), tl.program_id(0) * INNER + tl.arange(0, SIDE)
    where = y[:, None] * width + x[None, :]
    inside = (y < height)[:, None] & (x < width)[None, :]
    a = tl.load(predicted + image * height * width + where, inside, 0.0)
    b = tl.load(target + image * height * width + where, inside, 0.0)
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
    valid = (first_rows & (y < rows))[:, None] & (first_columns & (x < columns))[None, :]
    tile = (image * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(sums + tile, tl.sum(tl.sum(tl.where(valid, luminance * contrast, 0.0), 1), 0))
    if HAS_DERIVATIVES:
        by_luminance = 2 * (mean_b - luminance * mean_a) / (squares + C1)
        by_contrast = 2 * (contrast * mean_a - mean_b) / (variances + C2)
        out = derivatives + image * NUM_DERIVATIVES * rows * columns + y[:, None] * columns + x[None, :]
        tl.store(out, by_luminance * contrast + luminance * by_contrast, valid)
        tl.store(out + rows * columns, -luminance * contrast / (variances + C2), valid)
        tl.store(out + rows * columns * 2, 2 * luminance / (variances + C2), valid)


@triton.jit
def _load_derivatives(derivatives, y, x, rows, columns):
    """Derivatives at the positions (y, x) of the window; 0 outside the map."""
    exists = ((y >= 0) & (y < rows))[:, None] & ((x >= 0) & (x < columns))[None, :]
    return tl.load(derivatives + y[:, None] * columns + x[None, :], exists, 0.0)


@triton.jit
def _bwd_kernel(predicted, target, window, derivatives, g_sums, g_predicted, height, width, SIDE: tl.constexpr):
    """The window is symmetric, so that the transposed blur is a blur of squares shifted by the window's size."""
    image = tl.program_id(2).to(tl.int64)
    y, x = tl.program_id(1) * INNER + tl.arange(0, SIDE), tl.program_id(0) * INNER + tl.arange(0, SIDE)
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    band = _band(window, SIDE)
    derivatives += image * NUM_DERIVATIVES * rows * columns
    first_y, first_x = y - (WINDOW - 1), x - (WINDOW - 1)
    g = _blur(band, _load_derivatives(derivatives, first_y, first_x, rows, columns))
    g_squares = _blur(band, _load_derivatives(derivatives + rows * columns, first_y, first_x, rows, columns))
    g_products = _blur(band, _load_derivatives(derivatives + rows * columns * 2, first_y, first_x, rows, columns))

    first = tl.arange(0, SIDE) < INNER
    inside = (first & (y < height))[:, None] & (first & (x < width))[None, :]
    where = image * height * width + y[:, None] * width + x[None, :]
    a, b = tl.load(predicted + where, inside, 0.0), tl.load(target + where, inside, 0.0)
    g = (g + 2 * a * g_squares + b * g_products) * tl.load(g_sums + image)
    tl.store(g_predicted + where, g, inside)


class SsimMeans(torch.autograd.Function):
    """Mean similarity [n] of channels [n, H, W]; gradients reach `predicted` only."""

    @staticmethod
    def forward(ctx, predicted, target):
        count, height, width = predicted.shape
        window = ssim_window(predicted)
        rows, columns = height - SSIM_WINDOW + 1, width - SSIM_WINDOW + 1
        tiles = triton.cdiv(columns, INNER.value), triton.cdiv(rows, INNER.value), count
        sums = predicted.new_empty(count, tiles[0] * tiles[1])
        has_derivatives = ctx.needs_input_grad[0]
        derivatives = predicted.new_empty(count, NUM_DERIVATIVES.value, rows, columns) if has_derivatives else sums
        with torch.cuda.device_of(predicted):
            _fwd_kernel[tiles](
                predicted, target, window, sums, derivatives, height, width, has_derivatives, SIDE, num_warps=WARPS
            )
        ctx.save_for_backward(predicted, target, window, derivatives)
        return sums.sum(1) / (rows * columns)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_means: Float[Tensor, " n"]):
        predicted, target, window, derivatives = ctx.saved_tensors
        count, height, width = predicted.shape
        g_sums = g_means / (derivatives.shape[-2] * derivatives.shape[-1])
        g_predicted = torch.empty_like(predicted)
        tiles = triton.cdiv(width, INNER.value), triton.cdiv(height, INNER.value), count
        with torch.cuda.device_of(predicted):
            _bwd_kernel[tiles](
                predicted, target, window, derivatives, g_sums, g_predicted, height, width, SIDE, num_warps=WARPS
            )
        return g_predicted, None
