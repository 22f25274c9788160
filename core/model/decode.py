"""How the 14 raw numbers of a Gaussian are read: the only place where they have an order.

Raw numbers near zero mean a sensible start everywhere, because that is what an untrained network gives.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from core.avatar.avatar import Avatar
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import matrix_to_quat, quat_multiply

RAW_CHANNELS = 14

DEPTH_RANGE = 0.4
"""Metres before and behind the surface of the posed body within which a pixel's Gaussian lies."""
PIXEL_RANGE = 1.0
"""Pixels of the splat map by which a Gaussian may leave its pixel's ray."""
PIXEL_SIGMA = 0.6
"""Initial standard deviation of a pixel's Gaussian, in pixels of the splat map."""
OFFSET_RANGE = 0.25
"""Metres along each axis by which a query may move its Gaussian away from where it starts on the skin: skirts hang that
far from the thighs."""
OFFSET_UNIT = 0.1
"""Metres by which a raw number moves it for each 1, as long as that is little beside the range."""
REFINE_RANGE = 0.05
"""Metres along each axis by which the residual head moves a Gaussian."""
MAX_SCALE_FACTOR = 12.0
OPACITY_LOGIT = 2.0
"""Initial opacity 0.88: opaque enough for a first picture, and not yet saturated."""


@dataclass(frozen=True)
class RawGaussians:
    """Raw numbers by name; what `position` means depends on who reads it."""

    position: Float[Tensor, "*batch 3"]
    opacity: Float[Tensor, "*batch"]
    scales: Float[Tensor, "*batch 3"]
    quats: Float[Tensor, "*batch 4"]
    colors: Float[Tensor, "*batch 3"]

    @staticmethod
    def split(raw: Float[Tensor, "*batch 14"]) -> "RawGaussians":
        position, opacity, scales, quats, colors = raw.float().split([3, 1, 3, 4, 3], -1)
        return RawGaussians(position, opacity[..., 0], scales, quats, colors)

    @property
    def scale_factors(self) -> Float[Tensor, "*batch 3"]:
        """Within [1 / 12, 12], with a gradient everywhere."""
        bound = math.log(MAX_SCALE_FACTOR)
        return torch.exp(bound * torch.tanh(self.scales / bound))

    @property
    def rotations(self) -> Float[Tensor, "*batch 4"]:
        """Unit quaternions, the identity for zeros."""
        w, xyz = self.quats.split([1, 3], -1)
        return normalize(torch.cat([w + 1, xyz], -1), dim=-1)


def decode_pixels(
    raw: Float[Tensor, "*batch 14 S S"],
    cameras: Cameras,
    start_depths: Float[Tensor, "*batch S S"],
    colors: Float[Tensor, "*batch 3 S S"],
    foreground: Bool[Tensor, "*batch S S"],
) -> Gaussians:
    """Gaussians of splat maps: each lies near the ray of its pixel, at a depth relative to where it starts.

    Args:
        raw: One row of raw numbers for each pixel.
        cameras: Of pictures as large as the splat map.
        start_depths: In metres (camera z); see `core.model.depths`.
        colors: The input's colours, which the Gaussians start from.
        foreground: Gaussians elsewhere get opacity 0.
    Returns:
        S*S Gaussians for each map, row by row, in the world of the cameras.
    """
    numbers = RawGaussians.split(raw.movedim(-3, -1))
    origins, directions = cameras.rays()
    depths = start_depths + DEPTH_RANGE * torch.tanh(numbers.position[..., 0])
    focal = cameras.Ks[..., 0, 0, None, None]
    pixel_size = (depths.clamp_min(0.1) / focal)[..., None]  # metres
    aside = PIXEL_RANGE * pixel_size * torch.tanh(numbers.position[..., 1:])
    rotations = cameras.viewmats[..., :3, :3]
    means = (
        origins + depths[..., None] * directions + torch.einsum("...hwi,...ij->...hwj", aside, rotations[..., :2, :])
    )

    camera_to_world = matrix_to_quat(rotations.transpose(-1, -2))[..., None, None, :]
    gaussians = Gaussians(
        means=means,
        quats=quat_multiply(camera_to_world, numbers.rotations),
        scales=PIXEL_SIGMA * pixel_size * numbers.scale_factors,
        opacities=torch.sigmoid(numbers.opacity + OPACITY_LOGIT) * foreground,
        colors=shift_logits(colors.movedim(-3, -1), numbers.colors),
    )
    axis = raw.ndim - 3
    return gaussians.map(lambda x: x.flatten(axis, axis + 1))


@dataclass(frozen=True)
class Placement:
    """Where Gaussians start on the skin: their places and sizes, and the axes in which they are moved."""

    offsets: Float[Tensor, "N 3"]
    """From the vertex, in metres, along the canonical axes."""
    scales: Float[Tensor, "N 3"]
    axes: Float[Tensor, "N 3 3"]
    """Columns are the tangents and the outward normal of the skin, in canonical axes."""
    quats: Float[Tensor, "N 4"]
    """The same as unit quaternions."""


def decode_on_surface(raw: Float[Tensor, "*batch N 14"], start: Placement, **identity) -> Avatar:
    """Gaussians that queries place on the skin; positions and rotations are relative to the skin's own axes.

    Args:
        raw: One row of raw numbers for each Gaussian.
        start: What raw zeros mean.
        identity: The avatar's `vertex_ids`, `betas` and `body`.
    """
    numbers = RawGaussians.split(raw)
    moves = OFFSET_RANGE * torch.tanh(numbers.position * (OFFSET_UNIT / OFFSET_RANGE))
    return Avatar(
        offsets=start.offsets + torch.einsum("nij,...nj->...ni", start.axes, moves),
        quats=quat_multiply(start.quats, numbers.rotations),
        scales=start.scales * numbers.scale_factors,
        opacities=torch.sigmoid(numbers.opacity + OPACITY_LOGIT),
        colors=torch.sigmoid(numbers.colors),
        **identity,
    )


def refine(avatar: Avatar, raw: Float[Tensor, "*batch N 14"]) -> Avatar:
    """Change the Gaussians of an avatar; raw zeros leave it as it is, and what is transparent stays so."""
    numbers = RawGaussians.split(raw)
    return Avatar(
        offsets=avatar.offsets + REFINE_RANGE * torch.tanh(numbers.position),
        quats=quat_multiply(avatar.quats, numbers.rotations),
        scales=avatar.scales * numbers.scale_factors,
        opacities=shift_logits(avatar.opacities, numbers.opacity) * (avatar.opacities > 0),
        colors=shift_logits(avatar.colors, numbers.colors),
        vertex_ids=avatar.vertex_ids,
        betas=avatar.betas,
        body=avatar.body,
    )


def shift_logits(values: Float[Tensor, "*shape"], shifts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Raise or lower values between 0 and 1 without leaving that range; exact to 1e-3 for a shift of zero."""
    return torch.sigmoid(torch.logit(values, eps=1e-3) + shifts)
