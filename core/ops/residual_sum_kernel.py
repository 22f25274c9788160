"""Kernel of the scaled sum of a branch, its bias and a skip connection, for maps with channels last in memory.

Reference: `residual_sum_reference` in `core/ops/residual_sum.py`.
"""

import torch
import triton
import triton.language as tl

TILE, BLOCK_CHANNELS = 4096, 128


@triton.jit
def _fwd_kernel(
    x, skip, bias, y, pixels, scale, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (pixel < pixels)[:, None] & (channel < C)[None, :]
    offset = pixel[:, None].to(tl.int64) * C + channel[None, :]
    total = tl.load(x + offset, inside, 0.0).to(tl.float32) + tl.load(skip + offset, inside, 0.0).to(tl.float32)
    total += tl.load(bias + channel, channel < C, 0.0).to(tl.float32)[None, :]
    tl.store(y + offset, (total * scale).to(y.dtype.element_ty), inside)


class ResidualSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, skip, bias, scale):
        images, channels, height, width = x.shape
        y = torch.empty_like(x)
        block = min(BLOCK_CHANNELS, triton.next_power_of_2(channels))
        rows = TILE // block
        pixels = images * height * width
        with torch.cuda.device_of(x):
            _fwd_kernel[(triton.cdiv(pixels, rows), triton.cdiv(channels, block))](
                x, skip, bias, y, pixels, scale, C=channels, ROWS=rows, BLOCK=block
            )
        ctx.scale, ctx.dtype = scale, bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_y):
        g = g_y * ctx.scale
        g_bias = g.sum((0, 2, 3), dtype=torch.float32).to(ctx.dtype) if ctx.needs_input_grad[2] else None
        return g, g, g_bias, None
