"""The two attentions of the graph against loops over single vertices."""

import pytest
import torch

from core.ops.graph_attention import neighbor_attention, segment_attention


def loop_over_segments(queries, key_values, crow):
    keys, values = key_values.unbind(1)
    out = torch.zeros_like(queries)
    for n in range(len(queries)):
        own = slice(int(crow[n]), int(crow[n + 1]))
        if own.start < own.stop:
            logits = torch.einsum("qhd,ehd->qhe", queries[n], keys[own]) / queries.shape[-1] ** 0.5
            out[n] = torch.einsum("qhe,ehd->qhd", logits.softmax(-1), values[own])
    return out


def loop_over_vertices(qkv, neighbors, mask):
    queries, keys, values = qkv.unbind(3)
    out = torch.zeros_like(queries)
    for v in range(len(neighbors)):
        around = neighbors[v][mask[v]]
        logits = torch.einsum("bqhd,bkqhd->bqhk", queries[:, v], keys[:, around]) / queries.shape[-1] ** 0.5
        out[:, v] = torch.einsum("bqhk,bkqhd->bqhd", logits.softmax(-1), values[:, around])
    return out


def assert_same_values_and_gradients(function, reference, tensors, *tables):
    tensors = [x.requires_grad_() for x in tensors]
    actual, expected = function(*tensors, *tables), reference(*tensors, *tables)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn(actual.shape, dtype=actual.dtype, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        torch.autograd.grad(actual, tensors, cotangent), torch.autograd.grad(expected, tensors, cotangent), strict=True
    )
    for actual_grad, expected_grad in pairs:
        torch.testing.assert_close(actual_grad, expected_grad)


@pytest.fixture
def segments():
    """Segments of 3, 0, 1, 70 and 0 keys: the last one is empty, one is large."""
    generator = torch.Generator().manual_seed(0)
    crow = torch.tensor([0, 3, 3, 4, 74, 74])
    queries = torch.randn(5, 4, 2, 8, dtype=torch.float64, generator=generator)
    key_values = torch.randn(74, 2, 2, 8, dtype=torch.float64, generator=generator)
    return queries, key_values, crow


@pytest.fixture
def mesh():
    """Queries, keys and values of nine vertices, and a table of neighbours with padding."""
    generator = torch.Generator().manual_seed(0)
    neighbors = torch.stack([torch.randperm(9, generator=generator)[:5] for _ in range(9)])
    mask = torch.rand(9, 5, generator=generator) < 0.6
    mask[:, 0] = True
    return torch.randn(2, 9, 3, 3, 2, 4, dtype=torch.float64, generator=generator), neighbors, mask


def test_segment_attention_is_softmax_in_each_segment(segments):
    assert_same_values_and_gradients(segment_attention, loop_over_segments, segments[:2], segments[2])


def test_the_result_of_an_empty_segment_is_exactly_zero(segments):
    out = segment_attention(*segments)
    assert (out[[1, 4]] == 0).all()
    assert (out[[0, 2, 3]] != 0).all()


def test_without_any_key_all_results_are_zero(segments):
    queries, key_values, _ = segments
    out = segment_attention(queries, key_values[:0], torch.zeros(6, dtype=torch.int64))
    assert (out == 0).all()


def test_the_order_of_keys_in_a_segment_does_not_matter(segments):
    queries, key_values, crow = segments
    order = torch.cat([torch.tensor([2, 0, 1, 3]), 4 + torch.randperm(70)])
    torch.testing.assert_close(
        segment_attention(queries, key_values[order], crow), segment_attention(queries, key_values, crow)
    )


def test_large_logits_do_not_overflow(segments):
    queries, key_values, crow = segments
    queries, key_values = 1e3 * queries.float(), key_values.float() * torch.tensor([1e3, 1.0])[:, None, None]
    out = segment_attention(queries, key_values, crow)
    assert out.isfinite().all()
    torch.testing.assert_close(out, loop_over_segments(queries, key_values, crow))


def test_half_precision_is_computed_in_float32(segments):
    queries, key_values, crow = segments
    half = [x.to(torch.bfloat16) for x in (queries, key_values)]
    exact = segment_attention(*[x.double() for x in half], crow)
    # The result alone is rounded, to bf16's 8 bits.
    torch.testing.assert_close(segment_attention(*half, crow).double(), exact, rtol=2**-8, atol=1e-6)


def test_neighbor_attention_is_softmax_over_neighbors(mesh):
    assert_same_values_and_gradients(neighbor_attention, loop_over_vertices, mesh[:1], *mesh[1:])


def test_padding_does_not_count(mesh):
    qkv, neighbors, mask = mesh
    other_padding = torch.where(mask, neighbors, 8 - neighbors)
    torch.testing.assert_close(
        neighbor_attention(qkv, other_padding, mask), neighbor_attention(qkv, neighbors, mask), rtol=0, atol=0
    )


def test_relabelling_vertices_relabels_the_result(mesh):
    qkv, neighbors, mask = mesh
    new_to_old = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    old_to_new = new_to_old.argsort()
    relabelled = neighbor_attention(qkv[:, new_to_old], old_to_new[neighbors[new_to_old]], mask[new_to_old])
    torch.testing.assert_close(relabelled, neighbor_attention(qkv, neighbors, mask)[:, new_to_old])


def test_shapes_that_do_not_fit_are_refused(segments, mesh):
    queries, key_values, crow = segments
    with pytest.raises(ValueError, match="crow must hold"):
        segment_attention(queries, key_values, crow[:-1])
    with pytest.raises(ValueError, match="key_values"):
        segment_attention(queries, key_values[..., :1, :], crow)
    qkv, neighbors, mask = mesh
    with pytest.raises(ValueError, match="qkv must be"):
        neighbor_attention(qkv[:, :, :, :2], neighbors, mask)
    with pytest.raises(ValueError, match="neighbors and mask"):
        neighbor_attention(qkv, neighbors[1:], mask)
