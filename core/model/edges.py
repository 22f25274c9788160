"""Edges between Gaussians and the vertices of the body."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.runtime.async_count import AsyncCount

MIN_CAPACITY = 1 << 12
"""Edges."""


@dataclass(frozen=True)
class GaussianVertexEdges:
    """The edges between Gaussians and vertices, sorted by vertex; the vertices of all persons are counted through."""

    gaussians: Int[Tensor, "E"]
    """Positions of the tied Gaussians among all Gaussians of the batch, flattened."""
    crow: Int[Tensor, "BV+1"]
    """The edges of vertex n are `gaussians[crow[n]:crow[n + 1]]`."""

    def take(self, values: Float[Tensor, "B F M *d"]) -> Float[Tensor, "E *d"]:
        """The values of the tied Gaussians, in the order of the edges."""
        return values.flatten(0, 2).index_select(0, self.gaussians)


def build_edges(
    vertex_ids: Int[Tensor, "B F M"], mask: Bool[Tensor, "B F M"], num_vertices: int, count: AsyncCount | None = None
) -> GaussianVertexEdges:
    """Tie the Gaussians of all moments to their vertices; those outside the mask are left out.

    Args:
        count: Of the mask, where it was asked for earlier, so that the host need not wait for the device.
    """
    count = count or AsyncCount(mask)
    persons = torch.arange(len(vertex_ids), device=vertex_ids.device)[:, None, None]
    total = len(vertex_ids) * num_vertices
    vertices = torch.where(mask, vertex_ids + num_vertices * persons, total).flatten()  # those outside come last
    vertices, order = vertices.to(torch.int32).sort(stable=True)
    bounds = torch.arange(total + 1, device=mask.device, dtype=torch.int32)
    return GaussianVertexEdges(order[: count.read()], torch.searchsorted(vertices, bounds))


def edge_capacity(num_edges: int) -> int:
    """Edges that there is room for: at most half as many again, beyond some thousands: few sizes occur then."""
    step = max(MIN_CAPACITY, 1 << max(0, num_edges.bit_length() - 2))
    return max(step, -(-num_edges // step) * step)
