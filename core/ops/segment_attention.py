"""Attention of each segment's queries over the keys of the same segment, which may have any number of keys, also none.

Segments are rows of a compressed (CSR) table: the keys of segment s are `key_values[crow[s]:crow[s + 1], 0]`.
"""

import torch
from jaxtyping import Float, Int
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
