"""How far the posed body is along the rays of a splat map: where pixels' Gaussians start."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from core.types.cameras import Cameras

REACH = (3, 9, 27)
"""Pixels across the windows out of which a pixel beside the body takes its depth, the nearest first."""


@torch.no_grad()
def surface_depths(
    vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "F 3"], cameras: Cameras
) -> Float[Tensor, "*batch C H W"]:
    """Depth (camera z) of the body's surface at each pixel; without gradients.

    Every face that looks at the camera stands for a point at its middle, and a pixel takes the nearest of its points:
    no mesh need be drawn, and no back shows through between the points of a front. Pixels without a point (gaps,
    clothes, hair) take the mean depth of those around them, and far from the body that of the world's origin.

    Args:
        vertices: Of posed bodies, in the world of the cameras.
        faces: Vertices of each, in the order that makes normals point outwards.
        cameras: Batch axes `*batch C`; H and W are theirs.
    """
    corners = vertices[..., faces, :]  # [*batch, F, 3, 3]
    middles = corners.mean(-2)
    normals = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
    towards_camera = cameras.centers[..., None, :] - middles[..., None, :, :]  # [*batch, C, F, 3]
    is_front = (normals[..., None, :, :] * towards_camera).sum(-1) > 0
    pixels, depths = cameras.project(middles[..., None, :, :].expand_as(towards_camera))

    height, width = cameras.height, cameras.width
    x, y = pixels.floor().unbind(-1)
    is_inside = is_front & (depths > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    far = torch.finfo(depths.dtype).max
    index = torch.where(is_inside, y * width + x, 0).long()
    nearest = depths.new_full((*depths.shape[:-1], height * width), far)
    nearest.scatter_reduce_(-1, index, torch.where(is_inside, depths, far), "amin")

    known = (nearest < far).unflatten(-1, (height, width))
    result = torch.where(known, nearest.unflatten(-1, (height, width)), 0.0)
    for size in REACH:
        share, total = (_window_means(values, size) for values in (known.to(result), result))
        result = torch.where(known, result, total / share.clamp_min(1e-6))
        known = known | (share > 0)
        result = torch.where(known, result, 0.0)
    return torch.where(known, result, cameras.viewmats[..., 2, 3, None, None])


def _window_means(maps: Float[Tensor, "*batch H W"], size: int) -> Float[Tensor, "*batch H W"]:
    flat = maps.flatten(0, -3)[:, None] if maps.ndim > 2 else maps[None, None]
    return avg_pool2d(flat, size, stride=1, padding=size // 2).view(maps.shape)
