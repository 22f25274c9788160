"""The rotation nearest to a 3 x 3 matrix, without an SVD. Reference: `nearest_rotation` in smpl_renderer/rotations.py.

The unit quaternion q of the nearest rotation maximizes q^T K q for a symmetric 4 x 4 matrix K, whose entries are linear
in those of the matrix M: it is the eigenvector of K's largest eigenvalue (Horn, Closed-form solution of absolute
orientation using unit quaternions, 1987). K is shifted to make that eigenvalue the largest in magnitude, and squared
repeatedly, until it converges to a multiple of q q^T.

The two largest eigenvalues of K differ by 2 (s2 + s3), where s1 >= s2 >= |s3| are the singular values of M (s3 < 0 for
a reflection). The error is below 2e-6 s1 / (s2 + s3), as for any method in float32. Where s2 + s3 vanishes (rank one,
or a reflection with s2 = -s3), many rotations are equally near, and the result is one of them up to rounding; for the
zero matrix it is the identity.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.load_store import store_matrix

BLOCK = 128
SQUARINGS = tl.constexpr(12)  # K^(2^12) separates s2 + s3 down to 0.3 % of s1, the limit of float32


@triton.jit
def nearest_quaternion(m00, m01, m02, m10, m11, m12, m20, m21, m22):
    """Unit quaternions (w, x, y, z) of the nearest rotations, with w >= 0."""
    square = m00 * m00 + m01 * m01 + m02 * m02 + m10 * m10 + m11 * m11 + m12 * m12 + m20 * m20 + m21 * m21 + m22 * m22
    shift = tl.maximum(tl.sqrt(square), 1e-18)
    ww, xx = shift + m00 + m11 + m22, shift + m00 - m11 - m22
    yy, zz = shift - m00 + m11 - m22, shift - m00 - m11 + m22
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m01 + m10, m02 + m20, m12 + m21
    for _ in range(SQUARINGS):
        unit = 1.0 / (ww + xx + yy + zz)  # division by the trace prevents overflow and underflow
        ww, xx, yy, zz = ww * unit, xx * unit, yy * unit, zz * unit
        wx, wy, wz, xy, xz, yz = wx * unit, wy * unit, wz * unit, xy * unit, xz * unit, yz * unit
        ww, wx, wy, wz, xx, xy, xz, yy, yz, zz = (
            ww * ww + wx * wx + wy * wy + wz * wz,
            ww * wx + wx * xx + wy * xy + wz * xz,
            ww * wy + wx * xy + wy * yy + wz * yz,
            ww * wz + wx * xz + wy * yz + wz * zz,
            wx * wx + xx * xx + xy * xy + xz * xz,
            wx * wy + xx * xy + xy * yy + xz * yz,
            wx * wz + xx * xz + xy * yz + xz * zz,
            wy * wy + xy * xy + yy * yy + yz * yz,
            wy * wz + xy * xz + yy * yz + yz * zz,
            wz * wz + xz * xz + yz * yz + zz * zz,
        )
    # Every column of q q^T is a multiple of q; the one with the largest diagonal entry has the smallest rounding error.
    in_first = tl.maximum(ww, xx) >= tl.maximum(yy, zz)
    w_first, y_first = ww >= xx, yy >= zz
    w = tl.where(in_first, tl.where(w_first, ww, wx), tl.where(y_first, wy, wz))
    x = tl.where(in_first, tl.where(w_first, wx, xx), tl.where(y_first, xy, xz))
    y = tl.where(in_first, tl.where(w_first, wy, xy), tl.where(y_first, yy, yz))
    z = tl.where(in_first, tl.where(w_first, wz, xz), tl.where(y_first, yz, zz))
    unit = 1.0 / tl.sqrt(w * w + x * x + y * y + z * z)
    unit = tl.where(w < 0, -unit, unit)
    return w * unit, x * unit, y * unit, z * unit


@triton.jit
def quaternion_matrix(w, x, y, z):
    """Rotation matrix of a unit quaternion, as nine entries row by row."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@triton.jit
def _nearest_kernel(matrices, rotations, count, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    m = matrices + i * 9
    w, x, y, z = nearest_quaternion(
        tl.load(m, mask, 1.0), tl.load(m + 1, mask, 0.0), tl.load(m + 2, mask, 0.0),
        tl.load(m + 3, mask, 0.0), tl.load(m + 4, mask, 1.0), tl.load(m + 5, mask, 0.0),
        tl.load(m + 6, mask, 0.0), tl.load(m + 7, mask, 0.0), tl.load(m + 8, mask, 1.0),
    )  # fmt: skip
    store_matrix(rotations + i * 9, quaternion_matrix(w, x, y, z), mask)


def nearest_rotation_fused(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation nearest to each matrix, in float32, without gradients."""
    matrices = matrices.contiguous()
    rotations = torch.empty_like(matrices)
    count = matrices.numel() // 9
    with torch.cuda.device_of(matrices):
        _nearest_kernel[(triton.cdiv(count, BLOCK),)](matrices, rotations, count, BLOCK)
    return rotations
