"""The two attentions of the graph.

`segment_attention` (intra-node): the queries of a segment attend to the keys of the same segment, of which there may be
any number, also none. Segments are rows of a compressed (CSR) table: the keys of segment s are
`key_values[crow[s]:crow[s + 1], 0]`.

`neighbor_attention` (inter-node): the queries of a vertex attend to those of its neighbours.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels

MAX_QUERIES = 128
"""Queries of a segment for which there are kernels."""


def segment_attention_reference(
    queries: Float[Tensor, "S Q H D"], key_values: Float[Tensor, "E 2 H D"], crow: Int[Tensor, "S+1"]
) -> Float[Tensor, "S Q H D"]:
    """Define `segment_attention` in plain PyTorch, for any device and dtype."""
    num_segments, num_keys = queries.shape[0], int(crow[-1])
    keys, values = key_values[:num_keys].unbind(1)
    segments = torch.arange(num_segments, device=crow.device)
    segment_of_key = segments.repeat_interleave(crow.diff(), output_size=num_keys)

    scaled = queries * queries.shape[-1] ** -0.5
    logits = (scaled[segment_of_key] * keys[:, None]).sum(-1)  # [E, Q, H]
    # A constant subtracted from the logits does not change the softmax: the peak needs no gradient.
    index = segment_of_key[:, None, None].expand_as(logits)
    peaks = logits.new_zeros(queries.shape[:-1]).scatter_reduce(0, index, logits.detach(), "amax", include_self=False)
    weights = torch.exp(logits - peaks[segment_of_key])

    totals = torch.zeros_like(peaks).index_add(0, segment_of_key, weights)
    sums = torch.zeros_like(queries).index_add(0, segment_of_key, weights[..., None] * values[:, None])
    # The largest weight of a segment is 1, so only totals of empty segments are below this bound, and none equals it,
    # where the gradient of the clamp is a matter of convention.
    return sums / totals.clamp_min(0.5)[..., None]


def segment_attention(
    queries: Float[Tensor, "S Q H D"], key_values: Float[Tensor, "E 2 H D"], crow: Int[Tensor, "S+1"]
) -> Float[Tensor, "S Q H D"]:
    """Softmax attention within segments; differentiable in queries, keys and values.

    Args:
        queries: Q queries of each of S segments, in H heads.
        key_values: Keys and values of all segments, one segment after the other; each pair is one row, as a single
            linear map makes it.
        crow: Start of each segment's rows, and the end of the last one's. Rows after that belong to no segment.
    Returns:
        Weighted means of the values; exactly zero for a segment without keys. They have the dtype of the queries and
        are computed in float32.
    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if key_values.shape[1:] != (2, *queries.shape[2:]):
        shapes = f"queries {[*queries.shape]}, key_values {[*key_values.shape]}"
        raise ValueError(f"queries must be [S, Q, H, D] and key_values [E, 2, H, D], got {shapes}")
    if crow.shape != (queries.shape[0] + 1,):
        raise ValueError(f"crow must hold S + 1 = {queries.shape[0] + 1} row starts, got {[*crow.shape]}")
    if can_use_kernels(queries, key_values, dtypes=FLOAT_TYPES) and queries.shape[1] <= MAX_QUERIES:
        from core.ops.segment_attention_kernel import SegmentAttention

        heads, width = key_values.shape[2:]
        if key_values.stride()[1:] != (heads * width, width, 1):  # only rows may lie apart in memory
            key_values = key_values.contiguous()
        return SegmentAttention.apply(queries.contiguous(), key_values, crow)
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return segment_attention_reference(queries.to(dtype), key_values.to(dtype), crow).to(queries.dtype)


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
