"""The graph at its usual sizes, on a GPU."""

import pytest
import torch

from core.model.graph import BodyGraph, build_edges
from core.ops.graph_attention import (
    neighbor_attention,
    neighbor_attention_reference,
    segment_attention,
    segment_attention_reference,
)
from core.ops.nearest_vertices import nearest_vertices_of_sets, nearest_vertices_reference
from core.options import GraphOptions
from core.runtime.cuda_graphs import AsyncCount
from scripts.benchmarks.graph import random_assignment
from smpl_renderer.connectivity import build_connectivity
from smpl_renderer.dispatch import reference_operations

pytestmark = pytest.mark.gpu
KEYS = 138


def relative_error(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def values_and_gradients(function, tensors):
    tensors = [x.detach().requires_grad_() for x in tensors]
    out = function(*tensors)
    cotangent = torch.randn(out.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda").to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, cotangent)]


def assert_close(function, reference, tensors, tolerance):
    actual = values_and_gradients(function, tensors)
    expected = values_and_gradients(reference, [x.double() for x in tensors])
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < tolerance


@pytest.fixture(scope="module")
def connectivity(body):
    return build_connectivity(body)


@pytest.fixture
def edges(body):
    return build_edges(*(x.cuda() for x in random_assignment(4, 9000, body.num_vertices, seed=0)), body.num_vertices)


PRECISIONS = [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("queries", [4, 20])
def test_segment_attention(edges, dtype, tolerance, queries):
    torch.manual_seed(0)
    q = torch.randn(len(edges.crow) - 1, queries, 4, 32, device="cuda").to(dtype)
    kv = torch.randn(len(edges.gaussian_ids), 2, 4, 32, device="cuda").to(dtype)
    assert_close(
        lambda *x: segment_attention(*x, edges.crow), lambda *x: segment_attention_reference(*x, edges.crow), (q, kv),
        tolerance,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_segment_attention_where_one_vertex_has_all_gaussians(dtype, tolerance):
    torch.manual_seed(0)
    crow = torch.full((501,), 36_000, device="cuda")
    crow[:200] = 0
    q = torch.randn(500, 4, 4, 24, device="cuda").to(dtype)
    kv = torch.randn(36_000, 2, 4, 24, device="cuda").to(dtype)
    assert_close(
        lambda *x: segment_attention(*x, crow), lambda *x: segment_attention_reference(*x, crow), (q, kv), tolerance
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_neighbor_attention(connectivity, dtype, tolerance):
    torch.manual_seed(0)
    table = connectivity.neighbors.cuda(), connectivity.mask.cuda()
    qkv = torch.randn(1, len(table[0]), 4, 3, 4, 32, device="cuda").to(dtype)
    assert_close(
        lambda x: neighbor_attention(x, *table), lambda x: neighbor_attention_reference(x, *table), (qkv,), tolerance
    )


def run(network, keys, edges):
    return values_and_gradients(lambda keys, *_: network(keys, edges), [keys])[:1] + list(
        torch.autograd.grad(network(keys, edges).float().square().sum(), list(network.parameters()))
    )


@pytest.mark.parametrize("features", [128, 32])
def test_bf16_is_as_near_to_double_precision_as_autocast(connectivity, edges, features):
    torch.manual_seed(0)
    options = GraphOptions(features=features, queries=3, layers=2)
    network = BodyGraph(options, KEYS, connectivity).cuda()
    keys = torch.randn(len(edges.gaussian_ids), KEYS, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        kernels = run(network, keys, edges)
        with reference_operations():
            autocast = run(network, keys, edges)
    with torch.autocast("cuda", enabled=False):
        exact = run(network.double(), keys.double(), edges)
    for ours, theirs, e in zip(kernels, autocast, exact, strict=True):
        assert ours.dtype == theirs.dtype
        # At most 1.5 times the error, or a tenth of one rounding: some gradients lose hardly anything.
        assert relative_error(ours, e) < max(1.5 * relative_error(theirs, e), 4e-4)


def test_single_precision_graph(connectivity, edges):
    torch.manual_seed(0)
    network = BodyGraph(GraphOptions(queries=3, layers=2), KEYS, connectivity).cuda()
    keys = torch.randn(len(edges.gaussian_ids), KEYS, device="cuda")
    single = run(network, keys, edges)
    exact = run(network.double(), keys.double(), edges)
    assert relative_error(single[0], exact[0]) < 1e-5
    assert all(relative_error(a, e) < 1e-4 for a, e in zip(single[1:], exact[1:], strict=True))


def test_gradients_are_repeatable(connectivity, edges):
    torch.manual_seed(0)
    network = BodyGraph(GraphOptions(layers=1), KEYS, connectivity).cuda()
    keys = torch.randn(len(edges.gaussian_ids), KEYS, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        first, second = run(network, keys, edges), run(network, keys, edges)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_host_does_not_wait_for_the_device(connectivity, body):
    network = BodyGraph(GraphOptions(layers=1), KEYS, connectivity).cuda()
    vertex_ids, mask = (x.cuda() for x in random_assignment(2, 500, body.num_vertices, seed=0))
    keys = torch.randn(*mask.shape, KEYS, device="cuda")

    def step():
        edges = build_edges(vertex_ids, mask, body.num_vertices, count)
        with torch.autocast("cuda", torch.bfloat16):
            network(edges.gather(keys), edges).sum().backward()

    for _ in range(3):  # compilation of the kernels, then capture, then replay
        count = AsyncCount(mask)
        step()
    count = AsyncCount(mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nearest_vertices(body):
    torch.manual_seed(0)
    vertices = body.v_template.float().cuda() + torch.tensor([[[0.0]], [[0.3]]], device="cuda")
    near = vertices[:, torch.randint(0, body.num_vertices, (20_000,))]
    points = near + 0.05 * torch.randn(near.shape, device="cuda")
    mask = torch.rand(2, 20_000, device="cuda") < 0.3
    actual = nearest_vertices_of_sets(points, vertices, mask)
    assert (actual[~mask] == 0).all()
    expected = nearest_vertices_reference(points, vertices, mask)

    # Of two equally near vertices, rounding may choose either.
    def distances(ids):
        return (points - torch.stack([v[i] for v, i in zip(vertices, ids)])).norm(dim=-1)[mask]

    torch.testing.assert_close(distances(actual), distances(expected), rtol=1e-6, atol=1e-6)
    assert (actual == expected).float().mean() > 0.999
