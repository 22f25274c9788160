"""Kernels of the residual feed-forward network.

The forward pass is one kernel, which stores neither the sum nor the hidden layer. The backward pass recomputes both:
kernels compute the hidden layer and its gradient, and from that the gradients of the inputs. Gradients of weights are
products of such rows, computed by cuBLAS.

Reference: `residual_feed_forward_reference` in `core/ops/dense_layers.py`.
"""

import torch
import triton
import triton.language as tl

from core.ops.dot_precision import dot_element, dot_precision
from core.ops.layer_kernel_parts import (
    Blocks,
    gelu,
    gelu_and_slope,
    product_over_rows,
    standardize,
    standardize_backward,
)

FORWARD = Blocks(64, 64, 4, 2)
BACKWARD = Blocks(64, 64, 4, 3)
BACKWARD_HIDDEN = Blocks(64, 64, 4, 2)  # the same rows as in BACKWARD: both write to one table of sums
INPUT_WARPS = 8  # of the backward pass's first kernel, which is bound by memory


@triton.jit
def _add_update(
    x, update, out_weight, out_bias, offsets, live, C: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, C)
    w = tl.load(out_weight + c[:, None] * C + c[None, :]).to(ELEMENT)
    u = tl.load(update + offsets, live, 0.0).to(ELEMENT)
    moved = tl.load(x + offsets, live, 0.0) + tl.dot(u, tl.trans(w), input_precision=PRECISION)
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
    offsets = row[:, None] * C + c[None, :]
    moved = _add_update(x, update, out_weight, out_bias, offsets, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, _ = standardize(moved, C)
    normed = (standard * tl.load(norm_weight + c)[None, :] + tl.load(norm_bias + c)[None, :]).to(ELEMENT)
    result = moved + tl.load(bias2 + c)[None, :]
    for start in range(0, HIDDEN, CHANNELS):
        j = start + tl.arange(0, CHANNELS)
        w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
        w2 = tl.load(weight2 + c[:, None] * HIDDEN + j[None, :]).to(ELEMENT)
        hidden = tl.dot(normed, tl.trans(w1), input_precision=PRECISION) + tl.load(bias1 + j)[None, :]
        result = tl.dot(gelu(hidden).to(ELEMENT), tl.trans(w2), result, input_precision=PRECISION)
    tl.store(y + offsets, result, live)


@triton.jit
def _bwd_input_kernel(
    x, update, out_weight, out_bias, norm_weight, norm_bias, g_y, normed_rows, g_rows, partial, num_rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ROWS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The network's input and the gradient of its output, both rounded, and the program's part of bias2's gradient."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    offsets = row[:, None] * C + c[None, :]
    moved = _add_update(x, update, out_weight, out_bias, offsets, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, _ = standardize(moved, C)
    normed = standard * tl.load(norm_weight + c)[None, :] + tl.load(norm_bias + c)[None, :]
    tl.store(normed_rows + offsets, normed.to(normed_rows.dtype.element_ty), live)
    g = tl.load(g_y + offsets, live, 0.0)
    tl.store(g_rows + offsets, g.to(g_rows.dtype.element_ty), live)
    tl.store(partial + tl.program_id(0) * (HIDDEN + 4 * C) + HIDDEN + c, tl.sum(g, 0))


@triton.jit
def _bwd_hidden_kernel(
    normed_rows, g_rows, weight1, bias1, weight2, activated, g_hidden, partial, num_rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Some channels of the hidden layer after its GELU, gradients before it, and a part of the gradient of bias1."""
    block = tl.program_id(0) // (HIDDEN // CHANNELS)  # programs with the same rows are neighbours: the rows are cached
    j = tl.program_id(0) % (HIDDEN // CHANNELS) * CHANNELS + tl.arange(0, CHANNELS)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    offsets = row[:, None] * C + c[None, :]
    normed = tl.load(normed_rows + offsets, live, 0.0).to(ELEMENT)
    w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
    hidden = tl.dot(normed, tl.trans(w1), input_precision=PRECISION) + tl.load(bias1 + j)[None, :]
    g_out = tl.load(g_rows + offsets, live, 0.0).to(ELEMENT)
    w2 = tl.load(weight2 + c[:, None] * HIDDEN + j[None, :]).to(ELEMENT)
    g = tl.dot(g_out, w2, input_precision=PRECISION)
    value, slope = gelu_and_slope(hidden)
    g *= slope
    at = row[:, None] * HIDDEN + j[None, :]
    tl.store(activated + at, value.to(activated.dtype.element_ty), live)
    tl.store(g_hidden + at, g.to(g_hidden.dtype.element_ty), live)
    tl.store(partial + block * (HIDDEN + 4 * C) + j, tl.sum(g, 0))


@triton.jit
def _bwd_row_kernel(
    x, update, out_weight, out_bias, norm_weight, norm_bias, weight1, g_hidden, g_y,
    g_x, g_update, g_rows, partial, num_rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, HAS_OUT_BIAS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    ELEMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of x, also rounded, and of the update, and the program's part of those of the norm and out_bias."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    g_normed = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, HIDDEN, CHANNELS):
        j = start + tl.arange(0, CHANNELS)
        w1 = tl.load(weight1 + j[:, None] * C + c[None, :]).to(ELEMENT)
        g_own = tl.load(g_hidden + row[:, None] * HIDDEN + j[None, :], live, 0.0).to(ELEMENT)
        g_normed = tl.dot(g_own, w1, g_normed, input_precision=PRECISION)
    offsets = row[:, None] * C + c[None, :]
    moved = _add_update(x, update, out_weight, out_bias, offsets, live, C, HAS_OUT_BIAS, ELEMENT, PRECISION)
    standard, inverse = standardize(moved, C)
    part = partial + tl.program_id(0) * (HIDDEN + 4 * C) + HIDDEN + C + c
    tl.store(part, tl.sum(g_normed * standard, 0))
    tl.store(part + C, tl.sum(g_normed, 0))
    g = tl.load(g_y + offsets, live, 0.0)
    g += standardize_backward(g_normed * tl.load(norm_weight + c)[None, :], standard, inverse, C)
    tl.store(part + 2 * C, tl.sum(g, 0))
    tl.store(g_x + offsets, g, live)
    rounded = g.to(ELEMENT)
    tl.store(g_rows + offsets, rounded.to(g_rows.dtype.element_ty), live)
    w = tl.load(out_weight + c[:, None] * C + c[None, :]).to(ELEMENT)
    mapped = tl.dot(rounded, w, input_precision=PRECISION)
    tl.store(g_update + offsets, mapped.to(g_update.dtype.element_ty), live)


class ResidualFeedForward(torch.autograd.Function):
    """Residual feed-forward network of float32 rows x [R, D] and updates [R, D] of another dtype."""

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
        x, update, *weights = ctx.saved_tensors
        _, out_bias, _, _, element1, *_ = weights
        (num_rows, channels), hidden = x.shape, len(element1)
        constants, has_out_bias = ctx.constants, out_bias is not None
        g_y, g_x = g_y.contiguous(), torch.empty_like(x)
        g_update, normed, g_rows = (torch.empty_like(update) for _ in range(3))
        activated, g_hidden = (update.new_empty(num_rows, hidden) for _ in range(2))
        blocks = triton.cdiv(num_rows, BACKWARD.rows)
        partial = x.new_empty(blocks, hidden + 4 * channels)
        hidden_constants = BACKWARD_HIDDEN.constants(hidden)
        chunks = hidden // hidden_constants["CHANNELS"]
        with torch.cuda.device_of(x):
            _bwd_input_kernel[(blocks,)](
                x, update, *weights[:4], g_y, normed, g_rows, partial, num_rows,
                HAS_OUT_BIAS=has_out_bias, ROWS=BACKWARD.rows, num_warps=INPUT_WARPS, **constants,
            )  # fmt: skip
            _bwd_hidden_kernel[(chunks * blocks,)](
                normed, g_rows, *weights[4:], activated, g_hidden, partial, num_rows, **constants, **hidden_constants
            )
            g_weight1, g_weight2 = product_over_rows(g_hidden, normed), product_over_rows(g_rows, activated)
            _bwd_row_kernel[(blocks,)](
                x, update, *weights[:5], g_hidden, g_y, g_x, g_update, g_rows, partial, num_rows,
                HAS_OUT_BIAS=has_out_bias, **constants, **BACKWARD.constants(hidden),
            )  # fmt: skip
        g_bias1, g_bias2, g_norm_weight, g_norm_bias, g_out_bias = partial.sum(0).split([hidden, *4 * [channels]])
        return (
            g_x, g_update, product_over_rows(g_rows, update), g_out_bias if has_out_bias else None,
            g_norm_weight, g_norm_bias, g_weight1, g_bias1, g_weight2, g_bias2,
        )  # fmt: skip
