"""CUDA graphs on a device: training and evaluation give the results of launched kernels."""

import pytest
import torch

from core.model.graph import BodyGraph, build_edges
from core.options import GraphOptions
from scripts.benchmarks.graph import random_assignment
from smpl_renderer.connectivity import build_connectivity

pytestmark = pytest.mark.gpu

KEYS = 138
SAME = 4e-3
"""Relative tolerance of one bf16 rounding: padding changes the sizes of matrix products and their summation order."""


@pytest.fixture(scope="module")
def table(body):
    return build_connectivity(body)


def make_network(table, enabled, lr=1e-3):
    torch.manual_seed(0)
    network = BodyGraph(GraphOptions(queries=2, layers=2), KEYS, table).cuda()
    network.graph_cache.enabled = enabled
    return network, torch.optim.AdamW(network.parameters(), lr=lr, fused=True)


def random_edges(body, gaussians, seed):
    vertex_ids, mask = (x.cuda() for x in random_assignment(2, gaussians, body.num_vertices, seed))
    keys = torch.randn(2 * gaussians, KEYS, generator=torch.Generator().manual_seed(seed)).cuda()
    return keys, build_edges(vertex_ids, mask, body.num_vertices)


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def test_training_with_graphs_matches_training_without(body, table):
    pairs = [make_network(table, enabled) for enabled in (True, False)]
    for step, gaussians in enumerate([3000, 3000, 2900, 1000, 3000, 1000, 1000]):
        keys, edges = random_edges(body, gaussians, seed=step)
        losses, gradients = [], []
        for network, optimizer in pairs:
            own = keys.clone().requires_grad_()
            with torch.autocast("cuda", torch.bfloat16):
                loss = (network(own, edges) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            gradients.append(own.grad)
        assert relative_error(*losses) < 1e-3
        assert gradients[0].shape == keys.shape and relative_error(*gradients) < 0.05
    assert sum(r is not None for r in pairs[0][0].graph_cache._graphs.values()) == 2


def test_autocast_weights_are_cast_again_in_every_replay(body, table):
    network, optimizer = make_network(table, enabled=True, lr=1e-2)
    keys, edges = random_edges(body, 3000, seed=0)
    for _ in range(4):
        with torch.autocast("cuda", torch.bfloat16):  # autocast caches the casts of weights
            before, again = network(keys, edges), network(keys, edges)
            assert relative_error(again, before) < SAME
        (before + again).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            network.graph_cache.enabled = False
            expected = network(keys, edges)
            network.graph_cache.enabled = True
            for _ in range(3):
                assert relative_error(network(keys, edges), expected) < SAME
        assert relative_error(before, expected) > 5 * SAME  # the step was a large one


def test_replay_does_not_synchronize_and_ignores_the_padding_of_longer_inputs(body, table):
    network, _ = make_network(table, enabled=True)
    few, many = random_edges(body, 2000, seed=0), random_edges(body, 2040, seed=1)
    many[0].fill_(torch.nan)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        expected = network(*few)
        network(*few)  # captures
        network(*many)
        torch.cuda.set_sync_debug_mode("error")
        try:
            actual = network(*few)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert relative_error(actual, expected) < SAME


def test_gradients_accumulate_over_passes(body, table):
    pairs = [make_network(table, enabled)[0] for enabled in (True, False)]
    for step in range(4):
        keys, edges = random_edges(body, 2000, seed=step)
        for network in pairs:
            network(keys, edges).square().sum().backward()  # in single precision
    for a, b in zip(*(network.parameters() for network in pairs), strict=True):
        assert relative_error(a.grad, b.grad) < 1e-4


@pytest.mark.parametrize("change", ["load", "move"])
def test_new_weights_take_effect(body, table, change):
    network, _ = make_network(table, enabled=True)
    keys, edges = random_edges(body, 2000, seed=0)
    with torch.no_grad():
        for _ in range(3):
            before = network(keys, edges)
        other = {name: 1.5 * x if x.is_floating_point() else x for name, x in network.state_dict().items()}
        if change == "move":
            network.to("cpu").to("cuda")
        network.load_state_dict(other)
        actual = [network(keys, edges) for _ in range(3)]
        network.graph_cache.enabled = False
        expected = network(keys, edges)
    assert relative_error(expected, before) > 0.1
    assert all(relative_error(x, expected) < 1e-4 for x in actual)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_between_forward_and_backward_changes_no_gradient(body, table, context):
    network, _ = make_network(table, enabled=True)
    (keys, edges), (others, other_edges) = random_edges(body, 2000, seed=0), random_edges(body, 2030, seed=1)

    def gradients(evaluate):
        network.zero_grad()
        loss = network(keys, edges).square().mean()
        if evaluate:
            with context():
                network(others, other_edges)
        loss.backward()
        return [p.grad.clone() for p in network.parameters()]

    network.graph_cache.enabled = False
    expected = gradients(False)
    network.graph_cache.enabled = True
    with context():
        for _ in range(3):
            network(others, other_edges)
    for _ in range(3):
        actual = gradients(True)
    assert all(relative_error(a, b) < 1e-4 for a, b in zip(actual, expected, strict=True))
