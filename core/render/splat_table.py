"""The table of splats: one row per view and Gaussian, with all that compositing needs in adjacent words.

A row holds the splat's centre in pixels, its whitener (p, q, r) in units in which a pixel d away from the centre has

    alpha = exp2(log2_opacity - |W d|^2),    W = [[p, q], [0, r]],

that is `Splats.whiteners` times sqrt(log2(e) / 2), then its depth and colour. What is not drawn has log2_opacity =
-inf, hence alpha 0. Words 7 and 11 are void: in fours, a row is read and added to at once.
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

ROW = tl.constexpr(12)  # 48 bytes, so that every row starts at a multiple of 16
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

ROW_WORDS = 12

LN_2 = tl.constexpr(0.6931471805599453)
NOT_DRAWN = tl.constexpr(2**63 - 1)
OCTAVES = tl.constexpr(
    10
)  # doublings of depth, from 2^-4 m on; what is nearer or farther goes along with the outermost
FIRST_OCTAVE = tl.constexpr(127 - 4)  # as the exponent of a float

WHITENER_UNIT = math.sqrt(math.log2(math.e) / 2)


@dataclass(frozen=True)
class DepthOrder:
    """What the order of the splats in each of V views follows from.

    `keys` says it all, and can be sorted. The rest spares that: splats of similar depth are in one bucket, each bucket
    a chain of them, so that a splat comes after those of earlier buckets and, in its own, after those of smaller keys,
    of which there are few. (Where there are many, as in a scene in millimetres, all of it beyond the last octave,
    sorting is quicker, and what is done after the first drawing; see `CapacityEstimator` in `bin.py`.)
    """

    keys: Int[Tensor, "*views N"]
    """See `depth_keys_reference`."""
    sizes: Int[Tensor, "V buckets"] | None = None
    """Splats in each bucket."""
    heads: Int[Tensor, "V buckets"] | None = None
    """The first splat of each bucket's chain, counted from 1; 0 if there is none."""
    nexts: Int[Tensor, "*views N"] | None = None
    """The next splat in the chain, likewise; for those not drawn, which have no chain, their place among these."""


def depth_keys_reference(
    rows: Float[Tensor, "*batch C N 12"], means: Float[Tensor, "*batch N 3"], viewmats: Float[Tensor, "*batch C 4 4"]
) -> Int[Tensor, "*batch C N"]:
    """Define the keys that sort the splats of a view by depth; what is not drawn comes last.

    Depth in double precision: single precision swaps splats within 0.1 micrometres of each other, which happens.
    """
    turns, shifts = viewmats[..., None, 2, :3].double(), viewmats[..., None, 2, 3].double()
    depths = (turns * means[..., None, :, :].double()).sum(-1) + shifts
    # The bits of positive numbers are in the order of the numbers.
    return torch.where(rows[..., LOG2_OPACITY.value].isfinite(), depths.view(torch.int64), NOT_DRAWN.value)


def octave_bits(count: int) -> int:
    """The logarithm of how many buckets divide an octave of depth: for `count` splats about as many.

    With 2^13 of them, a bucket is a quarter of a millimetre deep at 2 m.
    """
    return min(13, max(4, count.bit_length() - 1))


@triton.jit
def bucket_of(keys, OCTAVE_BITS: tl.constexpr):
    """Which of a view's OCTAVES * 2^OCTAVE_BITS buckets a key belongs to; the last is for those not drawn."""
    depth = keys.to(tl.float64, bitcast=True).to(tl.float32)
    bucket = (depth.to(tl.int32, bitcast=True) >> (23 - OCTAVE_BITS)) - (FIRST_OCTAVE << OCTAVE_BITS)
    last: tl.constexpr = (OCTAVES << OCTAVE_BITS) - 1
    return tl.where(keys == NOT_DRAWN, last, tl.minimum(tl.maximum(bucket, 0), last - 1))


def project_rows_reference(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
) -> Float[Tensor, "*batch C N 12"]:
    """Define the table in plain PyTorch. Gradients reach `viewmats` and `Ks` too."""
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
    return torch.nn.functional.pad(torch.cat(columns, -1), (0, ROW_WORDS - 11))
