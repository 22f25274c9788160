"""The colours of observations, weighed by two small layers and mixed in one launch, and the way back in another.

Reference: `blend_reference` in `core/ops/color_blend.py`. A program holds a block of Gaussians and visits their
observations one after the other; those that none of the block sees cost next to nothing. The backward pass computes
the layers again and sums the weights' gradients within a program, so that it always adds in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.model import color_sampling as color_sampling
from core.ops import color_blend, observations

BLOCK = 32  # Gaussians per program; more, and the backward pass runs out of registers
WARPS = 4

PREFERENCE = tl.constexpr(color_blend.COSINE_PREFERENCE)
COSINE = tl.constexpr(observations.COSINE)
VISIBLE = tl.constexpr(observations.VISIBLE)
NUMBERS = tl.constexpr(observations.NUMBERS)
ROWS = tl.constexpr(16)  # the numbers, padded to what a matrix product takes


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _layers(numbers, base, w_in, w_mid_t, b_mid, w_out, b_out):
    """Both layers: what goes into either activation, their results, and the logits."""
    first = base + tl.dot(numbers, w_in, input_precision="tf32x3")
    first_active = first * _sigmoid(first)
    second = tl.dot(first_active, w_mid_t, input_precision="tf32x3") + b_mid[None, :]
    second_active = second * _sigmoid(second)
    return first, first_active, second, second_active, tl.sum(second_active * w_out[None, :], 1) + b_out


@triton.jit
def _silu_slope(x):
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def _fwd_kernel(
    numbers, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors, colors, log_totals, count, num_seen,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    person = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = person * count + n
    h, row = tl.arange(0, HIDDEN), tl.arange(0, ROWS)
    own = tl.load(base + i[:, None] * HIDDEN + h[None, :], mask[:, None], 0.0)
    into = tl.load(w_in + row[:, None] * HIDDEN + h[None, :], (row < NUMBERS)[:, None], 0.0)
    middle_t = tl.load(w_mid + h[None, :] * HIDDEN + h[:, None])
    middle_bias, out_of, out_bias = tl.load(b_mid + h), tl.load(w_out + h), tl.load(b_out)

    # A softmax whose largest logit is found on the way.
    peak = tl.load(own_logits + i, mask, 0.0)
    total = tl.full([BLOCK], 1.0, tl.float32)
    red, green, blue = (
        tl.load(own_colors + i * 3, mask, 0.0),
        tl.load(own_colors + i * 3 + 1, mask, 0.0),
        tl.load(own_colors + i * 3 + 2, mask, 0.0),
    )
    for seen in range(num_seen):
        start = numbers + (person * num_seen + seen) * NUMBERS * count
        visible = tl.load(start + count * VISIBLE + n, mask, 0.0) > 0
        if tl.max(visible.to(tl.int32), 0) > 0:
            tile_mask = mask[:, None] & (row < NUMBERS)[None, :]
            tile = tl.load(start + row[None, :] * count + n[:, None], tile_mask, 0.0)
            _, _, _, _, logit = _layers(tile, own, into, middle_t, middle_bias, out_of, out_bias)
            logit += tl.load(start + count * COSINE + n, mask, 0.0) * PREFERENCE
            logit = tl.where(visible, logit, float("-inf"))
            new_peak = tl.maximum(peak, logit)
            fade, weight = tl.exp(peak - new_peak), tl.exp(logit - new_peak)
            peak, total = new_peak, total * fade + weight
            red = red * fade + weight * tl.load(start + n, mask, 0.0)
            green = green * fade + weight * tl.load(start + count + n, mask, 0.0)
            blue = blue * fade + weight * tl.load(start + count * 2 + n, mask, 0.0)
    tl.store(colors + i * 3, red / total, mask)
    tl.store(colors + i * 3 + 1, green / total, mask)
    tl.store(colors + i * 3 + 2, blue / total, mask)
    tl.store(log_totals + i, peak + tl.log(total), mask)


@triton.jit
def _bwd_kernel(
    numbers, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors, colors, log_totals, g_colors,
    g_base, g_own_logits, g_own_colors, g_weights, count, num_seen,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    person = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = person * count + n
    h, row = tl.arange(0, HIDDEN), tl.arange(0, ROWS)
    own = tl.load(base + i[:, None] * HIDDEN + h[None, :], mask[:, None], 0.0)
    into = tl.load(w_in + row[:, None] * HIDDEN + h[None, :], (row < NUMBERS)[:, None], 0.0)
    middle_t = tl.load(w_mid + h[None, :] * HIDDEN + h[:, None])
    middle = tl.load(w_mid + h[:, None] * HIDDEN + h[None, :])
    middle_bias, out_of, out_bias = tl.load(b_mid + h), tl.load(w_out + h), tl.load(b_out)

    log_total = tl.load(log_totals + i, mask, 0.0)
    g_red, g_green, g_blue = (
        tl.load(g_colors + i * 3, mask, 0.0),
        tl.load(g_colors + i * 3 + 1, mask, 0.0),
        tl.load(g_colors + i * 3 + 2, mask, 0.0),
    )
    mixed = tl.load(colors + i * 3, mask, 0.0) * g_red
    mixed += tl.load(colors + i * 3 + 1, mask, 0.0) * g_green
    mixed += tl.load(colors + i * 3 + 2, mask, 0.0) * g_blue

    g_own = tl.zeros([BLOCK, HIDDEN], tl.float32)
    g_second_sum, g_out_sum = g_own, g_own  # summed over the block at the end
    g_logit_sum = tl.zeros([BLOCK], tl.float32)
    g_into = tl.zeros([ROWS, HIDDEN], tl.float32)
    g_middle = tl.zeros([HIDDEN, HIDDEN], tl.float32)
    for seen in range(num_seen):
        start = numbers + (person * num_seen + seen) * NUMBERS * count
        visible = tl.load(start + count * VISIBLE + n, mask, 0.0) > 0
        if tl.max(visible.to(tl.int32), 0) > 0:
            tile_mask = mask[:, None] & (row < NUMBERS)[None, :]
            tile = tl.load(start + row[None, :] * count + n[:, None], tile_mask, 0.0)
            first, first_active, second, second_active, logit = _layers(
                tile, own, into, middle_t, middle_bias, out_of, out_bias
            )
            logit += tl.load(start + count * COSINE + n, mask, 0.0) * PREFERENCE
            weight = tl.where(visible, tl.exp(logit - log_total), 0.0)
            match = tl.load(start + n, mask, 0.0) * g_red
            match += tl.load(start + count + n, mask, 0.0) * g_green
            match += tl.load(start + count * 2 + n, mask, 0.0) * g_blue
            g_logit = weight * (match - mixed)

            g_logit_sum += g_logit
            g_out_sum += g_logit[:, None] * second_active
            g_second = g_logit[:, None] * out_of[None, :] * _silu_slope(second)
            g_second_sum += g_second
            g_middle += tl.dot(tl.trans(g_second), first_active, input_precision="tf32")
            g_first = tl.dot(g_second, middle, input_precision="tf32") * _silu_slope(first)
            g_own += g_first
            g_into += tl.dot(tl.trans(tile), g_first, input_precision="tf32")

    tl.store(g_base + i[:, None] * HIDDEN + h[None, :], g_own, mask[:, None])
    weight = tl.exp(tl.load(own_logits + i, mask, 0.0) - log_total)
    match = tl.load(own_colors + i * 3, mask, 0.0) * g_red
    match += tl.load(own_colors + i * 3 + 1, mask, 0.0) * g_green
    match += tl.load(own_colors + i * 3 + 2, mask, 0.0) * g_blue
    tl.store(g_own_logits + i, weight * (match - mixed), mask)
    tl.store(g_own_colors + i * 3, weight * g_red, mask)
    tl.store(g_own_colors + i * 3 + 1, weight * g_green, mask)
    tl.store(g_own_colors + i * 3 + 2, weight * g_blue, mask)

    # The weights' gradients, one after the other: w_in, w_mid, b_mid, w_out, b_out.
    out = g_weights + (person * tl.num_programs(0) + tl.program_id(0)) * (HIDDEN * (NUMBERS + HIDDEN + 2) + 1)
    tl.store(out + row[:, None] * HIDDEN + h[None, :], g_into, (row < NUMBERS)[:, None])
    out += HIDDEN * NUMBERS
    tl.store(out + h[:, None] * HIDDEN + h[None, :], g_middle)
    out += HIDDEN * HIDDEN
    tl.store(out + h, tl.sum(g_second_sum, 0))
    tl.store(out + HIDDEN + h, tl.sum(g_out_sum, 0))
    tl.store(out + 2 * HIDDEN, tl.sum(g_logit_sum, 0))


class BlendColors(torch.autograd.Function):
    """Colours `[B, N, 3]` from the numbers `[B, K, 8, N]` of K observations and what each Gaussian brings along.

    What enters the first layer is `base [B, N, H]` plus the numbers times `w_in [8, H]`.
    """

    @staticmethod
    def forward(ctx, numbers, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors):
        persons, num_seen, _, count = numbers.shape
        grid, sizes = (triton.cdiv(count, BLOCK), persons), (count, num_seen, base.shape[-1], BLOCK)
        inputs = [x.contiguous() for x in (numbers, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors)]
        colors, log_totals = torch.empty_like(inputs[-1]), torch.empty_like(inputs[-2])
        with torch.cuda.device_of(numbers):
            _fwd_kernel[grid](*inputs, colors, log_totals, *sizes, num_warps=WARPS)
        ctx.save_for_backward(*inputs, colors, log_totals)
        ctx.grid, ctx.sizes = grid, sizes
        return colors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_colors: Tensor):
        _, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors, _, _ = ctx.saved_tensors
        g_base, g_own_logits, g_own_colors = (torch.empty_like(x) for x in (base, own_logits, own_colors))
        weights = (w_in, w_mid, b_mid, w_out, b_out)
        lengths = [x.numel() for x in weights]
        g_weights = base.new_empty(ctx.grid[0] * ctx.grid[1], sum(lengths))
        with torch.cuda.device_of(base):
            _bwd_kernel[ctx.grid](
                *ctx.saved_tensors, g_colors.contiguous(), g_base, g_own_logits, g_own_colors, g_weights,
                *ctx.sizes, num_warps=WARPS,
            )  # fmt: skip
        g_weights = [g.view_as(x) for g, x in zip(g_weights.sum(0).split(lengths), weights)]
        return None, g_base, *g_weights, g_own_logits, g_own_colors
