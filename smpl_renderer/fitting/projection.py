"""Projection of bodies of F frames into C cameras."""

import torch
from jaxtyping import Float
from torch import Tensor

MIN_DEPTH = 0.1
"""Depth in metres at which nearer points are projected."""


def project(
    points: Float[Tensor, "F N 3"], Ks: Float[Tensor, "C 3 3"], viewmats: Float[Tensor, "C 4 4"]
) -> tuple[Float[Tensor, "F C N 2"], Float[Tensor, "F C N"]]:
    """Pixels and depths of world points in every camera."""
    in_camera = to_cameras(points, viewmats)
    depths = in_camera[..., 2]
    rays = in_camera[..., :2] / depths.clamp_min(MIN_DEPTH)[..., None]
    pixels = (Ks[:, None, :2, :2] @ rays[..., None])[..., 0] + Ks[:, None, :2, 2]
    return pixels, depths


def to_cameras(points: Float[Tensor, "F N 3"], viewmats: Float[Tensor, "C 4 4"]) -> Float[Tensor, "F C N 3"]:
    """World points in the axes of every camera."""
    return points[:, None] @ viewmats[:, :3, :3].mT + viewmats[:, None, :3, 3]


def turn_to_cameras(directions: Float[Tensor, "F N 3"], viewmats: Float[Tensor, "C 4 4"]) -> Float[Tensor, "F C N 3"]:
    """World directions in the axes of every camera."""
    return directions[:, None] @ viewmats[:, :3, :3].mT


def pixel_sizes(
    positions: Float[Tensor, "F 3"], Ks: Float[Tensor, "C 3 3"], viewmats: Float[Tensor, "C 4 4"]
) -> Float[Tensor, "F C"]:
    """Metres that a pixel spans at the depth of a point per frame."""
    depths = to_cameras(positions[:, None], viewmats)[..., 0, 2].clamp_min(MIN_DEPTH)
    focal = torch.sqrt((Ks[:, 0, 0] * Ks[:, 1, 1]).clamp_min(1e-12))
    return depths / focal
