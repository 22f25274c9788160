"""Attention of every vertex over its neighbours on the mesh, given as a padded table."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels


class ReverseNeighbors(NamedTuple):
    """A table of neighbours, reversed: for each vertex, the vertices that have it as a neighbour."""

    vertices: Int[Tensor, "V*K"]
    crow: Int[Tensor, "V+1"]
    """The vertices that attend to vertex v are `vertices[crow[v]:crow[v + 1]]`."""


def reverse_neighbors(neighbors: Int[Tensor, "V K"], mask: Bool[Tensor, "V K"]) -> ReverseNeighbors:
    """Reverse a table of neighbours."""
    num_vertices, num_neighbors = neighbors.shape
    targets, entries = torch.where(mask, neighbors, num_vertices).flatten().sort(stable=True)
    bounds = torch.arange(num_vertices + 1, device=neighbors.device)
    return ReverseNeighbors((entries // num_neighbors).int(), torch.searchsorted(targets, bounds).int())


def neighbor_attention_reference(
    qkv: Float[Tensor, "B V Q 3 H D"], neighbors: Int[Tensor, "V K"], mask: Bool[Tensor, "V K"]
) -> Float[Tensor, "B V Q H D"]:
    """Define `neighbor_attention` in plain PyTorch, for any device and dtype."""
    queries, keys, values = qkv.unbind(3)
    batch, num_vertices, num_neighbors = queries.shape[0], *neighbors.shape
    table = (batch, num_vertices, num_neighbors, *queries.shape[2:])
    gathered_keys = keys.index_select(1, neighbors.flatten()).view(table)
    gathered_values = values.index_select(1, neighbors.flatten()).view(table)
    logits = (queries[:, :, None] * gathered_keys).sum(-1) * queries.shape[-1] ** -0.5  # [B, V, K, Q, H]
    weights = logits.masked_fill(~mask[:, :, None, None], -torch.inf).softmax(2)
    return (weights[..., None] * gathered_values).sum(2)


def neighbor_attention(
    qkv: Float[Tensor, "B V Q 3 H D"],
    neighbors: Int[Tensor, "V K"],
    mask: Bool[Tensor, "V K"],
    reverse: ReverseNeighbors | None = None,
) -> Float[Tensor, "B V Q H D"]:
    """Softmax attention of the q-th query of a vertex over the q-th keys of its neighbours, in H heads; differentiable.

    Args:
        qkv: Query, key and value of each of Q slots of V vertices, as a single linear map makes them. Keys and values
            are projected once per vertex and gathered here.
        neighbors: Neighbours of each vertex.
        mask: Entries of `neighbors` that are not padding; each vertex needs at least one.
        reverse: `reverse_neighbors(neighbors, mask)`. Worth keeping where the table stays the same.
    Returns:
        Weighted means of the values. They have the dtype of `qkv` and are computed in float32.
    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if qkv.ndim != 6 or qkv.shape[3] != 3:
        raise ValueError(f"qkv must be [B, V, Q, 3, H, D], got {[*qkv.shape]}")
    if neighbors.shape != mask.shape or neighbors.shape[0] != qkv.shape[1]:
        shapes = f"{[*neighbors.shape]} and {[*mask.shape]}"
        raise ValueError(f"neighbors and mask must be [V, K] with V = {qkv.shape[1]}, got {shapes}")
    if can_use_kernels(qkv, dtypes=FLOAT_TYPES):
        from core.ops.neighbor_attention_kernel import NeighborAttention

        reverse = reverse or reverse_neighbors(neighbors, mask)
        return NeighborAttention.apply(qkv.contiguous(), neighbors, mask, *reverse)
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    return neighbor_attention_reference(qkv.to(dtype), neighbors, mask).to(qkv.dtype)
