"""Kernels of LayerNorm followed by a linear map. The backward pass adds the gradient of the skip connection.

Reference: `norm_linear_reference` in `core/ops/dense_layers.py`.
"""

import torch
import triton
import triton.language as tl

from core.ops.dot_precision import dot_element, dot_precision
from core.ops.layer_kernel_parts import Blocks, product_over_rows, standardize, standardize_backward

FORWARD = Blocks(64, 64, 4, 2)
BACKWARD = Blocks(64, 64, 4, 2)


@triton.jit
def _fwd_kernel(
    x, norm_weight, norm_bias, weight, bias, out, num_rows,
    C: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    standard, _ = standardize(tl.load(x + row[:, None] * C + c[None, :], live, 0.0), C)
    normed = (standard * tl.load(norm_weight + c)[None, :] + tl.load(norm_bias + c)[None, :]).to(ELEMENT)
    for start in range(0, OUT, CHANNELS):
        o = start + tl.arange(0, CHANNELS)
        w = tl.load(weight + o[:, None] * C + c[None, :]).to(ELEMENT)
        mapped = tl.dot(normed, tl.trans(w), input_precision=PRECISION) + tl.load(bias + o)[None, :]
        tl.store(out + row[:, None] * OUT + o[None, :], mapped.to(out.dtype.element_ty), live)


@triton.jit
def _bwd_kernel(
    x, norm_weight, norm_bias, weight, g_out, g_skip, g_x, normed, partial, num_rows,
    C: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ELEMENT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of x, the normalised rows, and the program's part of the gradients of the biases and the norm."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = (row < num_rows)[:, None]
    c = tl.arange(0, C)
    part = partial + tl.program_id(0) * (OUT + 2 * C)
    g = tl.zeros([ROWS, C], tl.float32)
    for start in range(0, OUT, CHANNELS):
        o = start + tl.arange(0, CHANNELS)
        w = tl.load(weight + o[:, None] * C + c[None, :]).to(ELEMENT)
        g_mapped = tl.load(g_out + row[:, None] * OUT + o[None, :], live, 0.0)
        tl.store(part + o, tl.sum(g_mapped.to(tl.float32), 0))
        g = tl.dot(g_mapped.to(ELEMENT), w, g, input_precision=PRECISION)
    offsets = row[:, None] * C + c[None, :]
    standard, inverse = standardize(tl.load(x + offsets, live, 0.0), C)
    gain = tl.load(norm_weight + c)[None, :]
    tl.store(normed + offsets, (standard * gain + tl.load(norm_bias + c)[None, :]).to(normed.dtype.element_ty), live)
    tl.store(part + OUT + c, tl.sum(g * standard, 0))
    tl.store(part + OUT + C + c, tl.sum(g, 0))
    g_own = standardize_backward(g * gain, standard, inverse, C)
    tl.store(g_x + offsets, tl.load(g_skip + offsets, live, 0.0) + g_own, live)


class NormLinear(torch.autograd.Function):
    """Map float32 rows x [R, D] to rows [R, O] of another dtype; x is the second result."""

    @staticmethod
    def forward(ctx, x, norm_weight, norm_bias, weight, bias, dtype):
        num_rows, channels = x.shape
        element = weight.to(dtype)
        ctx.constants = {
            "C": channels,
            "OUT": len(weight),
            "ELEMENT": dot_element(dtype),
            "PRECISION": dot_precision(dtype),
        }
        out = torch.empty(num_rows, len(weight), dtype=dtype, device=x.device)
        with torch.cuda.device_of(x):
            _fwd_kernel[(triton.cdiv(num_rows, FORWARD.rows),)](
                x, norm_weight, norm_bias, element, bias, out, num_rows,
                **ctx.constants, **FORWARD.constants(len(weight)),
            )  # fmt: skip
        ctx.save_for_backward(x, norm_weight, norm_bias, element)
        return out, x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_out, g_skip):
        x, norm_weight, norm_bias, element = ctx.saved_tensors
        num_rows, channels = x.shape
        programs = triton.cdiv(num_rows, BACKWARD.rows)
        g_out, g_skip, g_x = g_out.contiguous(), g_skip.contiguous(), torch.empty_like(x)
        normed = torch.empty_like(x, dtype=element.dtype)
        partial = x.new_empty(programs, len(element) + 2 * channels)
        with torch.cuda.device_of(x):
            _bwd_kernel[(programs,)](
                x, norm_weight, norm_bias, element, g_out, g_skip, g_x, normed, partial, num_rows,
                **ctx.constants, **BACKWARD.constants(len(element)),
            )  # fmt: skip
        g_bias, *g_norm = partial.sum(0).split([len(element), channels, channels])
        return g_x, *g_norm, product_over_rows(g_out, normed), g_bias, None
