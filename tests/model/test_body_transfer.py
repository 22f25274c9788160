"""Networks on bodies with another mesh than that of their training."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign_body import foreign_body
from model_rig import TEST_MODEL, random_poses
from remeshed_body import remeshed
from scipy.spatial import KDTree

from core.avatar.rendering import render_avatar
from core.checkpoint import load_checkpoint, save_checkpoint
from core.model.body_transfer import EMBEDDING, OFFSETS, BodyBridge, transfer_parameters
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


@pytest.mark.slow
@torch.no_grad()
def test_an_avatar_of_a_body_in_another_order_is_the_same(network, body, make_frames, tmp_path):
    """The checkpoint is loaded for the other body; Gaussians differ in the indices of their vertices only."""
    other, order = remeshed(body)
    save_checkpoint(tmp_path / "network.safetensors", network)
    moved, metadata = load_checkpoint(tmp_path / "network.safetensors", other)
    assert moved.output_body is other and metadata["body"] == moved.body.fingerprint == body.fingerprint
    inputs = make_frames(frames=1)
    avatar, expected = moved(inputs).avatar, network(inputs).avatar
    assert avatar.body == other.fingerprint
    assert torch.equal(torch.from_numpy(order)[avatar.vertex_ids], expected.vertex_ids)
    torch.testing.assert_close(avatar.offsets, expected.offsets, atol=1e-3, rtol=0)
    torch.testing.assert_close(avatar.colors, expected.colors, atol=1e-2, rtol=0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("pose", ["observed", "novel"])
def test_a_finer_mesh_hardly_changes_an_avatar(network, body, make_frames, pose):
    """With the mesh of the training, on which the Gaussians remain, far more vertices do no harm (50 dB)."""
    other, _ = remeshed(body, new_vertices=3000)
    moved = copy.deepcopy(network)
    moved.use_body(other)
    inputs = make_frames(frames=1, size=64)
    shown = inputs if pose == "observed" else make_frames(frames=1, size=64, seed=5)
    ours, theirs = (
        render_avatar(n(inputs).avatar, n.output_body, shown.body, shown.cameras).colors for n in (moved, network)
    )
    assert -10 * torch.log10((ours - theirs).square().mean()) > 50


@pytest.mark.slow
@torch.no_grad()
def test_the_proxy_has_the_joints_and_the_surface_of_the_other_body(body):
    other = foreign_body(body)
    proxy = BodyBridge(body, other).proxy
    assert torch.equal(proxy.faces, body.faces)
    params = random_poses(other, 3, spread=0.4)
    ours, theirs = proxy(params), other(params)
    torch.testing.assert_close(ours.joints, theirs.joints, atol=1e-5, rtol=0)
    distances = [KDTree(t.numpy()).query(o.numpy())[0] for o, t in zip(ours.vertices, theirs.vertices)]
    assert np.mean(distances) < 0.004  # edges of the other mesh are 20 mm long


def test_the_same_body_needs_no_bridge(network, body):
    moved = copy.deepcopy(network)
    moved.use_body(copy.deepcopy(body))
    assert moved.bridge is None and moved.output_body is moved.body


@pytest.mark.slow
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
