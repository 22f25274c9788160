"""Attention of each segment's queries over that segment's own keys, of which there may be any number, also none.

Segments are rows of a compressed (CSR) table: the keys of segment n are `keys[crow[n]:crow[n + 1]]`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.dispatch import kernels_take

MAX_QUERIES = 128  # of a segment, in the kernels


def segment_attention_reference(
    queries: Float[Tensor, "N Q H D"],
    keys: Float[Tensor, "E H D"],
    values: Float[Tensor, "E H D"],
    crow: Int[Tensor, "N+1"],
) -> Float[Tensor, "N Q H D"]:
    """Define `segment_attention` in plain PyTorch, for any device and dtype."""
    num_segments, num_keys = queries.shape[0], int(crow[-1])
    keys, values = keys[:num_keys], values[:num_keys]
    segments = torch.arange(num_segments, device=crow.device)
    segment_of_key = segments.repeat_interleave(crow.diff(), output_size=num_keys)

    scaled = queries * queries.shape[-1] ** -0.5
    logits = (scaled[segment_of_key] * keys[:, None]).sum(-1)  # [E, Q, H]
    # Softmax does not change when a constant is taken off its logits, so the peak needs no gradient.
    index = segment_of_key[:, None, None].expand_as(logits)
    peaks = logits.new_zeros(queries.shape[:-1]).scatter_reduce(0, index, logits.detach(), "amax", include_self=False)
    weights = torch.exp(logits - peaks[segment_of_key])

    totals = torch.zeros_like(peaks).index_add(0, segment_of_key, weights)
    sums = torch.zeros_like(queries).index_add(0, segment_of_key, weights[..., None] * values[:, None])
    # A segment's largest weight is 1: only the totals of empty segments are below this bound, and none is at it, where
    # the gradient would be a matter of convention.
    return sums / totals.clamp_min(0.5)[..., None]


def segment_attention(
    queries: Float[Tensor, "N Q H D"],
    keys: Float[Tensor, "E H D"],
    values: Float[Tensor, "E H D"],
    crow: Int[Tensor, "N+1"],
) -> Float[Tensor, "N Q H D"]:
    """Softmax attention within segments; differentiable in queries, keys and values.

    Args:
        queries: Q queries of each of N segments, in H heads.
        keys: All segments' keys, one segment after the other.
        values: What the keys stand for.
        crow: Where each segment's keys begin, and where the last one's end; keys behind that belong to none.
    Returns:
        Weighted means of the values; exactly zero for a segment without keys. Of the queries' dtype, computed in
        float32.
    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if keys.shape != values.shape:
        raise ValueError(f"keys {[*keys.shape]} and values {[*values.shape]} must have one shape, [E, H, D]")
    return packed_segment_attention(queries, torch.stack([keys, values], 1), crow)


def packed_segment_attention(
    queries: Float[Tensor, "N Q H D"], key_values: Float[Tensor, "E 2 H D"], crow: Int[Tensor, "N+1"]
) -> Float[Tensor, "N Q H D"]:
    """`segment_attention` with keys and values side by side, as one linear map makes them."""
    if key_values.shape[1:] != (2, *queries.shape[2:]):
        shapes = f"queries {[*queries.shape]}, key_values {[*key_values.shape]}"
        raise ValueError(f"queries must be [N, Q, H, D], keys and values [E, H, D], got {shapes}")
    if crow.shape != (queries.shape[0] + 1,):
        raise ValueError(f"crow must hold N + 1 = {queries.shape[0] + 1} row starts, got {[*crow.shape]}")
    if kernels_take(queries, key_values) and queries.numel() > 0 and queries.shape[1] <= MAX_QUERIES:
        from core.ops.segment_attention_kernel import SegmentAttention

        heads, width = key_values.shape[2:]
        if key_values.stride()[1:] != (heads * width, width, 1):  # only the rows may lie apart
            key_values = key_values.contiguous()
        return SegmentAttention.apply(queries.contiguous(), key_values, crow)
    dtype = torch.promote_types(queries.dtype, torch.float32)
    out = segment_attention_reference(queries.to(dtype), *key_values.to(dtype).unbind(1), crow)
    return out.to(queries.dtype)
