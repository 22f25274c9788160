"""Which vertex of the body a Gaussian belongs to."""

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

CHUNK = 1 << 25
"""Distances held at once."""


@torch.no_grad()
def nearest_vertices(points: Float[Tensor, "P 3"], vertices: Float[Tensor, "V 3"]) -> Int[Tensor, "P"]:
    """The index of the vertex nearest to each point. A choice has no gradient; measure the distance to it for one."""
    points, vertices = points.detach().float(), vertices.detach().float()
    if points.device.type == "cpu":
        return torch.from_numpy(cKDTree(vertices.numpy()).query(points.numpy())[1]).to(torch.int64)
    with torch.autocast(points.device.type, enabled=False):
        chunks = points.split(max(1, CHUNK // len(vertices)))
        # Distances as differences: a product of matrices would lose millimetres to cancellation.
        nearest = [torch.cdist(c, vertices, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for c in chunks]
        return torch.cat(nearest)
