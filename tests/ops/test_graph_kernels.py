"""Kernels of the graph against their references, in Triton's interpreter (`tests/conftest.py`) or on a GPU."""

import pytest
import torch

pytest.importorskip("triton")

from core.ops.dense_layers import FeedForwardWeights, norm_linear_reference, residual_feed_forward_reference
from core.ops.feed_forward_kernel import ResidualFeedForward
from core.ops.graph_attention import neighbor_attention_reference, reverse_neighbors, segment_attention_reference
from core.ops.nearest_vertices import nearest_vertices_reference
from core.ops.nearest_vertices_kernel import launch_nearest
from core.ops.neighbor_attention_kernel import NeighborAttention
from core.ops.norm_linear_kernel import NormLinear
from core.ops.segment_attention_kernel import SegmentAttention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BF16_ROUNDING = 2.0**-8 if DEVICE == "cuda" else 2.0**-7  # of one result; the interpreter truncates


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fill new memory with NaN, so that a value that a kernel does not write is detected."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def values_and_gradients(function, tensors):
    tensors = [x.detach().requires_grad_() for x in tensors]
    results = function(*tensors)
    results = results if isinstance(results, tuple) else (results,)
    cotangents = [randn(*x.shape, seed=9 + i).to(x.dtype) for i, x in enumerate(results)]
    return results, torch.autograd.grad(results, tensors, cotangents)


def assert_equals_reference(kernel, reference, tensors, forward=1e-5, backward=1e-4):
    """Compare relative errors of whole tensors, in the Euclidean norm, with the reference in double precision."""
    actual = values_and_gradients(kernel, tensors)
    expected = values_and_gradients(reference, [x.double() for x in tensors])
    for results, exact, tolerance in zip(actual, expected, (forward, backward), strict=True):
        for a, e in zip(results, exact, strict=True):
            assert (a.double() - e).norm() <= tolerance * e.norm()


def segments(counts):
    return torch.tensor([0, *counts]).cumsum(0).to(DEVICE)


@pytest.mark.parametrize(
    ("counts", "queries", "heads", "width"),
    [
        ([3, 0, 1, 70, 0], 5, 3, 20),  # empty ones, a long one, no power of two
        ([0] * 40 + [2, 150] + [1] * 30, 4, 2, 32),  # several programs; one list of several blocks
        ([4, 0, 9], 20, 1, 8),
        ([2, 3], 1, 2, 16),
        ([5, 1], 70, 1, 16),  # more queries than a program usually takes
        ([0, 0, 0], 4, 2, 16),
    ],
)
def test_segment_attention(counts, queries, heads, width):
    crow = segments(counts)
    tensors = randn(len(counts), queries, heads, width), randn(sum(counts) + 3, 2, heads, width, seed=1)
    assert_equals_reference(
        lambda q, kv: SegmentAttention.apply(q, kv, crow),
        lambda q, kv: segment_attention_reference(q, kv, crow),
        tensors,
    )
    out, (_, g_key_values) = values_and_gradients(lambda q, kv: SegmentAttention.apply(q, kv, crow), tensors)
    assert (out[0][crow.diff() == 0] == 0).all()
    assert (g_key_values[sum(counts) :] == 0).all()  # behind the last segment


def test_keys_and_values_that_are_part_of_longer_rows():
    crow, queries, rows = segments([3, 0, 40]), randn(3, 4, 2, 16), randn(43, 3, 2, 2, 16, seed=1)
    assert_equals_reference(
        lambda q, kv: SegmentAttention.apply(q, kv.unbind(1)[1], crow),
        lambda q, kv: segment_attention_reference(q, kv[:, 1], crow),
        [queries, rows],
    )


def test_segment_attention_of_large_logits():
    crow = segments([3, 40, 0])
    tensors = 100 * randn(3, 4, 2, 16), 10 * randn(43, 2, 2, 16, seed=1)
    expected = segment_attention_reference(*(x.double() for x in tensors), crow)
    actual = SegmentAttention.apply(*tensors, crow)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def table():
    """Neighbours of 37 vertices, some of them padding, in a column that is not the last."""
    generator = torch.Generator().manual_seed(0)
    neighbors = torch.randint(0, 37, (37, 5), generator=generator)
    mask = torch.rand(37, 5, generator=generator) < 0.6
    mask[:, 2] = True
    return neighbors.to(DEVICE), mask.to(DEVICE)


@pytest.mark.parametrize(("queries", "heads", "width"), [(3, 3, 20), (1, 2, 8), (4, 1, 32)])
def test_neighbor_attention(table, queries, heads, width):
    reverse = reverse_neighbors(*table)
    assert_equals_reference(
        lambda qkv: NeighborAttention.apply(qkv, *table, *reverse),
        lambda qkv: neighbor_attention_reference(qkv, *table),
        [randn(2, 37, queries, 3, heads, width)],
    )


def test_reversed_neighbours_are_the_vertices_that_have_a_vertex_as_neighbour(table):
    neighbors, mask = (x.cpu() for x in table)
    vertices, crow = (x.cpu() for x in reverse_neighbors(*table))
    for target in range(37):
        expected = [v for v in range(37) for j in range(5) if mask[v, j] and neighbors[v, j] == target]
        assert vertices[crow[target] : crow[target + 1]].tolist() == expected


@pytest.mark.parametrize(("rows", "channels", "outputs"), [(150, 32, 96), (3, 16, 16), (64, 64, 192)])
def test_norm_linear(rows, channels, outputs):
    tensors = [randn(rows, channels), randn(channels, seed=1), randn(channels, seed=2)]
    tensors += [randn(outputs, channels, seed=3) / channels**0.5, randn(outputs, seed=4)]
    assert_equals_reference(lambda *x: NormLinear.apply(*x, torch.float32), norm_linear_reference, tensors)


def feed_forward_weights(channels, hidden):
    return [
        randn(channels, channels, seed=1) / channels**0.5,
        randn(channels, seed=2),
        randn(channels, seed=3),
        randn(channels, seed=4),
        randn(hidden, channels, seed=5) / channels**0.5,
        randn(hidden, seed=6),
        randn(channels, hidden, seed=7) / hidden**0.5,
        randn(channels, seed=8),
    ]


def feed_forward_reference(x, update, *weights):
    return residual_feed_forward_reference(x, update, FeedForwardWeights(*weights))


@pytest.mark.parametrize(("rows", "channels", "hidden"), [(300, 32, 128), (5, 16, 48), (70, 64, 64)])
def test_feed_forward(rows, channels, hidden):
    tensors = [randn(rows, channels), randn(rows, channels, seed=9), *feed_forward_weights(channels, hidden)]
    assert_equals_reference(ResidualFeedForward.apply, feed_forward_reference, tensors)


def test_feed_forward_without_a_bias_of_the_updates_map():
    x, update, out_weight, _, *rest = randn(70, 16), randn(70, 16, seed=9), *feed_forward_weights(16, 64)

    def function(apply):
        return lambda x, update, out_weight, *rest: apply(x, update, out_weight, None, *rest)

    tensors = [x, update, out_weight, *rest]
    assert_equals_reference(function(ResidualFeedForward.apply), function(feed_forward_reference), tensors)


def test_half_precision(table):
    """Inputs and results in bf16, float32 in between, with TF32 products in long sums."""
    crow, reverse = segments([3, 0, 40]), reverse_neighbors(*table)
    half = {"forward": BF16_ROUNDING, "backward": BF16_ROUNDING}
    assert_equals_reference(
        lambda q, kv: SegmentAttention.apply(q, kv, crow),
        lambda q, kv: segment_attention_reference(q, kv, crow),
        [randn(3, 4, 2, 32, dtype=torch.bfloat16), randn(43, 2, 2, 32, seed=1, dtype=torch.bfloat16)],
        **half,
    )
    assert_equals_reference(
        lambda qkv: NeighborAttention.apply(qkv, *table, *reverse),
        lambda qkv: neighbor_attention_reference(qkv, *table),
        [randn(1, 37, 2, 3, 2, 16, dtype=torch.bfloat16)],
        **half,
    )


@pytest.mark.parametrize("masked", [False, True])
def test_nearest_vertices(masked):
    points, vertices = randn(3, 70, 3), randn(3, 100, 3, seed=1)
    mask = None
    if masked:
        mask = randn(3, 70, seed=2) > 0.5
        mask[0, :40] = False  # a whole block
    expected = nearest_vertices_reference(points.double(), vertices.double(), mask)
    assert (launch_nearest(points, vertices, mask) == expected).all()


def test_the_first_of_equally_near_vertices_is_returned():
    vertices = randn(1, 32, 3).repeat(1, 4, 1)  # in one block, and in the next
    points = vertices[:, 64:96] + 0.001
    for function in (launch_nearest, nearest_vertices_reference):
        assert function(points, vertices, None).tolist() == [list(range(32))]
