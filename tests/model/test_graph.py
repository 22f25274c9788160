"""Properties of the graph on a mesh of eight vertices, by the references and by the kernels.

Without a CUDA device, the kernels run in Triton's interpreter (`tests/conftest.py`).
"""

from dataclasses import replace

import pytest
import torch

from core.model.graph import BodyGraph, build_edges
from core.ops import dense_layers, graph_attention
from core.options import GraphOptions
from core.runtime.cuda_graphs import AsyncCount
from smpl_renderer.connectivity import Connectivity
from smpl_renderer.errors import InputError

OPTIONS = GraphOptions(features=16, queries=3, layers=2, heads=2)
VERTICES, KEYS = 8, 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def ring() -> Connectivity:
    """Eight vertices in a circle, each with its two neighbours and one column of padding."""
    own = torch.arange(VERTICES)
    neighbors = torch.stack([own, (own + 1) % VERTICES, (own - 1) % VERTICES, own], 1)
    mask = torch.ones_like(neighbors, dtype=torch.bool)
    mask[:, 3] = False
    return Connectivity(neighbors, mask, torch.zeros(VERTICES + 1).long(), torch.zeros(0).long(), "ring")


@pytest.fixture(params=["reference", "kernels"])
def graph(request, ring, monkeypatch) -> BodyGraph:
    """A graph in double precision by the references, or in single precision by the kernels."""
    torch.manual_seed(0)
    graph = BodyGraph(OPTIONS, KEYS, ring)
    if request.param == "reference":
        return graph.double()
    pytest.importorskip("triton")
    monkeypatch.setattr(graph_attention, "can_use_kernels", lambda *_, **__: True)
    monkeypatch.setattr(dense_layers, "layer_dtype", lambda x: torch.float32)
    graph.graph_cache.enabled = False
    return graph.to(DEVICE)


@pytest.fixture
def gaussians():
    """Ten Gaussians in each of two frames of two subjects. Vertices 6 and 7 have none."""
    generator = torch.Generator().manual_seed(0)
    vertex_ids = torch.randint(0, 6, (2, 2, 10), generator=generator)
    mask = torch.rand(2, 2, 10, generator=generator) < 0.7
    return vertex_ids, mask, torch.randn(2, 2, 10, KEYS, dtype=torch.float64, generator=generator)


def run(graph, vertex_ids, mask, keys):
    edges = build_edges(vertex_ids.to(graph.neighbors.device), mask.to(graph.neighbors.device), graph.num_vertices)
    return graph(edges.gather(keys.to(graph.vertex_embedding)), edges)


def assert_same(actual, expected):
    """Compare up to the order of summation, and on CUDA up to TF32 products, which round by 2^-11."""
    if actual.dtype == torch.double:
        torch.testing.assert_close(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=0, atol=5e-3 if DEVICE == "cuda" else 1e-5)


def test_every_gaussian_in_the_mask_has_an_edge_to_its_vertex(gaussians):
    vertex_ids, mask, _ = gaussians
    edges = build_edges(vertex_ids, mask, VERTICES)
    assert sorted(edges.gaussian_ids.tolist()) == mask.flatten().nonzero()[:, 0].tolist()
    for row in range(2 * VERTICES):
        own = edges.gaussian_ids[edges.crow[row] : edges.crow[row + 1]]
        assert (vertex_ids.flatten()[own] == row % VERTICES).all()
        assert (own // 20 == row // VERTICES).all()  # a subject has 20 Gaussians


def test_an_early_count_gives_the_same_edges(gaussians):
    vertex_ids, mask, _ = gaussians
    count = AsyncCount(mask)
    assert count.read() == mask.sum()
    early, late = build_edges(vertex_ids, mask, VERTICES, count), build_edges(vertex_ids, mask, VERTICES)
    assert torch.equal(early.gaussian_ids, late.gaussian_ids) and torch.equal(early.crow, late.crow)


def test_an_empty_mask_gives_no_edges_and_finite_features(graph, gaussians):
    vertex_ids, mask, keys = gaussians
    edges = build_edges(vertex_ids, torch.zeros_like(mask), VERTICES)
    assert len(edges.gaussian_ids) == 0 and (edges.crow == 0).all()
    assert run(graph, vertex_ids, torch.zeros_like(mask), keys).isfinite().all()


def test_the_order_of_gaussians_and_frames_does_not_matter(graph, gaussians):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shuffled = [x[:, :, order].flip(1) for x in gaussians]  # and the frames
    assert_same(run(graph, *shuffled), run(graph, *gaussians))


def test_a_frame_without_foreground_changes_nothing(graph, gaussians):
    vertex_ids, mask, keys = gaussians
    longer = (
        torch.cat([vertex_ids, vertex_ids[:, :1]], 1),
        torch.cat([mask, torch.zeros_like(mask[:, :1])], 1),
        torch.cat([keys, torch.full_like(keys[:, :1], torch.nan)], 1),
    )
    torch.testing.assert_close(run(graph, *longer), run(graph, *gaussians), rtol=0, atol=0)


def test_relabelling_vertices_relabels_the_result(graph, ring, gaussians):
    vertex_ids, mask, keys = gaussians
    new_to_old = torch.randperm(VERTICES, generator=torch.Generator().manual_seed(1))
    old_to_new = new_to_old.argsort()
    other_ring = replace(ring, neighbors=old_to_new[ring.neighbors[new_to_old]], mask=ring.mask[new_to_old])
    relabelled = BodyGraph(OPTIONS, KEYS, other_ring).to(graph.vertex_embedding)
    relabelled.load_state_dict(graph.state_dict())
    relabelled.vertex_embedding.data = graph.vertex_embedding.data[new_to_old]
    relabelled.graph_cache.enabled = graph.graph_cache.enabled
    assert_same(run(relabelled, old_to_new[vertex_ids], mask, keys), run(graph, vertex_ids, mask, keys)[:, new_to_old])


def test_subjects_do_not_influence_each_other(graph, gaussians):
    together = run(graph, *gaussians)
    for subject in range(2):
        alone = run(graph, *[x[subject : subject + 1] for x in gaussians])
        assert_same(together[subject : subject + 1], alone)


def test_intra_attention_does_not_update_vertices_without_gaussians(ring, gaussians):
    torch.manual_seed(0)
    graph = BodyGraph(replace(OPTIONS, inter=False, layers=1), KEYS, ring).double()
    for parameter in graph.intra[0].feed_forward.parameters():
        torch.nn.init.zeros_(parameter)  # attention remains
    out = run(graph, *gaussians)
    start = (graph.vertex_embedding + graph.query_embedding).expand_as(out)
    has_gaussians = torch.zeros(2, VERTICES, dtype=torch.bool)
    vertex_ids, mask, _ = gaussians
    for subject in range(2):
        has_gaussians[subject, vertex_ids[subject][mask[subject]]] = True
    assert (out[~has_gaussians] == start[~has_gaussians]).all()
    assert ((out[has_gaussians] - start[has_gaussians]).abs() > 1e-6).flatten(1).any(1).all()


def test_inter_attention_spreads_a_change_by_one_ring_per_layer(graph, ring, gaussians):
    vertex_ids, mask, keys = gaussians
    vertex_ids = torch.zeros_like(vertex_ids)
    change = (run(graph, vertex_ids, mask, keys + 1) - run(graph, vertex_ids, mask, keys)).abs().amax((0, 2, 3))
    assert (change[[0, 1, 2, 6, 7]] > 1e-9).all()
    assert (change[[3, 4, 5]] == 0).all()  # beyond the reach of two layers


def test_dropout_removes_updates_in_training_only(ring, gaussians):
    torch.manual_seed(0)
    graph = BodyGraph(replace(OPTIONS, dropout=1.0), KEYS, ring).double()
    start = (graph.vertex_embedding + graph.query_embedding).expand(2, -1, -1, -1)
    assert torch.equal(run(graph, *gaussians), start)  # every update is dropped
    assert not torch.isclose(run(graph.eval(), *gaussians), start).all(-1).any()


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"heads": 0}, {"features": 9, "heads": 2}])
def test_contradictory_options_are_refused(ring, wrong):
    with pytest.raises(InputError, match=r"graph: queries and heads"):
        BodyGraph(replace(OPTIONS, **wrong), KEYS, ring)


@pytest.mark.parametrize(("intra", "inter"), [(True, False), (False, True)])
def test_either_attention_can_be_left_out(ring, gaussians, intra, inter):
    graph = BodyGraph(replace(OPTIONS, intra=intra, inter=inter), KEYS, ring).double()
    run(graph, *gaussians).square().sum().backward()
    assert all(p.grad is not None for p in graph.parameters())
