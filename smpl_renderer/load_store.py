"""Vectors and matrices in memory: adjacent float32 words."""

import triton
import triton.language as tl


@triton.jit
def load3(pointers, mask):
    """Three words; 0 where masked."""
    return tl.load(pointers, mask, 0.0), tl.load(pointers + 1, mask, 0.0), tl.load(pointers + 2, mask, 0.0)


@triton.jit
def load4(pointers, mask):
    """Four words; 0 where masked."""
    a, b, c = load3(pointers, mask)
    return a, b, c, tl.load(pointers + 3, mask, 0.0)


@triton.jit
def store3(pointers, a, b, c, mask):
    tl.store(pointers, a, mask)
    tl.store(pointers + 1, b, mask)
    tl.store(pointers + 2, c, mask)


@triton.jit
def store4(pointers, a, b, c, d, mask, BLOCK: tl.constexpr):
    """All four at once, which is one access of the memory."""
    values = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK, 4])
    tl.store(pointers[:, None] + tl.arange(0, 4)[None, :], values, mask[:, None])


@triton.jit
def store_matrix(pointers, m, mask):
    """Nine words."""
    for k in tl.static_range(9):
        tl.store(pointers + k, m[k], mask)
