"""Kernels of segment attention. A program has one block of whole segments and one head.

The queries of the block's segments are multiplied with the keys of all of them, a block of keys at a time, and a mask
keeps the keys of the query's own segment. Keys are sorted by segment: the masked products are few, and cheap on tensor
cores. A program owns the keys of its segments and writes their complete gradients, so there are no atomics, and sums
repeat. The softmax is computed online: Dao et al., FlashAttention (2022).

Reference: `segment_attention_reference` in `core/ops/graph_attention.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.dot_precision import dot_element, dot_precision

ROWS = 64  # queries of a program, but at least those of one segment
KEYS = 32  # keys of a block
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rows(crow, num_segments, num_queries, SEGMENTS: tl.constexpr, ROWS: tl.constexpr):
    """The program's queries (rows, which of them exist, begin and end of their own keys), and its range of keys."""
    first = tl.program_id(0) * SEGMENTS
    r = tl.arange(0, ROWS)
    segment = first + r // num_queries
    live = (r < SEGMENTS * num_queries) & (segment < num_segments)
    own_begin = tl.load(crow + segment, live, 0).to(tl.int32)
    own_end = tl.load(crow + segment + 1, live, 0).to(tl.int32)
    begin = tl.load(crow + first).to(tl.int32)
    end = tl.load(crow + tl.minimum(first + SEGMENTS, num_segments)).to(tl.int32)
    return first.to(tl.int64) * num_queries + r, live, own_begin, own_end, begin, end


@triton.jit
def _fwd_kernel(
    queries, key_values, crow, out, lse, num_segments, num_queries, key_stride, scale_log2,
    H: tl.constexpr, D: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    DIM: tl.constexpr, ELEMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, live, own_begin, own_end, begin, end = _rows(crow, num_segments, num_queries, SEGMENTS, ROWS)
    head = tl.program_id(1)
    d = tl.arange(0, DIM)
    offsets = (row * H + head)[:, None] * D + d[None, :]
    inside = live[:, None] & (d < D)[None, :]
    q = tl.load(queries + offsets, inside, 0.0).to(ELEMENT)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DIM], tl.float32)
    for start in range(begin, end, KEYS):
        e = start + tl.arange(0, KEYS)
        at = key_values + e.to(tl.int64)[:, None] * key_stride + head * D + d[None, :]
        there = (e < end)[:, None] & (d < D)[None, :]
        k = tl.load(at, there, 0.0).to(ELEMENT)
        v = tl.load(at + H * D, there, 0.0).to(tl.float32)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
        own = (e[None, :] >= own_begin[:, None]) & (e[None, :] < own_end[:, None])
        logits = tl.where(own, logits, float("-inf"))
        higher = tl.maximum(peak, tl.max(logits, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # no key so far
        shrink = tl.exp2(peak - base)
        weights = tl.exp2(logits - base[:, None])
        total = total * shrink + tl.sum(weights, 1)
        sums = sums * shrink[:, None] + tl.dot(weights, v, input_precision=PRECISION)
        peak = higher
    has_keys = total > 0
    tl.store(out + offsets, (sums / tl.where(has_keys, total, 1.0)[:, None]).to(out.dtype.element_ty), inside)
    tl.store(lse + row * H + head, tl.where(has_keys, peak + tl.log2(tl.where(has_keys, total, 1.0)), 0.0), live)


@triton.jit
def _bwd_kernel(
    queries, key_values, crow, out, lse, g_out, g_queries, g_key_values, num_segments, num_queries, key_stride, scale,
    H: tl.constexpr, D: tl.constexpr, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    DIM: tl.constexpr, ELEMENT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, live, own_begin, own_end, begin, end = _rows(crow, num_segments, num_queries, SEGMENTS, ROWS)
    head = tl.program_id(1)
    d = tl.arange(0, DIM)
    offsets = (row * H + head)[:, None] * D + d[None, :]
    inside = live[:, None] & (d < D)[None, :]
    q = tl.load(queries + offsets, inside, 0.0)
    g = tl.load(g_out + offsets, inside, 0.0)
    mean = tl.sum(g.to(tl.float32) * tl.load(out + offsets, inside, 0.0).to(tl.float32), 1)
    level = tl.load(lse + row * H + head, live, 0.0)
    g_q = tl.zeros([ROWS, DIM], tl.float32)
    for start in range(begin, end, KEYS):
        e = start + tl.arange(0, KEYS)
        at = key_values + e.to(tl.int64)[:, None] * key_stride + head * D + d[None, :]
        there = (e < end)[:, None] & (d < D)[None, :]
        k = tl.load(at, there, 0.0)
        v = tl.load(at + H * D, there, 0.0).to(ELEMENT)
        logits = tl.dot(q.to(ELEMENT), tl.trans(k.to(ELEMENT)), input_precision=PRECISION) * (scale * LOG2_E)
        own = (e[None, :] >= own_begin[:, None]) & (e[None, :] < own_end[:, None])
        weights = tl.where(own, tl.exp2(logits - level[:, None]), 0.0)
        g_weights = tl.dot(g.to(ELEMENT), tl.trans(v), input_precision=PRECISION)
        g_logits = weights * (g_weights - mean[:, None]) * scale
        g_q += tl.dot(g_logits, k.to(tl.float32), input_precision=PRECISION)
        g_k = tl.dot(tl.trans(g_logits), q.to(tl.float32), input_precision=PRECISION)
        g_v = tl.dot(tl.trans(weights), g.to(tl.float32), input_precision=PRECISION)
        at = g_key_values + (e.to(tl.int64) * (2 * H) + head)[:, None] * D + d[None, :]
        tl.store(at, g_k.to(g_key_values.dtype.element_ty), there)
        tl.store(at + H * D, g_v.to(g_key_values.dtype.element_ty), there)
    tl.store(g_queries + offsets, g_q.to(g_queries.dtype.element_ty), inside)


def _launch_plan(queries: Tensor) -> tuple[tuple[int, int], dict]:
    """The grid (blocks of segments, heads), and the kernels' constants."""
    num_segments, num_queries, heads, width = queries.shape
    rows = max(ROWS, triton.next_power_of_2(num_queries))
    segments = rows // num_queries
    constants = {
        "H": heads,
        "D": width,
        "SEGMENTS": segments,
        "ROWS": rows,
        "KEYS": KEYS,
        "DIM": max(16, triton.next_power_of_2(width)),
        "ELEMENT": dot_element(queries.dtype),
        "PRECISION": dot_precision(queries.dtype),
        "num_warps": 4,
    }
    return (triton.cdiv(num_segments, segments), heads), constants


class SegmentAttention(torch.autograd.Function):
    """Segment attention with gradients. Rows of `key_values` [E, 2, H, D] may lie apart in memory."""

    @staticmethod
    def forward(ctx, queries, key_values, crow):
        grid, constants = _launch_plan(queries)
        num_segments, num_queries, heads, width = queries.shape
        out = torch.empty_like(queries)
        lse = queries.new_empty(num_segments, num_queries, heads, dtype=torch.float32)
        scale_log2 = width**-0.5 * LOG2_E.value
        with torch.cuda.device_of(queries):
            _fwd_kernel[grid](
                queries, key_values, crow, out, lse,
                num_segments, num_queries, key_values.stride(0), scale_log2, **constants,
            )  # fmt: skip
        ctx.save_for_backward(queries, key_values, crow, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_out):
        queries, key_values, crow, out, lse = ctx.saved_tensors
        grid, constants = _launch_plan(queries)
        num_segments, num_queries, _, width = queries.shape
        g_queries = torch.empty_like(queries)
        g_key_values = key_values.new_zeros(key_values.shape)  # rows after the last segment have no gradient
        with torch.cuda.device_of(queries):
            _bwd_kernel[grid](
                queries, key_values, crow, out, lse, g_out.contiguous(), g_queries, g_key_values,
                num_segments, num_queries, key_values.stride(0), width**-0.5, **constants,
            )  # fmt: skip
        return g_queries, g_key_values, None
