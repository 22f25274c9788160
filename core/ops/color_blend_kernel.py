"""Blend of observed colours: one launch for the forward pass and one for the backward pass.

Reference: `blend_reference` in `core/ops/color_blend.py`. A program holds a block of Gaussians and visits their
observations one after the other. Observations that are invisible for the whole block cost next to nothing. The backward
pass recomputes the two layers and sums the gradients of their weights within a program, in a fixed order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops import color_sampling_constants as constants
from smpl_renderer.load_store import load3, store3

BLOCK = 32  # Gaussians per program; with more, the backward pass runs out of registers
WARPS = 4

PREFERENCE = tl.constexpr(constants.COSINE_PREFERENCE)
COSINE = tl.constexpr(constants.COSINE)
VISIBLE = tl.constexpr(constants.VISIBLE)
NUM_FEATURES = tl.constexpr(constants.NUM_FEATURES)
ROWS = tl.constexpr(16)  # the features, padded to the least size of a matrix product


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _layers(features, base, w_in, w_mid_t, b_mid, w_out, b_out):
    """Inputs and outputs of both activations, and the logits."""
    first = base + tl.dot(features, w_in, input_precision="tf32x3")
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
    features, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors, colors, log_totals,
    count, num_observations, HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    subject = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = subject * count + n
    h, row = tl.arange(0, HIDDEN), tl.arange(0, ROWS)
    own = tl.load(base + i[:, None] * HIDDEN + h[None, :], mask[:, None], 0.0)
    into = tl.load(w_in + row[:, None] * HIDDEN + h[None, :], (row < NUM_FEATURES)[:, None], 0.0)
    middle_t = tl.load(w_mid + h[None, :] * HIDDEN + h[:, None])
    middle_bias, out_of, out_bias = tl.load(b_mid + h), tl.load(w_out + h), tl.load(b_out)

    # Online softmax: the largest logit so far is `peak`.
    peak = tl.load(own_logits + i, mask, 0.0)
    total = tl.full([BLOCK], 1.0, tl.float32)
    red, green, blue = load3(own_colors + i * 3, mask)
    for k in range(num_observations):
        start = features + (subject * num_observations + k) * NUM_FEATURES * count
        visible = tl.load(start + count * VISIBLE + n, mask, 0.0) > 0
        if tl.max(visible.to(tl.int32), 0) > 0:
            tile_mask = mask[:, None] & (row < NUM_FEATURES)[None, :]
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
    store3(colors + i * 3, red / total, green / total, blue / total, mask)
    tl.store(log_totals + i, peak + tl.log(total), mask)


@triton.jit
def _bwd_kernel(
    features, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors, colors, log_totals, g_colors,
    g_base, g_own_logits, g_own_colors, g_weights, count, num_observations,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    subject = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = subject * count + n
    h, row = tl.arange(0, HIDDEN), tl.arange(0, ROWS)
    own = tl.load(base + i[:, None] * HIDDEN + h[None, :], mask[:, None], 0.0)
    into = tl.load(w_in + row[:, None] * HIDDEN + h[None, :], (row < NUM_FEATURES)[:, None], 0.0)
    middle_t = tl.load(w_mid + h[None, :] * HIDDEN + h[:, None])
    middle = tl.load(w_mid + h[:, None] * HIDDEN + h[None, :])
    middle_bias, out_of, out_bias = tl.load(b_mid + h), tl.load(w_out + h), tl.load(b_out)

    log_total = tl.load(log_totals + i, mask, 0.0)
    g_red, g_green, g_blue = load3(g_colors + i * 3, mask)
    mixed = tl.load(colors + i * 3, mask, 0.0) * g_red
    mixed += tl.load(colors + i * 3 + 1, mask, 0.0) * g_green
    mixed += tl.load(colors + i * 3 + 2, mask, 0.0) * g_blue

    g_own = tl.zeros([BLOCK, HIDDEN], tl.float32)
    g_second_sum, g_out_sum = g_own, g_own  # summed over the block at the end
    g_logit_sum = tl.zeros([BLOCK], tl.float32)
    g_into = tl.zeros([ROWS, HIDDEN], tl.float32)
    g_middle = tl.zeros([HIDDEN, HIDDEN], tl.float32)
    for k in range(num_observations):
        start = features + (subject * num_observations + k) * NUM_FEATURES * count
        visible = tl.load(start + count * VISIBLE + n, mask, 0.0) > 0
        if tl.max(visible.to(tl.int32), 0) > 0:
            tile_mask = mask[:, None] & (row < NUM_FEATURES)[None, :]
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
    store3(g_own_colors + i * 3, weight * g_red, weight * g_green, weight * g_blue, mask)

    # Gradients of the weights, in this order: w_in, w_mid, b_mid, w_out, b_out.
    out = g_weights + (subject * tl.num_programs(0) + tl.program_id(0)) * (HIDDEN * (NUM_FEATURES + HIDDEN + 2) + 1)
    tl.store(out + row[:, None] * HIDDEN + h[None, :], g_into, (row < NUM_FEATURES)[:, None])
    out += HIDDEN * NUM_FEATURES
    tl.store(out + h[:, None] * HIDDEN + h[None, :], g_middle)
    out += HIDDEN * HIDDEN
    tl.store(out + h, tl.sum(g_second_sum, 0))
    tl.store(out + HIDDEN + h, tl.sum(g_out_sum, 0))
    tl.store(out + 2 * HIDDEN, tl.sum(g_logit_sum, 0))


class BlendColors(torch.autograd.Function):
    """Colours `[B, N, 3]` from the features `[B, K, 8, N]` of K observations of each Gaussian.

    The input of the first activation is `base [B, N, H]` plus the product of the features and `w_in [8, H]`. Own logits
    `[B, N]` and own colours `[B, N, 3]` take part in the softmax. The features get no gradient.
    """

    @staticmethod
    def forward(ctx, features, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors):
        subjects, num_observations, _, count = features.shape
        grid, sizes = (triton.cdiv(count, BLOCK), subjects), (count, num_observations, base.shape[-1], BLOCK)
        inputs = [x.contiguous() for x in (features, base, w_in, w_mid, b_mid, w_out, b_out, own_logits, own_colors)]
        colors, log_totals = torch.empty_like(inputs[-1]), torch.empty_like(inputs[-2])
        with torch.cuda.device_of(features):
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
