"""The second half of a layer in one kernel: what attention found is mapped and added, then a feed-forward network.

Neither the sum nor the hidden layer is stored: the backward pass computes them again. It takes two kernels, one by rows
and one by hidden channels, whose gradients are sums over all rows.
"""

import torch
import triton
import triton.language as tl

from core.ops.kernels.layer_parts import (
    Blocks,
    gelu,
    gelu_and_slope,
    groups_of_rows,
    product_over_rows,
    standardize,
    standardize_backward,
)
from core.ops.kernels.numbers import dot_element, dot_precision

FORWARD = Blocks(128, 64, 8, 3)
BACKWARD = Blocks(64, 64, 8, 2)
WEIGHTS = Blocks(64, 64, 8, 2)


@triton.jit
def _add_update(
    x, update, out_weight, out_bias, place, live, C: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, C)
    w = tl.load(out_weight + c[:, None] * C + c[None, :]).to(ELEMENT)
    u = tl.load(update + place, live, 0.0).to(ELEMENT)
    moved = tl.load(x + place, live, 0.0) + tl.dot(u, tl.trans(w), input_precision=PRECISION)
    if HAS_OUT_BIAS:
        moved += tl.load(out_bias + c)[None, :]
    return moved


@triton.jit
def _fwd_kernel(
    x, update, out_weight, out_bias, norm_weight, norm_bias, weight1, bias1, weight2, bias2, y, num_rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ELEMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    place = row[:, None] * C + c[None, :]
    moved = _add_update(x, update, out_weight, out_bias, place, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, _ = standardize(moved, C)
    normed = (standard * tl.load(norm_weight + c)[None, :] + tl.load(norm_bias + c)[None, :]).to(ELEMENT)
    result = moved + tl.load(bias2 + c)[None, :]
    for start in range(0, HIDDEN, CHANNELS):
        j = start + tl.arange(0, CHANNELS)
        w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
        w2 = tl.load(weight2 + c[:, None] * HIDDEN + j[None, :]).to(ELEMENT)
        hidden = tl.dot(normed, tl.trans(w1), input_precision=PRECISION) + tl.load(bias1 + j)[None, :]
        result = tl.dot(gelu(hidden).to(ELEMENT), tl.trans(w2), result, input_precision=PRECISION)
    tl.store(y + place, result, live)


@triton.jit
def _bwd_row_kernel(
    x, update, out_weight, out_bias, norm_weight, norm_bias, weight1, bias1, weight2, g_y,
    g_x, g_update, normed_rows, g_rows, partial, num_rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ELEMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x and the update; and rounded rows for the other kernel: the network's inputs, and gradients of its
    outputs."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    place = row[:, None] * C + c[None, :]
    gain = tl.load(norm_weight + c)[None, :]
    moved = _add_update(x, update, out_weight, out_bias, place, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, _ = standardize(moved, C)
    normed = (standard * gain + tl.load(norm_bias + c)[None, :]).to(ELEMENT)
    tl.store(normed_rows + place, normed.to(normed_rows.dtype.element_ty), live)
    g_out = tl.load(g_y + place, live, 0.0).to(ELEMENT)
    tl.store(g_rows + place, g_out.to(g_rows.dtype.element_ty), live)
    g_normed = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, HIDDEN, CHANNELS):
        j = start + tl.arange(0, CHANNELS)
        w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
        w2 = tl.load(weight2 + c[:, None] * HIDDEN + j[None, :]).to(ELEMENT)
        hidden = tl.dot(normed, tl.trans(w1), input_precision=PRECISION) + tl.load(bias1 + j)[None, :]
        _activated, slope = gelu_and_slope(hidden)
        g_hidden = tl.dot(g_out, w2, input_precision=PRECISION) * slope
        g_normed = tl.dot(g_hidden.to(ELEMENT), w1, g_normed, input_precision=PRECISION)

    # Once more, rather than held in registers all along.
    moved = _add_update(x, update, out_weight, out_bias, place, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, inverse = standardize(moved, C)
    g = tl.load(g_y + place, live, 0.0)
    own = partial + tl.program_id(0) * (3 * C) + c
    tl.store(own, tl.sum(g_normed * standard, 0))
    tl.store(own + C, tl.sum(g_normed, 0))
    tl.store(own + 2 * C, tl.sum(g, 0))
    g += standardize_backward(g_normed * gain, standard, inverse, C)
    tl.store(g_x + place, g, live)
    w = tl.load(out_weight + c[:, None] * C + c[None, :]).to(ELEMENT)
    mapped = tl.dot(g.to(ELEMENT), w, input_precision=PRECISION)
    tl.store(g_update + place, mapped.to(g_update.dtype.element_ty), live)


@triton.jit
def _bwd_weight_kernel(
    normed_rows, g_rows, weight1, bias1, weight2, partial, num_rows, rows_per_group,
    C: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Over one group of rows: gradients of the weights of some hidden channels."""
    j = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    c = tl.arange(0, C)
    group = tl.program_id(1)
    w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
    w2 = tl.load(weight2 + c[:, None] * HIDDEN + j[None, :]).to(ELEMENT)
    b1 = tl.load(bias1 + j)[None, :]
    g_weight1 = tl.zeros([CHANNELS, C], tl.float32)
    g_weight2 = tl.zeros([C, CHANNELS], tl.float32)
    g_bias1 = tl.zeros([CHANNELS], tl.float32)
    begin = group * rows_per_group
    end = tl.minimum(begin + rows_per_group, num_rows)
    for start in range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        place = row[:, None].to(tl.int64) * C + c[None, :]
        normed = tl.load(normed_rows + place, (row < end)[:, None], 0.0).to(ELEMENT)
        g_out = tl.load(g_rows + place, (row < end)[:, None], 0.0).to(ELEMENT)
        activated, slope = gelu_and_slope(tl.dot(normed, tl.trans(w1), input_precision=PRECISION) + b1)
        g_hidden = tl.dot(g_out, w2, input_precision=PRECISION) * slope
        g_bias1 += tl.sum(g_hidden, 0)
        g_weight1 = tl.dot(tl.trans(g_hidden.to(ELEMENT)), normed, g_weight1, input_precision=PRECISION)
        g_weight2 = tl.dot(tl.trans(g_out), activated.to(ELEMENT), g_weight2, input_precision=PRECISION)
    own = partial + group.to(tl.int64) * (HIDDEN * (2 * C + 1))
    tl.store(own + j[:, None] * C + c[None, :], g_weight1)
    tl.store(own + HIDDEN * C + c[:, None] * HIDDEN + j[None, :], g_weight2)
    tl.store(own + 2 * HIDDEN * C + j, g_bias1)


class ResidualFeedForward(torch.autograd.Function):
    """Of float32 rows x [N, C] and updates [N, C] of another dtype."""

    @staticmethod
    def forward(
        ctx, x, update, out_weight, out_bias, norm_weight, norm_bias, weight1, bias1, weight2, bias2
    ):  # fmt: skip
        num_rows, channels = x.shape
        out_element, element1, element2 = (w.to(update.dtype) for w in (out_weight, weight1, weight2))
        ctx.constants = {
            "C": channels,
            "HIDDEN": len(weight1),
            "ELEMENT": dot_element(update.dtype),
            "PRECISION": dot_precision(update.dtype),
        }
        tensors = x, update, out_element, out_bias, norm_weight, norm_bias, element1, bias1, element2
        y = torch.empty_like(x)
        with torch.cuda.device_of(x):
            _fwd_kernel[(triton.cdiv(num_rows, FORWARD.rows),)](
                *tensors, bias2, y, num_rows,
                HAS_OUT_BIAS=out_bias is not None, **ctx.constants, **FORWARD.constants(len(weight1)),
            )  # fmt: skip
        ctx.save_for_backward(*tensors)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_y):
        tensors = ctx.saved_tensors
        x, update, _, out_bias, _, _, element1, bias1, element2 = tensors
        constants, (num_rows, channels), hidden = ctx.constants, x.shape, len(element1)
        g_x, g_update, normed, g_rows = torch.empty_like(x), *(torch.empty_like(update) for _ in range(3))
        programs = triton.cdiv(num_rows, BACKWARD.rows)
        partial = x.new_empty(programs, 3, channels)
        weight_constants = WEIGHTS.constants(hidden)
        chunks = hidden // weight_constants["CHANNELS"]
        groups, rows = groups_of_rows(num_rows, WEIGHTS.rows, chunks)
        weight_partial = x.new_empty(groups, hidden * (2 * channels + 1))
        with torch.cuda.device_of(x):
            _bwd_row_kernel[(programs,)](
                *tensors, g_y.contiguous(), g_x, g_update, normed, g_rows, partial, num_rows,
                HAS_OUT_BIAS=out_bias is not None, **constants, **BACKWARD.constants(hidden),
            )  # fmt: skip
            _bwd_weight_kernel[(chunks, groups)](
                normed, g_rows, element1, bias1, element2, weight_partial, num_rows, rows,
                **constants, **weight_constants,
            )  # fmt: skip
        g_norm_weight, g_norm_bias, g_bias2 = partial.sum(0)
        total, size = weight_partial.sum(0), hidden * channels
        g_weight1, g_weight2 = total[:size].view(hidden, channels), total[size : 2 * size].view(channels, hidden)
        g_out_weight, g_out_bias = product_over_rows(g_x, update, constants["ELEMENT"], constants["PRECISION"])
        return (
            g_x, g_update, g_out_weight, g_out_bias if out_bias is not None else None, g_norm_weight, g_norm_bias,
            g_weight1, total[2 * size :], g_weight2, g_bias2,
        )  # fmt: skip
