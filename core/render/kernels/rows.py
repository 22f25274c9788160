"""The table of splats: one row per view and Gaussian, with all that compositing needs in adjacent words.

A row holds the splat's centre in pixels, its whitener (p, q, r) in units in which a pixel d away from the centre has

    alpha = exp2(log2_opacity - |W d|^2),    W = [[p, q], [0, r]],

that is `Splats.whiteners` times sqrt(log2(e) / 2), then its depth and colour. What is not drawn has log2_opacity =
-inf, hence alpha 0. Words 7 and 11 are void: in fours, a row is read and added to at once.
"""

import math

import torch
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from core.gaussians import Gaussians
from core.render import projection

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
WHITENER_UNIT = math.sqrt(math.log2(math.e) / 2)


def key_shift(num_views: int) -> int:
    """How many bits a key has for the depth, below those for the view."""
    return 63 - (num_views - 1).bit_length()


def depth_keys_reference(
    rows: Float[Tensor, "*batch C N 12"], means: Float[Tensor, "*batch N 3"], viewmats: Float[Tensor, "*batch C 4 4"]
) -> Int[Tensor, "*batch C N"]:
    """Define the keys that sort splats by view and then by depth; what is not drawn comes last.

    Depth in double precision: single precision swaps splats within 0.1 micrometres of each other, which happens.
    """
    turns, shifts = viewmats[..., None, 2, :3].double(), viewmats[..., None, 2, 3].double()
    depths = (turns * means[..., None, :, :].double()).sum(-1) + shifts
    # The bits of positive numbers are in the order of the numbers.
    bits = torch.where(rows[..., LOG2_OPACITY.value].isfinite(), depths.view(torch.int64), 2**63 - 1)
    num_views = rows.shape[:-2].numel()
    views = torch.arange(num_views, device=rows.device).view(*rows.shape[:-2], 1)
    shift = key_shift(num_views)
    return (views << shift) | (bits >> (63 - shift))


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
        per_camera.colors.expand(*shape, 3),
    ]
    return torch.nn.functional.pad(torch.cat(columns, -1), (0, ROW_WORDS - 11))
