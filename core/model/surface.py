"""Surface of the body in the rest pose: axes at its vertices, and the initial placement of the avatar's Gaussians."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import matrix_to_quat

SPACING_SIGMA = 0.5
"""Standard deviation of a Gaussian along the surface, in units of the distance to the next Gaussian."""
FLATNESS = 0.5
"""Standard deviation along the normal, relative to that along the surface."""
SIGMA_RANGE = (0.002, 0.02)
"""Least and greatest standard deviation along the surface, in metres."""
SINK = 0.008
"""Depth of the centres below the surface, in metres: the rendered silhouette then ends near that of the body."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True)
class Placement:
    """Initial placement of N Gaussians on the surface of the rest pose."""

    offsets: Float[Tensor, "N 3"]
    """Vectors from the vertices to the centres, in metres, along the canonical axes."""
    scales: Float[Tensor, "N 3"]
    """Standard deviations along `axes`, in metres."""
    axes: Float[Tensor, "N 3 3"]
    """Columns are two tangents and the outward normal of the surface, in canonical axes."""
    quats: Float[Tensor, "N 4"]
    """`axes` as unit quaternions."""


def surface_axes(body: BodyModel) -> tuple[Float[Tensor, "V 3 3"], Float[Tensor, "V"]]:
    """Axes at each vertex of the mean shape, and the vertex's share of the surface in square metres.

    The columns of the axes are two tangents and the outward normal. The second tangent points upwards, or forwards
    where the surface is horizontal.
    """
    corners = body.v_template[body.faces]  # [faces, 3, 3]
    doubled = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = torch.zeros_like(body.v_template)
    areas = torch.zeros_like(body.v_template[:, 0])
    for corner in body.faces.unbind(1):
        sums.index_add_(0, corner, doubled)
        areas.index_add_(0, corner, doubled.norm(dim=-1) / 6)
    normals = normalize(sums, dim=-1)
    up, forward = normals.new_tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    guide = torch.where(normals[:, 1:2].abs() < 0.9, up, forward)
    tangents = normalize(torch.linalg.cross(guide, normals), dim=-1)
    return torch.stack([tangents, torch.linalg.cross(normals, tangents), normals], -1), areas


def place_queries(body: BodyModel, num_queries: int) -> Placement:
    """Distribute Gaussians evenly over the surface, `num_queries` for each vertex, as large as the gaps between them.

    Those of a vertex lie on a disc in its tangent plane that has the vertex's share of the surface as its area, in a
    sunflower pattern (Vogel, 1979).
    """
    axes, areas = surface_axes(body)
    rank = torch.arange(num_queries, device=areas.device)
    radii = torch.sqrt((rank + 0.5) / num_queries)
    disc = torch.stack([radii * torch.cos(GOLDEN_ANGLE * rank), radii * torch.sin(GOLDEN_ANGLE * rank)], -1)
    disc = (disc - disc.mean(0)) * torch.sqrt(areas / math.pi)[:, None, None]  # [V, Q, 2]
    offsets = torch.einsum("vij,vqj->vqi", axes[..., :2], disc) - SINK * axes[:, None, :, 2]

    sigmas = (SPACING_SIGMA * torch.sqrt(areas / num_queries)).clamp(*SIGMA_RANGE)
    scales = sigmas[:, None, None] * sigmas.new_tensor([1.0, 1.0, FLATNESS])
    return Placement(
        offsets=offsets.flatten(0, 1),
        scales=scales.expand(-1, num_queries, 3).flatten(0, 1),
        axes=axes.repeat_interleave(num_queries, 0),
        quats=matrix_to_quat(axes).repeat_interleave(num_queries, 0),
    )
