"""Frame Gaussians: one Gaussian for each pixel of the splat maps, decoded near the body and assigned to a vertex.

A Gaussian starts at the depth of the posed body's surface, with the colour of the input image. The raw channels of its
pixel move it along the pixel's ray, and a little aside.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from core.avatar.avatar import at_vertices
from core.model.decode import RawGaussians, shift_logits
from core.ops.nearest_vertices import NearestSearch, nearest_vertices
from core.runtime.cuda_graphs import AsyncCount
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import matrix_to_quat, quat_multiply
from smpl_renderer.types import PosedBody

DEPTH_RANGE = 0.4
"""Distance in front of and behind the posed body's surface within which a pixel's Gaussian lies, in metres."""
PIXEL_RANGE = 1.0
"""Maximum distance of a Gaussian from its pixel's ray, in pixels of the splat map."""
PIXEL_SIGMA = 0.6
"""Initial standard deviation of a pixel's Gaussian, in pixels of the splat map."""
FILL_WINDOWS = (3, 9, 27)
"""Widths, in pixels, of the windows from which pixels beside the body take their depth; the first that has any."""


@dataclass(frozen=True)
class FrameGaussians:
    """Gaussians of each frame: C splat maps of S x S pixels give N = C * S * S of them."""

    gaussians: Gaussians
    """Batch axes `B F`, in the subject frame of each frame."""
    features: Float[Tensor, "B F N K"]
    """U-Net features of the pixels."""
    towards_camera: Float[Tensor, "B F N 3"]
    """Unit vectors from the Gaussian to the camera that it was decoded from."""
    vertex_ids: Int[Tensor, "B F N"]
    """Nearest vertex of the posed body; 0 outside of the mask."""
    distances: Float[Tensor, "B F N"]
    """Distance to that vertex in metres, differentiable in the means; 0 outside of the mask."""
    mask: Bool[Tensor, "B F N"]
    """True for Gaussians of foreground pixels. The others have opacity 0."""
    num_foreground: AsyncCount
    """Number of Gaussians in the mask, of all subjects and frames together."""


def decode_frames(
    raw: Float[Tensor, "B F C 14 S S"],
    features: Float[Tensor, "B F C K S S"],
    colors: Float[Tensor, "B F C 3 S S"],
    foreground: Bool[Tensor, "B F C S S"],
    num_foreground: AsyncCount,
    cameras: Cameras,
    posed: PosedBody,
    faces: Int[Tensor, "faces 3"],
    search: NearestSearch,
) -> FrameGaussians:
    """Decode splat maps, and assign each Gaussian to its nearest vertex.

    Args:
        raw: Raw channels of each pixel.
        features: U-Net features of each pixel.
        colors: Input images at the size of the splat maps.
        foreground: Foreground pixels of the splat maps.
        num_foreground: Their number.
        cameras: Cameras `B F C` for images of the size of the splat maps.
        posed: Posed bodies `B F`.
        faces: The body's faces.
        search: Search for nearest vertices.
    """
    depths = surface_depths(posed.vertices, faces, cameras)
    gaussians = decode_pixels(raw, cameras, depths, colors, foreground)
    gaussians = gaussians.map(lambda x: x.flatten(2, 3))  # all views of a frame
    mask = foreground.flatten(2)
    pixels = cameras.width * cameras.height
    towards_camera = cameras.centers.repeat_interleave(pixels, 2) - gaussians.means
    vertex_ids = nearest_vertices(gaussians.means, posed.vertices, mask, search)
    gaps = gaussians.means - at_vertices(posed.vertices, vertex_ids)
    return FrameGaussians(
        gaussians=gaussians,
        features=features.movedim(3, -1).flatten(2, 4),
        towards_camera=normalize(towards_camera, dim=-1),
        vertex_ids=vertex_ids,
        distances=torch.linalg.vector_norm(gaps, dim=-1) * mask,
        mask=mask,
        num_foreground=num_foreground,
    )


def decode_pixels(
    raw: Float[Tensor, "*batch 14 S S"],
    cameras: Cameras,
    start_depths: Float[Tensor, "*batch S S"],
    colors: Float[Tensor, "*batch 3 S S"],
    foreground: Bool[Tensor, "*batch S S"],
) -> Gaussians:
    """Gaussians of splat maps, near the rays of their pixels.

    Args:
        raw: Raw channels of each pixel.
        cameras: Cameras for images of the size of the splat maps.
        start_depths: Depth (camera z) of raw zeros, in metres, as of `surface_depths`.
        colors: Colour of raw zeros.
        foreground: Gaussians of other pixels have opacity 0.
    Returns:
        S*S Gaussians of each map, row by row, in the world of the cameras.
    """
    channels = RawGaussians.split(raw.movedim(-3, -1))
    origins, directions = cameras.rays()
    depths = start_depths + DEPTH_RANGE * torch.tanh(channels.position[..., 0])
    focal = cameras.Ks[..., 0, 0, None, None]
    pixel_size = (depths.clamp_min(0.1) / focal)[..., None]  # metres
    aside = PIXEL_RANGE * pixel_size * torch.tanh(channels.position[..., 1:])
    rotations = cameras.viewmats[..., :3, :3]
    means = (
        origins + depths[..., None] * directions + torch.einsum("...hwi,...ij->...hwj", aside, rotations[..., :2, :])
    )

    camera_to_world = matrix_to_quat(rotations.transpose(-1, -2))[..., None, None, :]
    gaussians = Gaussians(
        means=means,
        quats=quat_multiply(camera_to_world, channels.rotations),
        scales=PIXEL_SIGMA * pixel_size * channels.scale_factors,
        opacities=channels.opacities * foreground,
        colors=shift_logits(colors.movedim(-3, -1), channels.colors),
    )
    axis = raw.ndim - 3
    return gaussians.map(lambda x: x.flatten(axis, axis + 1))


@torch.no_grad()
def surface_depths(
    vertices: Float[Tensor, "*batch V 3"], faces: Int[Tensor, "faces 3"], cameras: Cameras
) -> Float[Tensor, "*batch C H W"]:
    """Depth (camera z) of the body's surface at each pixel, in metres; without gradients.

    The centre of every face that is turned to the camera is projected as a point, and a pixel takes the depth of its
    nearest point. No mesh is rasterized, and no back face shows through between points of the front. Pixels without a
    point (gaps, clothes, hair) take the mean depth of pixels around them, and far from the body that of the world's
    origin.

    Args:
        vertices: Vertices of posed bodies, in the world of the cameras.
        faces: Vertices of each face, in the order for which normals point outwards.
        cameras: Cameras of batch axes `*batch C` and image size W x H.
    """
    corners = vertices[..., faces, :]  # [*batch, faces, 3, 3]
    centers = corners.mean(-2)
    normals = torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
    towards_camera = cameras.centers[..., None, :] - centers[..., None, :, :]  # [*batch, C, faces, 3]
    is_front = (normals[..., None, :, :] * towards_camera).sum(-1) > 0
    pixels, depths = cameras.project(centers[..., None, :, :].expand_as(towards_camera))

    height, width = cameras.height, cameras.width
    x, y = pixels.floor().unbind(-1)
    is_inside = is_front & (depths > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    far = torch.finfo(depths.dtype).max
    index = torch.where(is_inside, y * width + x, 0).long()
    nearest = depths.new_full((*depths.shape[:-1], height * width), far)
    nearest.scatter_reduce_(-1, index, torch.where(is_inside, depths, far), "amin")

    known = (nearest < far).unflatten(-1, (height, width))
    result = torch.where(known, nearest.unflatten(-1, (height, width)), 0.0)
    for size in FILL_WINDOWS:
        share, total = (_window_means(values, size) for values in (known.to(result), result))
        result = torch.where(known, result, total / share.clamp_min(1e-6))
        known = known | (share > 0)
        result = torch.where(known, result, 0.0)
    return torch.where(known, result, cameras.viewmats[..., 2, 3, None, None])


def _window_means(maps: Float[Tensor, "*batch H W"], size: int) -> Float[Tensor, "*batch H W"]:
    flat = maps.flatten(0, -3)[:, None] if maps.ndim > 2 else maps[None, None]
    return avg_pool2d(flat, size, stride=1, padding=size // 2).view(maps.shape)
