"""Attention of every vertex over its neighbours on the mesh, given as a padded table."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smpl_renderer.dispatch import kernels_take


class ReverseNeighbors(NamedTuple):
    """A table of neighbours the other way round: who has a vertex among its neighbours."""

    vertices: Int[Tensor, "V*K"]
    crow: Int[Tensor, "V+1"]
    """Those that attend to vertex v are `vertices[crow[v]:crow[v + 1]]`."""


def reverse_neighbors(neighbors: Int[Tensor, "V K"], mask: Bool[Tensor, "V K"]) -> ReverseNeighbors:
    """Turn a table round."""
    num_vertices, num_neighbors = neighbors.shape
    targets, entries = torch.where(mask, neighbors, num_vertices).flatten().sort(stable=True)
    bounds = torch.arange(num_vertices + 1, device=neighbors.device)
    return ReverseNeighbors((entries // num_neighbors).int(), torch.searchsorted(targets, bounds).int())


def neighbor_attention_reference(
    queries: Float[Tensor, "B V Q H D"],
    keys: Float[Tensor, "B V Q H D"],
    values: Float[Tensor, "B V Q H D"],
    neighbors: Int[Tensor, "V K"],
    mask: Bool[Tensor, "V K"],
) -> Float[Tensor, "B V Q H D"]:
    """Define `neighbor_attention` in plain PyTorch, for any device and dtype."""
    batch, num_vertices, num_neighbors = queries.shape[0], *neighbors.shape
    table = (batch, num_vertices, num_neighbors, *queries.shape[2:])
    gathered_keys = keys.index_select(1, neighbors.flatten()).view(table)
    gathered_values = values.index_select(1, neighbors.flatten()).view(table)
    logits = (queries[:, :, None] * gathered_keys).sum(-1) * queries.shape[-1] ** -0.5  # [B, V, K, Q, H]
    weights = logits.masked_fill(~mask[:, :, None, None], -torch.inf).softmax(2)
    return (weights[..., None] * gathered_values).sum(2)


def neighbor_attention(
    queries: Float[Tensor, "B V Q H D"],
    keys: Float[Tensor, "B V Q H D"],
    values: Float[Tensor, "B V Q H D"],
    neighbors: Int[Tensor, "V K"],
    mask: Bool[Tensor, "V K"],
    sources: ReverseNeighbors | None = None,
) -> Float[Tensor, "B V Q H D"]:
    """Softmax attention of the q-th query of a vertex over the q-th keys of its neighbours, in H heads; differentiable.

    Args:
        queries: Q queries of each of V vertices.
        keys: One for each query, projected once and gathered here.
        values: What the keys stand for.
        neighbors: The neighbours of each vertex.
        mask: Which entries of `neighbors` count; each vertex needs at least one.
        sources: `reverse_neighbors(neighbors, mask)`, which is worth keeping where the table stays the same.
    Returns:
        Weighted means of the values. Of the queries' dtype, computed in float32.
    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if not queries.shape == keys.shape == values.shape:
        shapes = f"{[*queries.shape]}, {[*keys.shape]} and {[*values.shape]}"
        raise ValueError(f"queries, keys and values must all be [B, V, Q, H, D], got {shapes}")
    return packed_neighbor_attention(torch.stack([queries, keys, values], 3), neighbors, mask, sources)


def packed_neighbor_attention(
    packed: Float[Tensor, "B V Q 3 H D"],
    neighbors: Int[Tensor, "V K"],
    mask: Bool[Tensor, "V K"],
    sources: ReverseNeighbors | None = None,
) -> Float[Tensor, "B V Q H D"]:
    """`neighbor_attention` with queries, keys and values side by side, as one linear map makes them."""
    if packed.ndim != 6 or packed.shape[3] != 3:
        raise ValueError(f"packed queries, keys and values must be [B, V, Q, 3, H, D], got {[*packed.shape]}")
    if neighbors.shape != mask.shape or neighbors.shape[0] != packed.shape[1]:
        shapes = f"{[*neighbors.shape]} and {[*mask.shape]}"
        raise ValueError(f"neighbors and mask must be [V, K] with V = {packed.shape[1]}, got {shapes}")
    if kernels_take(packed) and packed.numel() > 0:
        from core.ops.neighbor_attention_kernel import NeighborAttention

        sources = sources or reverse_neighbors(neighbors, mask)
        return NeighborAttention.apply(packed.contiguous(), neighbors, mask, *sources)
    dtype = torch.promote_types(packed.dtype, torch.float32)
    return neighbor_attention_reference(*packed.to(dtype).unbind(3), neighbors, mask).to(packed.dtype)
