"""Colours of a body's vertices: what an avatar's Gaussians show to a viewer who faces the surface there."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from core.avatar.avatar import Avatar, canonical_gaussians
from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel
from smpl_renderer.normals import vertex_normals
from smpl_renderer.rotations import quat_to_matrix

CANDIDATES = 256
"""Gaussians around a vertex among which those on its ray are found: within some 7 cm, on the head 5 cm."""
LIFT = 0.02
"""Metres above the surface around which candidates are chosen."""
DEPTHS = (-0.03, 0.12)
"""Heights above the surface between which Gaussians count, in metres."""
MIN_SCALE = 0.001
"""Metres; thinner Gaussians are treated as this thick, so that float32 suffices."""
MIN_ALPHA = 0.3
"""Opacity along its ray below which a vertex has the colour of the nearest other vertex."""
VERTICES_PER_CALL = 1024


@torch.no_grad()
def vertex_colors(avatar: Avatar, body: BodyModel) -> Float[np.ndarray, "V 3"]:
    """Display colours in [0, 1] of the vertices, from the rest pose.

    The Gaussians on the ray that meets a vertex against its normal are composited, each with its largest density on the
    ray. Only those count that belong to a surface which faces the same side: an arm does not colour the armpit.

    Args:
        avatar: An avatar without batch axes.
        body: Its body.
    """
    gaussians = canonical_gaussians(avatar, body).detach().to("cpu", torch.float32)
    vertices = body.shape_vertices(avatar.betas.to(body.v_template)).detach().cpu().float()
    normals = vertex_normals(vertices, body.faces.cpu())
    facing = normals[avatar.vertex_ids.cpu()]
    count = min(CANDIDATES, gaussians.count)
    _, near = cKDTree(gaussians.means.numpy()).query((vertices + LIFT * normals).numpy(), k=[*range(1, count + 1)])
    near = torch.from_numpy(near)
    colors, alphas = [], []
    for portion in torch.arange(len(vertices)).split(VERTICES_PER_CALL):
        color, alpha = _composited(gaussians, facing, near[portion], vertices[portion], normals[portion])
        colors.append(color)
        alphas.append(alpha)
    colors, alphas = torch.cat(colors).numpy(), torch.cat(alphas).numpy()
    known = np.flatnonzero(alphas >= min(MIN_ALPHA, alphas.max()))
    _, nearest = cKDTree(vertices[known].numpy()).query(vertices.numpy())
    return colors[known][nearest].clip(0, 1)


def _composited(
    gaussians: Gaussians,
    facing: Float[Tensor, "N 3"],
    near: Int[Tensor, "v K"],
    vertices: Float[Tensor, "v 3"],
    normals: Float[Tensor, "v 3"],
) -> tuple[Float[Tensor, "v 3"], Float[Tensor, " v"]]:
    """Colours and opacities along the rays of some vertices, whose candidates are `near`."""
    # In the local axes of a Gaussian, in units of its sizes, densities depend on the distance from the origin only.
    to_local = quat_to_matrix(torch.nn.functional.normalize(gaussians.quats[near], dim=-1)).mT
    sizes = gaussians.scales[near].clamp_min(MIN_SCALE)
    starts = torch.einsum("vkab,vkb->vka", to_local, vertices[:, None] - gaussians.means[near]) / sizes
    rays = torch.einsum("vkab,vb->vka", to_local, normals) / sizes
    heights = -(starts * rays).sum(-1) / rays.square().sum(-1).clamp_min(1e-12)
    distances = (starts + heights[..., None] * rays).square().sum(-1)
    counts = (heights > DEPTHS[0]) & (heights < DEPTHS[1])
    counts &= torch.einsum("vkb,vb->vk", facing[near], normals) > 0
    alphas = (gaussians.opacities[near] * torch.exp(-distances / 2) * counts).clamp(0, 0.999)
    order = heights.argsort(dim=1, descending=True)
    alphas = alphas.gather(1, order)
    transmittances = (1 - alphas).cumprod(1)
    weights = alphas * torch.cat([torch.ones_like(alphas[:, :1]), transmittances[:, :-1]], 1)
    colors = gaussians.colors[near.gather(1, order)]
    total = weights.sum(1)
    return (weights[..., None] * colors).sum(1) / total[:, None].clamp_min(1e-6), total
