"""The splat table: one entry per view and Gaussian, with everything that compositing reads in adjacent memory.

An entry holds the splat's centre in pixels and its whitener (p, q, r), scaled such that a pixel at offset d from the
centre has

    alpha = exp2(log2_opacity - |W d|^2),    W = [[p, q], [0, r]],

which is `Splats.whiteners` times sqrt(log2(e) / 2), then its depth and colour. Splats that are not drawn have
log2_opacity = -inf, hence alpha 0. Columns 7 and 11 are padding: kernels read and add to an entry in groups of four.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from core.render import projection
from core.types.gaussians import Gaussians

STRIDE = tl.constexpr(12)  # float32 values per splat: 48 bytes, so that every entry starts at a multiple of 16
MEAN_X = tl.constexpr(0)
MEAN_Y = tl.constexpr(1)
P = tl.constexpr(2)
Q = tl.constexpr(3)
R = tl.constexpr(4)
LOG2_OPACITY = tl.constexpr(5)
DEPTH = tl.constexpr(6)
RED = tl.constexpr(8)
GREEN = tl.constexpr(9)
BLUE = tl.constexpr(10)

LN_2 = tl.constexpr(0.6931471805599453)
NOT_DRAWN = tl.constexpr(2**63 - 1)
# Doublings of depth that have buckets of their own, from 2^-4 m on. Nearer and farther splats join the outermost ones.
OCTAVES = tl.constexpr(10)
FIRST_OCTAVE = tl.constexpr(127 - 4)  # as the biased exponent of a float32

WHITENER_UNIT = math.sqrt(math.log2(math.e) / 2)


@dataclass(frozen=True)
class DepthOrder:
    """Sort keys of the splats in each of V views, and optionally a hash table by depth that replaces sorting.

    `keys` alone determines the order. With the other fields, splats of similar depth form a bucket. With `heads`, each
    bucket is a linked list: the rank of a splat is the number of splats in earlier buckets plus the number of smaller
    keys in its own, which are few. Where buckets are large (a scene in millimetres, for example, lies beyond the last
    octave), sorting is faster; `CapacityEstimator` (capacity.py) switches to it after the first rendering. Without
    `heads`, depth_ranks_kernel.py divides the buckets further.
    """

    keys: Int[Tensor, "*views N"]
    """See `depth_keys_reference`."""
    sizes: Int[Tensor, "V buckets"] | None = None
    """Number of splats in each bucket."""
    heads: Int[Tensor, "V buckets"] | None = None
    """First splat of each bucket's list, counted from 1; 0 for an empty bucket."""
    nexts: Int[Tensor, "*views N"] | None = None
    """With `heads`: next splat in the list, counted from 1. For splats that are not drawn, which have no list: their
    rank among these."""


def depth_keys_reference(
    table: Float[Tensor, "*batch C N 12"], means: Float[Tensor, "*batch N 3"], viewmats: Float[Tensor, "*batch C 4 4"]
) -> Int[Tensor, "*batch C N"]:
    """Define the keys that sort the splats of a view by depth; splats that are not drawn come last.

    Depth in double precision: single precision swaps splats within 0.1 micrometres of each other, which occur.
    """
    axes, offsets = viewmats[..., None, 2, :3].double(), viewmats[..., None, 2, 3].double()
    depths = (axes * means[..., None, :, :].double()).sum(-1) + offsets
    # The bit patterns of positive floats are ordered as the floats are.
    return torch.where(table[..., LOG2_OPACITY.value].isfinite(), depths.view(torch.int64), NOT_DRAWN.value)


def octave_bits(count: int) -> int:
    """Base-2 logarithm of the number of buckets per octave of depth: about `count` buckets for `count` splats.

    With 2^13 of them, a bucket is a quarter of a millimetre deep at 2 m.
    """
    return min(13, max(4, count.bit_length() - 1))


@triton.jit
def bucket_of(keys, OCTAVE_BITS: tl.constexpr):
    """Index of a key's bucket among the OCTAVES * 2^OCTAVE_BITS of its view; the last holds splats not drawn."""
    depth = keys.to(tl.float64, bitcast=True).to(tl.float32)
    bucket = (depth.to(tl.int32, bitcast=True) >> (23 - OCTAVE_BITS)) - (FIRST_OCTAVE << OCTAVE_BITS)
    last: tl.constexpr = (OCTAVES << OCTAVE_BITS) - 1
    return tl.where(keys == NOT_DRAWN, last, tl.minimum(tl.maximum(bucket, 0), last - 1))


@triton.jit
def position_in_bucket(keys, OCTAVE_BITS: tl.constexpr):
    """Position of a drawn key within its bucket, among 2^(23 - OCTAVE_BITS): the bits that `bucket_of` discards.

    Keys that join the outermost buckets from outside are at their ends, so that positions ascend with keys.
    """
    bits = keys.to(tl.float64, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    bucket = (bits >> (23 - OCTAVE_BITS)) - (FIRST_OCTAVE << OCTAVE_BITS)
    last: tl.constexpr = (1 << (23 - OCTAVE_BITS)) - 1
    position = tl.where(bucket < 0, 0, bits & last)
    return tl.where(bucket > (OCTAVES << OCTAVE_BITS) - 2, last, position)


def splat_table_reference(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
) -> Float[Tensor, "*batch C N 12"]:
    """Define the table in plain PyTorch. Gradients also reach `viewmats` and `Ks`."""
    axis = len(gaussians.batch_shape)
    per_camera = gaussians.map(lambda x: x.unsqueeze(axis))
    splats = projection.project(per_camera, viewmats, Ks, width, height)
    shape = splats.depths.shape
    drawn = (splats.extents > 0).all(-1)
    # The clamp keeps the gradient of the logarithm finite where the result is not used.
    log2_opacities = per_camera.opacities.clamp_min(projection.ALPHA_MIN).log2().expand(shape)
    columns = [
        splats.means2d,
        splats.whiteners * WHITENER_UNIT,
        torch.where(drawn, log2_opacities, -math.inf)[..., None],
        splats.depths[..., None],
        splats.depths.new_zeros(*shape, 1),
        torch.where(drawn[..., None], per_camera.colors, 0.0),
    ]
    return torch.nn.functional.pad(torch.cat(columns, -1), (0, STRIDE.value - 11))
