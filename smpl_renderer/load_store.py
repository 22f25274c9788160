"""Loads and stores of short float32 vectors and matrices whose entries are adjacent in memory."""

import triton
import triton.language as tl


@triton.jit
def load3(pointers, mask):
    """Load vectors of three; 0 where masked."""
    return tl.load(pointers, mask, 0.0), tl.load(pointers + 1, mask, 0.0), tl.load(pointers + 2, mask, 0.0)


@triton.jit
def load4(pointers, mask):
    """Load vectors of four; 0 where masked."""
    a, b, c = load3(pointers, mask)
    return a, b, c, tl.load(pointers + 3, mask, 0.0)


@triton.jit
def store3(pointers, a, b, c, mask):
    """Store vectors of three."""
    tl.store(pointers, a, mask)
    tl.store(pointers + 1, b, mask)
    tl.store(pointers + 2, c, mask)


@triton.jit
def store4(pointers, a, b, c, d, mask, BLOCK: tl.constexpr):
    """Store vectors of four as one tensor [BLOCK, 4], which coalesces into 16-byte accesses."""
    values = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [BLOCK, 4])
    tl.store(pointers[:, None] + tl.arange(0, 4)[None, :], values, mask[:, None])


@triton.jit
def store_matrix(pointers, m, mask):
    """Store 3 x 3 matrices, given as nine entries row by row."""
    for k in tl.static_range(9):
        tl.store(pointers + k, m[k], mask)
