"""Depth rank of each splat within its view, in time proportional to the number of splats.

The projection counts the splats of each bucket of depth (`DepthOrder`), a quarter of a millimetre at 2 m, which holds
a hundred of a million splats. A bucket of s splats is divided into s equal parts, which hold about one splat each; the
splats of a part form a linked list. The rank of a splat is the number of splats in earlier parts plus the number of
smaller keys in its own: a proxmap sort. Keys are compared in double precision, equal keys by index, so that ranks are
deterministic. Where parts are crowded (most depths are equal, for example), sorting is faster; `CapacityEstimator`
switches to it after the first rendering.

Estimated traffic per splat: 70 bytes of device memory and 8 accesses of 32 bytes to the L2 cache, while a radix sort of
64-bit keys moves 270 bytes.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor

from core.render.launch import Launcher, aligned_zeros
from core.render.splat_table import NOT_DRAWN, OCTAVES, DepthOrder, bucket_of, octave_bits, position_in_bucket

BLOCK = 64  # splats per program

CROWDED = tl.constexpr(512)  # size of a list above which sorting is faster than traversing it for each splat


@triton.jit
def view_and_splats(count, BLOCK: tl.constexpr):
    """View of a program, and its splats there. Views follow one another, so that what programs read and write at
    random, at most the lists of a few views, stays in the L2 cache."""
    blocks = tl.cdiv(count, BLOCK)
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), program % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit(do_not_specialize=["count"])
def _link_kernel(
    keys, arrivals, bucket_ends, bucket_sizes, parts, sizes, heads, nexts, count,
    OCTAVE_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the part of each splat, count it there, and add it to the part's list.

    Parts are numbered through all views. A splat that is not drawn has a part of its own, behind those of its view.
    """
    view, n = view_and_splats(count, BLOCK)
    mask = n < count
    i = view * count + n
    key = tl.load(keys + i, mask, NOT_DRAWN)
    drawn = key != NOT_DRAWN
    bucket = view * (OCTAVES << OCTAVE_BITS) + bucket_of(key, OCTAVE_BITS)
    size = tl.load(bucket_sizes + bucket)
    first = tl.load(bucket_ends + bucket) - size
    position = (position_in_bucket(key, OCTAVE_BITS).to(tl.int64) * size) >> (23 - OCTAVE_BITS)
    part = first + tl.where(drawn, position.to(tl.int32), tl.load(arrivals + i, mask, 0))
    tl.store(parts + i, part, mask)
    tl.atomic_add(sizes + part, 1, mask, sem="relaxed")
    head = tl.atomic_xchg(heads + part, n + 1, mask & drawn, sem="relaxed")
    tl.store(nexts + i, head, mask & drawn)


@triton.jit(do_not_specialize=["count"])
def _rank_kernel(
    keys, parts, ends, sizes, heads, nexts, ranks, crowded, count, LIMIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    view, n = view_and_splats(count, BLOCK)
    mask = n < count
    first = view * count
    key = tl.load(keys + first + n, mask, NOT_DRAWN)
    part = tl.load(parts + first + n, mask, 0)
    size = tl.load(sizes + part, mask, 0)
    tl.store(crowded, 1, tl.max(size, 0) > LIMIT)
    rank = tl.load(ends + part, mask, 0) - size - first.to(tl.int32)
    other = tl.load(heads + part, mask & (key != NOT_DRAWN), 0) - 1
    while tl.max(other, 0) >= 0:
        other_key = tl.load(keys + first + other, other >= 0, NOT_DRAWN)
        rank += ((other_key < key) | ((other_key == key) & (other < n) & (other >= 0))).to(tl.int32)
        other = tl.load(nexts + first + other, other >= 0, 0) - 1
    tl.store(ranks + first + n, rank, mask)


_launch_link, _launch_rank = (Launcher(kernel, num_warps=1) for kernel in (_link_kernel, _rank_kernel))


def depth_ranks(order: DepthOrder, crowded: Int[Tensor, " 1"]) -> Int[Tensor, "V N"]:
    """Depth rank of each splat within its view, near to far; splats that are not drawn come last, in any order.

    Args:
        order: With `sizes` and `nexts`, whose other entries are overwritten.
        crowded: Host memory in which 1 is stored if `ranks_by_sorting` is faster.
    """
    keys, arrivals = order.keys, order.nexts
    num_views, count = order.sizes.shape[0], keys.shape[-1]
    grid = (num_views * triton.cdiv(count, BLOCK),)
    sizes, heads = aligned_zeros(keys.device, *[num_views * count] * 2)
    parts = torch.empty(num_views, count, dtype=torch.int32, device=keys.device)
    _launch_link(
        grid,
        *(keys, arrivals, order.sizes.view(-1).cumsum(0, dtype=torch.int32), order.sizes),
        *(parts, sizes, heads, arrivals, count),
        constants=(octave_bits(count), BLOCK),
    )
    ranks = torch.empty_like(parts)
    ends = sizes.cumsum(0, dtype=torch.int32)
    lists = parts, ends, sizes, heads, arrivals
    _launch_rank(grid, keys, *lists, ranks, crowded, count, constants=(CROWDED.value, BLOCK))
    return ranks


def ranks_by_sorting(keys: Int[Tensor, "*views N"]) -> Int[Tensor, "*views N"]:
    """Define `depth_ranks`: rank of each splat within its view, by a sort."""
    order = keys.argsort(dim=-1, stable=True)
    places = torch.arange(keys.shape[-1], dtype=torch.int32, device=keys.device).expand_as(keys)
    return torch.empty(keys.shape, dtype=torch.int32, device=keys.device).scatter_(-1, order, places)
