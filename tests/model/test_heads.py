"""Heads: placement of queries on the body's surface, decoding, and unposing."""

import pytest
import torch
from model_rig import random_poses

from core.avatar.avatar import Avatar, skin_gaussians
from core.model.decode import RAW_CHANNELS
from core.model.heads import OFFSET_RANGE, OFFSET_UNIT, decode_on_surface, decode_residual, unpose_gaussians
from core.model.surface import SINK, place_queries, surface_axes
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import quat_to_matrix


def test_surface_axes_are_rotations_with_the_outward_normal(body):
    axes, areas = surface_axes(body)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3).expand_as(axes), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(len(axes)), rtol=0, atol=1e-5)
    # The mesh is closed: by the divergence theorem, the normals give its volume (of a person: 0.05 to 0.12 m3).
    volume = (areas[:, None] * axes[..., 2] * body.v_template).sum() / 3
    assert 0.05 < volume < 0.12


@pytest.mark.parametrize("queries", [1, 4])
def test_queries_start_around_their_vertex_at_distances_that_match_their_size(body, queries):
    start = place_queries(body, queries)
    offsets = start.offsets.view(-1, queries, 3)
    normals = start.axes.view(-1, queries, 3, 3)[..., 2]
    torch.testing.assert_close(offsets.mean(1), -SINK * normals[:, 0], rtol=0, atol=1e-6)
    depths = -(normals * offsets).sum(-1)
    torch.testing.assert_close(depths, torch.full_like(depths, SINK), rtol=0, atol=1e-6)
    assert start.scales.max() <= 0.02 and start.scales.min() >= 0.001
    if queries > 1:
        gaps = torch.cdist(offsets, offsets) + torch.eye(queries)
        ratio = gaps.amin((1, 2)) / start.scales.view(-1, queries, 3)[:, 0, 0]
        assert 1 < ratio.median() < 3.5


def test_moves_are_along_the_surfaces_axes(body):
    start = place_queries(body, 1)
    raw = torch.zeros(1, body.num_vertices, RAW_CHANNELS)
    raw[..., 2] = 50.0  # the greatest move along the normal
    avatar = decode_on_surface(raw, start, vertex_ids=None, betas=None, body="")
    normals = surface_axes(body)[0][..., 2]
    torch.testing.assert_close(avatar.offsets[0], (OFFSET_RANGE - SINK) * normals)
    # The third axis of a Gaussian is the thin one, and it is the normal.
    torch.testing.assert_close(quat_to_matrix(avatar.quats[0])[..., 2], normals, rtol=0, atol=1e-5)
    assert (avatar.scales[..., 2] < avatar.scales[..., 0]).all()
    raw[..., 2] = 0.1
    avatar = decode_on_surface(raw, start, vertex_ids=None, betas=None, body="")
    torch.testing.assert_close(avatar.offsets[0], (0.1 * OFFSET_UNIT - SINK) * normals, rtol=0, atol=2e-5)


def random_gaussians(*shape: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(*shape, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(*shape, 4, generator=generator), dim=-1),
        scales=0.01 + 0.01 * torch.rand(*shape, 3, generator=generator),
        opacities=torch.rand(shape, generator=generator),
        colors=torch.rand(*shape, 3, generator=generator),
    )


def test_posing_undoes_unposing(body):
    params = random_poses(body, 2, 1, spread=0.3)
    posed = body.pose(params)
    chosen = torch.randint(0, body.num_vertices, (2, 50), generator=torch.Generator().manual_seed(0))
    gaussians = random_gaussians(2, 50)
    near = torch.take_along_dim(posed.vertices[:, 0], chosen[..., None], 1) + 0.02 * gaussians.means
    gaussians = Gaussians(**{**vars(gaussians), "means": near})
    avatar = unpose_gaussians(gaussians, chosen, posed[:, 0], betas=params.betas[:, 0], body=body.fingerprint)
    back = skin_gaussians(avatar, posed)[:, 0]
    # The surface of bent joints is compressed, so unposing magnifies float32's rounding.
    torch.testing.assert_close(back.means, near, rtol=0, atol=1e-4)
    torch.testing.assert_close(quat_to_matrix(back.quats), quat_to_matrix(gaussians.quats), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.scales, gaussians.scales)


def test_the_residual_of_raw_zeros_is_zero():
    gaussians = random_gaussians(1, 20)
    opacities = gaussians.opacities.masked_fill(torch.arange(20) < 5, 0.0)
    avatar = Avatar(
        offsets=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=opacities,
        colors=gaussians.colors,
        vertex_ids=torch.zeros(1, 20, dtype=torch.int64),
        betas=torch.zeros(1, 10),
        body="",
    )
    same = decode_residual(avatar, torch.zeros(1, 20, RAW_CHANNELS))
    for name in ("offsets", "quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(same, name), getattr(avatar, name), rtol=0, atol=1.1e-3)
    # Transparent Gaussians stay transparent for any raw channels.
    assert (decode_residual(avatar, torch.full((1, 20, RAW_CHANNELS), 5.0)).opacities[0, :5] == 0).all()
