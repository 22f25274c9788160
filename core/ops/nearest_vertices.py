"""The nearest vertex of each point, by trying all: what suits a GPU."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.ops.dispatch import kernels_take

CHUNK = 1 << 25  # distances held at once


def nearest_vertices_reference(
    points: Float[Tensor, "F P 3"], vertices: Float[Tensor, "F V 3"], mask: Bool[Tensor, "F P"] | None = None
) -> Int[Tensor, "F P"]:
    """Define `nearest_vertices_of_sets` in plain PyTorch, for any device and dtype."""
    found = []
    for own_points, own_vertices in zip(points, vertices):
        for chunk in own_points.split(max(1, CHUNK // len(own_vertices))):
            distances = (chunk[:, None] - own_vertices).square().sum(-1)
            least = distances.amin(1, keepdim=True)
            found.append((distances == least).to(torch.uint8).argmax(1))  # of equals, the lowest number
    ids = torch.cat(found).view(points.shape[:2]) if found else points.new_empty(points.shape[:2], dtype=torch.int64)
    return ids if mask is None else ids * mask


def nearest_vertices_of_sets(
    points: Float[Tensor, "F P 3"], vertices: Float[Tensor, "F V 3"], mask: Bool[Tensor, "F P"] | None = None
) -> Int[Tensor, "F P"]:
    """The index of the vertex nearest to each point of each set; of vertices equally near, the first.

    Args:
        points: In metres, in F sets.
        vertices: Of each set.
        mask: Points outside get 0, and cost nothing where they stand together.
    """
    if kernels_take(points, vertices) and points.dtype == torch.float32:
        from core.ops.nearest_vertices_kernel import nearest

        return nearest(points.contiguous(), vertices.contiguous(), mask if mask is None else mask.contiguous())
    return nearest_vertices_reference(points, vertices, mask)
