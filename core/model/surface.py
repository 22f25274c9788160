"""The skin of the rest pose: its normals, its own axes, and where queries start on it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from core.model.decode import Placement
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import matrix_to_quat

SPACING_SIGMA = 0.5
"""Standard deviation of a Gaussian along the skin, in distances to the next one."""
FLATNESS = 0.5
"""Its thickness, as a share of that."""
SIGMA_RANGE = (0.002, 0.02)
"""Metres."""
SINK = 0.008
"""Metres under the skin at which they start, so that their sum ends about where the body does."""
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def surface_axes(body: BodyModel) -> tuple[Float[Tensor, "V 3 3"], Float[Tensor, "V"]]:
    """Axes at each vertex of the mean shape, and the area that belongs to it in square metres.

    The columns of the axes are two tangents and the outward normal. The second tangent points up where it can.
    """
    corners = body.v_template[body.faces]  # [F, 3, 3]
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
    """Spread Gaussians evenly over the skin, `num_queries` around each vertex, as large as the gaps between them.

    They lie on a disc in the tangent plane with the area of the vertex's surroundings, in a sunflower's pattern (Vogel,
    1979).
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
