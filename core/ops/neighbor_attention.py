"""Attention of every vertex over its neighbours on the mesh, given as a padded table."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
) -> Float[Tensor, "B V Q H D"]:
    """Softmax attention of the q-th query of a vertex over the q-th keys of its neighbours, in H heads; differentiable.

    Args:
        queries: Q queries of each of V vertices.
        keys: One for each query, projected once and gathered here.
        values: What the keys stand for.
        neighbors: The neighbours of each vertex.
        mask: Which entries of `neighbors` count; each vertex needs at least one.
    Returns:
        Weighted means of the values. Of the queries' dtype, computed in float32.
    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if not queries.shape == keys.shape == values.shape:
        shapes = f"{[*queries.shape]}, {[*keys.shape]} and {[*values.shape]}"
        raise ValueError(f"queries, keys and values must all be [B, V, Q, H, D], got {shapes}")
    if neighbors.shape != mask.shape or neighbors.shape[0] != queries.shape[1]:
        shapes = f"{[*neighbors.shape]} and {[*mask.shape]}"
        raise ValueError(f"neighbors and mask must be [V, K] with V = {queries.shape[1]}, got {shapes}")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    out = neighbor_attention_reference(queries.to(dtype), keys.to(dtype), values.to(dtype), neighbors, mask)
    return out.to(queries.dtype)
