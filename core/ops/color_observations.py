"""Observations of an avatar's Gaussians in the input images: colour, visibility and related measures per view."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, grid_sample, max_pool2d

from core.avatar.avatar import Avatar, at_vertices, skin_gaussians
from core.ops.color_sampling_constants import (
    COSINE,
    DEPTH_SLACK,
    MIN_COSINE,
    NEAR,
    OCCLUDER_OPACITY,
    PIXEL_UNIT,
    VISIBLE,
    ZBUFFER_SIZE,
)
from core.types.frames import Frames
from core.types.gaussians import Gaussians
from smpl_renderer.dispatch import can_use_kernels
from smpl_renderer.types import PosedBody


@dataclass(frozen=True)
class ColorObservations:
    """Observations of N Gaussians in F frames of C views each. None of them has a gradient."""

    features: Float[Tensor, "B F C 8 N"]
    """RGB colour, mask value, cosine between surface normal and viewing direction, depth behind the nearest surface in
    units of the slack, logarithm of a pixel's size on the body in units of `PIXEL_UNIT`, and 1 for visible. All zero
    where the Gaussian is not visible. The rows are named in `core.ops.color_sampling_constants`."""
    consensus: Float[Tensor, "B N 3"]
    """Mean of the visible colours, weighted by cosine. Outliers differ from it."""
    outside: Float[Tensor, "B N"]
    """Sum over the views of how clearly the Gaussian lies outside of the silhouette: 1 on plain background, 0 inside
    the silhouette, outside of the image, or where the mask is empty."""

    @property
    def colors(self) -> Float[Tensor, "B F C N 3"]:
        return self.features[..., :3, :].movedim(-2, -1)

    @property
    def visible(self) -> Bool[Tensor, "B F C N"]:
        return self.features[..., VISIBLE, :] > 0


def observe_reference(
    gaussians: Gaussians,
    vertex_ids: Int[Tensor, "B N"],
    rotations: Float[Tensor, "B F V 3 3"],
    normals: Float[Tensor, "V 3"],
    inputs: Frames,
) -> ColorObservations:
    """Define `observe` in plain PyTorch, for posed Gaussians (batch axes `B F`).

    Args:
        rotations: From the rest pose to the posed surface, at each vertex.
    """
    cameras = inputs.cameras
    positions, depths = cameras.project(gaussians.means[:, :, None])
    positions = torch.stack([positions[..., 0] / cameras.width, positions[..., 1] / cameras.height], -1)
    in_image = (depths > NEAR) & (positions >= 0).all(-1) & (positions < 1).all(-1)
    positions = torch.where(in_image[..., None], positions, 0.0)
    samples = _sample(torch.cat([inputs.images, inputs.alphas], 3), positions)  # [B, F, C, 4, N]
    coverage = samples[..., 3, :]

    posed_normals = (rotations @ normals[..., None])[..., 0]
    posed_normals = at_vertices(posed_normals, vertex_ids[:, None])[:, :, None]  # [B, F, 1, N, 3]
    towards_camera = cameras.centers[..., None, :] - gaussians.means[:, :, None]
    cosines = cosine_similarity(posed_normals, towards_camera, dim=-1)

    pixel_size = depths / cameras.Ks[..., 0, 0, None]
    opacities = gaussians.opacities[:, :, None]
    nearest = _surface_depths(positions, depths, in_image & (opacities > OCCLUDER_OPACITY))
    # On a slanted surface, neighbours in the same cell of the depth buffer are nearer by the slope.
    slope = torch.sqrt(1 - cosines.square().clamp(max=1)) / cosines.clamp_min(MIN_COSINE)
    cell_size = pixel_size * (cameras.width / ZBUFFER_SIZE)
    least, most = DEPTH_SLACK
    slack = (least + 2 * cell_size * slope).clamp(max=most)
    depth_behind = (depths - nearest).clamp_min(0) / slack  # a Gaussian that occludes nothing may lie in front

    has_mask = inputs.alphas.flatten(3).amax(-1) > 0.5
    outside = (1 - 2 * coverage).clamp(0, 1) * (in_image & has_mask[..., None])
    visible = in_image & (cosines > MIN_COSINE) & (depth_behind < 1) & (coverage > 0.5) & (opacities > 0)

    log_size = torch.log(pixel_size.where(visible, PIXEL_UNIT) / PIXEL_UNIT)
    measures = torch.stack([coverage, cosines, depth_behind, log_size, torch.ones_like(coverage)], -2)
    features = torch.cat([samples[..., :3, :], measures], -2).where(visible[..., None, :], 0.0)
    return ColorObservations(features, _consensus(features), outside.sum((1, 2)))


def _consensus(features: Float[Tensor, "B F C 8 N"]) -> Float[Tensor, "B N 3"]:
    cosines = features[..., COSINE, :]
    colors = (cosines[..., None, :] * features[..., :3, :]).sum((1, 2))
    return (colors / cosines.sum((1, 2))[:, None].clamp_min(1e-6)).movedim(1, -1)


def _sample(images: Float[Tensor, "B F C D H W"], positions: Float[Tensor, "B F C N 2"]) -> Float[Tensor, "B F C D N"]:
    """Sample images bilinearly at positions in units of the image's size."""
    grid = 2 * positions.flatten(0, 2)[:, None] - 1
    samples = grid_sample(images.flatten(0, 2), grid, padding_mode="border", align_corners=False)
    return samples[:, :, 0].unflatten(0, positions.shape[:3])


def _surface_depths(
    positions: Float[Tensor, "B F C N 2"], depths: Float[Tensor, "B F C N"], occludes: Bool[Tensor, "B F C N"]
) -> Float[Tensor, "B F C N"]:
    """Depth of the nearest surface around each position, from a depth buffer.

    It is the minimum over 3 x 3 cells, which closes gaps between Gaussians.
    """
    columns, rows = (positions * ZBUFFER_SIZE).long().clamp(0, ZBUFFER_SIZE - 1).unbind(-1)
    cells = rows * ZBUFFER_SIZE + columns
    far = torch.finfo(depths.dtype).max
    buffer = depths.new_full((*depths.shape[:-1], ZBUFFER_SIZE**2), far)
    buffer.scatter_reduce_(-1, cells, torch.where(occludes, depths, far), "amin")
    closed = -max_pool2d(-buffer.view(-1, 1, ZBUFFER_SIZE, ZBUFFER_SIZE), 3, stride=1, padding=1)
    return closed.view(buffer.shape).gather(-1, cells)


@torch.no_grad()
def observe(avatar: Avatar, normals: Float[Tensor, "V 3"], inputs: Frames, posed: PosedBody) -> ColorObservations:
    """Project avatars into their input images and sample these; float32 on CUDA runs in Triton.

    Args:
        avatar: B avatars.
        normals: Outward normals of the body's vertices in the rest pose.
        inputs: F frames of each subject, in C views.
        posed: Posed bodies of these frames.
    """
    with torch.autocast(inputs.images.device.type, enabled=False):
        gaussians = skin_gaussians(avatar, posed)
        sources = gaussians, avatar.vertex_ids, posed.rotations, normals, inputs
        if can_use_kernels(inputs.images, gaussians.means):
            from core.ops.color_observations_kernel import launch_observe

            return ColorObservations(*launch_observe(*sources))
        return observe_reference(*sources)
