"""Kernels of neighbour attention. A program has a block of vertices and one query slot.

Keys and values are gathered one neighbour of each vertex at a time. Vertices with close indices share most of their
neighbours, which are then cached. The gradients of keys and values are gathered too, through the reversed table, so
there are no atomics, and sums repeat.

Reference: `neighbor_attention_reference` in `core/ops/graph_attention.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 2048  # numbers in a program's block
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _program_rows(num_vertices, num_queries, H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr,
            DIM: tl.constexpr):  # fmt: skip
    """The program's vertices, which of them exist, the row of vertex 0, the heads, the channels' offsets in a row, and
    which of these exist."""
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = vertex < num_vertices
    base = tl.program_id(2).to(tl.int64) * num_vertices * num_queries + tl.program_id(1)
    h, d = tl.arange(0, HEADS), tl.arange(0, DIM)
    channel = (h[:, None] * D + d[None, :])[None, :, :]
    return vertex, live, base, h, channel, ((h < H)[:, None] & (d < D)[None, :])[None, :, :]


@triton.jit
def _fwd_kernel(
    qkv, neighbors, neighbor_mask, out, lse, num_vertices, num_queries, num_neighbors, scale_log2,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    vertex, live, base, h, channel, real = _program_rows(num_vertices, num_queries, H, D, BLOCK, HEADS, DIM)
    row = base + vertex.to(tl.int64) * num_queries
    inside = live[:, None, None] & real
    q = tl.load(qkv + row[:, None, None] * (3 * H * D) + channel, inside, 0.0).to(tl.float32) * scale_log2
    peak = tl.full([BLOCK, HEADS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK, HEADS], tl.float32)
    sums = tl.zeros([BLOCK, HEADS, DIM], tl.float32)
    for j in range(num_neighbors):
        entry = vertex * num_neighbors + j
        counts = tl.load(neighbor_mask + entry, live, 0).to(tl.int1)
        other = base + tl.load(neighbors + entry, live, 0).to(tl.int64) * num_queries
        at = qkv + other[:, None, None] * (3 * H * D) + channel
        there = counts[:, None, None] & real
        k = tl.load(at + H * D, there, 0.0).to(tl.float32)
        v = tl.load(at + 2 * H * D, there, 0.0).to(tl.float32)
        logits = tl.where(counts[:, None], tl.sum(q * k, 2), float("-inf"))
        higher = tl.maximum(peak, logits)
        start = tl.where(higher == float("-inf"), 0.0, higher)  # no neighbour so far
        shrink = tl.exp2(peak - start)
        weights = tl.exp2(logits - start)
        total = total * shrink + weights
        sums = sums * shrink[:, :, None] + weights[:, :, None] * v
        peak = higher
    total = tl.where(total > 0, total, 1.0)  # padding rows
    offsets = row[:, None, None] * (H * D) + channel
    tl.store(out + offsets, (sums / total[:, :, None]).to(out.dtype.element_ty), inside)
    heads = live[:, None] & (h < H)[None, :]
    tl.store(lse + row[:, None] * H + h[None, :], peak + tl.log2(total), heads)


@triton.jit
def _bwd_query_kernel(
    qkv, neighbors, neighbor_mask, out, lse, g_out, g_qkv, means, num_vertices, num_queries, num_neighbors, scale,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, and for each query the mean of its weights' gradients, for the next kernel."""
    vertex, live, base, h, channel, real = _program_rows(num_vertices, num_queries, H, D, BLOCK, HEADS, DIM)
    row = base + vertex.to(tl.int64) * num_queries
    inside = live[:, None, None] & real
    heads = live[:, None] & (h < H)[None, :]
    q = tl.load(qkv + row[:, None, None] * (3 * H * D) + channel, inside, 0.0).to(tl.float32) * (scale * LOG2_E)
    offsets = row[:, None, None] * (H * D) + channel
    g = tl.load(g_out + offsets, inside, 0.0).to(tl.float32)
    mean = tl.sum(g * tl.load(out + offsets, inside, 0.0).to(tl.float32), 2)
    level = tl.load(lse + row[:, None] * H + h[None, :], heads, 0.0)
    tl.store(means + row[:, None] * H + h[None, :], mean, heads)
    g_q = tl.zeros([BLOCK, HEADS, DIM], tl.float32)
    for j in range(num_neighbors):
        entry = vertex * num_neighbors + j
        counts = tl.load(neighbor_mask + entry, live, 0).to(tl.int1)
        other = base + tl.load(neighbors + entry, live, 0).to(tl.int64) * num_queries
        at = qkv + other[:, None, None] * (3 * H * D) + channel
        there = counts[:, None, None] & real
        k = tl.load(at + H * D, there, 0.0).to(tl.float32)
        v = tl.load(at + 2 * H * D, there, 0.0).to(tl.float32)
        weights = tl.where(counts[:, None] & heads, tl.exp2(tl.sum(q * k, 2) - level), 0.0)
        g_logits = weights * (tl.sum(g * v, 2) - mean)
        g_q += g_logits[:, :, None] * k
    at = row[:, None, None] * (3 * H * D) + channel
    tl.store(g_qkv + at, (g_q * scale).to(g_qkv.dtype.element_ty), inside)


@triton.jit
def _bwd_key_kernel(
    qkv, reverse, crow, lse, g_out, g_qkv, means, num_vertices, num_queries, scale,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, from the vertices that attend to them."""
    vertex, live, base, h, channel, real = _program_rows(num_vertices, num_queries, H, D, BLOCK, HEADS, DIM)
    row = base + vertex.to(tl.int64) * num_queries
    inside = live[:, None, None] & real
    at = row[:, None, None] * (3 * H * D) + channel
    k = tl.load(qkv + at + H * D, inside, 0.0).to(tl.float32) * (scale * LOG2_E)
    v = tl.load(qkv + at + 2 * H * D, inside, 0.0).to(tl.float32)
    g_k = tl.zeros([BLOCK, HEADS, DIM], tl.float32)
    g_v = tl.zeros([BLOCK, HEADS, DIM], tl.float32)
    begin = tl.load(crow + vertex, live, 0)
    count = tl.load(crow + vertex + 1, live, 0) - begin
    for j in range(tl.max(count, 0)):
        own = j < count
        other = base + tl.load(reverse + begin + j, own, 0).to(tl.int64) * num_queries
        there = own[:, None, None] & real
        q = tl.load(qkv + other[:, None, None] * (3 * H * D) + channel, there, 0.0).to(tl.float32)
        g = tl.load(g_out + other[:, None, None] * (H * D) + channel, there, 0.0).to(tl.float32)
        heads = own[:, None] & (h < H)[None, :]
        level = tl.load(lse + other[:, None] * H + h[None, :], heads, 0.0)
        mean = tl.load(means + other[:, None] * H + h[None, :], heads, 0.0)
        weights = tl.where(heads, tl.exp2(tl.sum(q * k, 2) - level), 0.0)
        g_logits = weights * (tl.sum(g * v, 2) - mean)
        g_k += g_logits[:, :, None] * q
        g_v += weights[:, :, None] * g
    tl.store(g_qkv + at + H * D, (g_k * scale).to(g_qkv.dtype.element_ty), inside)
    tl.store(g_qkv + at + 2 * H * D, g_v.to(g_qkv.dtype.element_ty), inside)


def _launch_plan(qkv: Tensor) -> tuple[tuple[int, int, int], dict]:
    """The grid (blocks of vertices, query slots, subjects), and the kernels' constants."""
    batch, num_vertices, num_queries, _, heads, width = qkv.shape
    padded = triton.next_power_of_2(heads), triton.next_power_of_2(width)
    block = max(1, ELEMENTS // (padded[0] * padded[1]))
    constants = {"H": heads, "D": width, "BLOCK": block, "HEADS": padded[0], "DIM": padded[1], "num_warps": 4}
    return (triton.cdiv(num_vertices, block), num_queries, batch), constants


class NeighborAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, neighbors, mask, reverse, crow):
        grid, constants = _launch_plan(qkv)
        batch, num_vertices, num_queries, _, heads, width = qkv.shape
        out = qkv.new_empty(batch, num_vertices, num_queries, heads, width)
        lse = qkv.new_empty(batch, num_vertices, num_queries, heads, dtype=torch.float32)
        sizes = num_vertices, num_queries, neighbors.shape[1]
        with torch.cuda.device_of(qkv):
            _fwd_kernel[grid](
                qkv, neighbors, mask, out, lse, *sizes, width**-0.5 * LOG2_E.value, **constants
            )  # fmt: skip
        ctx.save_for_backward(qkv, neighbors, mask, reverse, crow, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_out):
        qkv, neighbors, mask, reverse, crow, out, lse = ctx.saved_tensors
        grid, constants = _launch_plan(qkv)
        _, num_vertices, num_queries, _, _, width = qkv.shape
        g_out, g_qkv, means = g_out.contiguous(), torch.empty_like(qkv), torch.empty_like(lse)
        with torch.cuda.device_of(qkv):
            _bwd_query_kernel[grid](
                qkv, neighbors, mask, out, lse, g_out, g_qkv, means,
                num_vertices, num_queries, neighbors.shape[1], width**-0.5, **constants,
            )  # fmt: skip
            _bwd_key_kernel[grid](
                qkv, reverse, crow, lse, g_out, g_qkv, means,
                num_vertices, num_queries, width**-0.5, **constants,
            )  # fmt: skip
        return g_qkv, None, None, None, None
