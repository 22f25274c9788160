"""Networks on bodies with another mesh than that of their training."""

import copy
from dataclasses import replace

import pytest
import torch
from model_rig import TEST_MODEL
from remeshed_body import remeshed

from core.avatar.rendering import render_avatar
from core.checkpoint import load_checkpoint, save_checkpoint
from core.model.body_transfer import EMBEDDING, OFFSETS, transfer_parameters
from core.model.hgg import HumanGaussianGraph
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def network(body) -> HumanGaussianGraph:
    """A network whose parameters per vertex are smooth over the surface and matter."""
    torch.manual_seed(0)
    network = HumanGaussianGraph(replace(TEST_MODEL, feedback=0), body)
    positions = body.v_template.repeat_interleave(network.options.graph.queries, 0)
    with torch.no_grad():
        network.graph.vertex_embedding.copy_(
            torch.sin(body.v_template @ torch.randn(3, network.graph.vertex_embedding.shape[-1]))[:, None]
        )
        network.head.offsets.copy_(0.3 * torch.sin(7 * positions))
    return network.eval()


@torch.no_grad()
def test_an_avatar_of_a_body_in_another_order_is_the_same(network, body, make_frames, tmp_path):
    """Up to the order of its Gaussians: the checkpoint is transferred when it is loaded for the other body."""
    other, order = remeshed(body)
    save_checkpoint(tmp_path / "network.safetensors", network)
    moved, metadata = load_checkpoint(tmp_path / "network.safetensors", other)
    assert moved.body is other and metadata["body"] == body.fingerprint
    inputs = make_frames(frames=1)
    avatar, expected = moved(inputs).avatar, network(inputs).avatar
    queries = network.options.graph.queries
    places = (queries * torch.from_numpy(order)[:, None] + torch.arange(queries)).flatten()
    assert avatar.body == other.fingerprint
    torch.testing.assert_close(avatar.offsets[0], expected.offsets[0, places], atol=1e-3, rtol=0)
    torch.testing.assert_close(avatar.colors[0], expected.colors[0, places], atol=1e-2, rtol=0)


@torch.no_grad()
def test_an_avatar_of_a_finer_mesh_looks_the_same(network, body, make_frames):
    """Better than 30 dB, and much better than without the transfer."""
    other, _ = remeshed(body, new_vertices=1000)
    moved = HumanGaussianGraph(network.options, other).eval()
    untransferred = {name: value for name, value in network.state_dict().items() if name not in (EMBEDDING, OFFSETS)}
    moved.load_state_dict(untransferred, strict=False)
    inputs = make_frames(frames=1, size=64)

    def difference() -> torch.Tensor:
        ours, theirs = (
            render_avatar(n(inputs).avatar, n.body, inputs.body, inputs.cameras).colors for n in (moved, network)
        )
        return -10 * torch.log10((ours - theirs).square().mean())

    without = difference()
    moved.load_state_dict(transfer_parameters(network.state_dict(), body, other))
    assert difference() > max(30.0, without + 3)


def test_the_same_body_changes_nothing(network, body):
    parameters = network.state_dict()
    assert transfer_parameters(parameters, body, copy.deepcopy(body)) is parameters


def test_the_body_of_the_training_is_needed_for_a_transfer(network, body, tmp_path):
    unknown = copy.deepcopy(network)
    unknown.body.fingerprint, unknown.body.name = "0123456789abcdef", "unknown"
    save_checkpoint(tmp_path / "network.safetensors", unknown)
    with pytest.raises(InputError, match=r"trained on the body unknown \(0123456789abcdef\), which is needed to tr"):
        load_checkpoint(tmp_path / "network.safetensors", body)
