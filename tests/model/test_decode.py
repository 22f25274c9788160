import pytest
import torch
from model_rig import random_poses, ring_cameras

from core.avatar.avatar import Avatar
from core.avatar.skinning import skin_gaussians
from core.model.decode import (
    DEPTH_RANGE,
    OFFSET_RANGE,
    OFFSET_UNIT,
    PIXEL_RANGE,
    RAW_CHANNELS,
    decode_on_surface,
    decode_pixels,
    refine,
)
from core.model.heads import unpose_gaussians
from core.model.surface import SINK, place_queries, surface_axes
from core.ops.nearest_vertices import nearest_vertices
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import quat_to_matrix

SIZE = 8


@pytest.fixture
def cameras():
    """Four cameras whose pelvis is in front of them, but not in the middle of the picture."""
    cameras = ring_cameras(4, SIZE)
    return cameras.cropped(torch.tensor([0.0, 1.0, -1.0, 0.5]), torch.tensor([0.0, 0.0, 2.0, 1.0]), SIZE, SIZE)


START = 2.5
"""Metres: the depth at which all pixels of these tests start."""


def decode(raw, cameras, foreground=None):
    colors = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    if foreground is None:
        foreground = torch.ones(4, SIZE, SIZE, dtype=torch.bool)
    return decode_pixels(raw, cameras, torch.full((4, SIZE, SIZE), START), colors, foreground), colors


def pixel_centres():
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def test_raw_zeros_lie_on_their_rays_where_they_start(cameras):
    gaussians, colors = decode(torch.zeros(4, RAW_CHANNELS, SIZE, SIZE), cameras)
    pixels, depths = cameras.project(gaussians.means)
    torch.testing.assert_close(pixels, pixel_centres().expand(4, -1, -1), rtol=0, atol=1e-4)
    torch.testing.assert_close(depths, torch.full_like(depths, START))
    # Starting colours are the input's, up to the clamp of the logit.
    torch.testing.assert_close(gaussians.colors, colors.flatten(2).mT, rtol=0, atol=1.1e-3)
    # A Gaussian fills about its pixel: at 2.5 m and a focal length of 1.1 * 8 pixels these are 0.284 m wide.
    torch.testing.assert_close(gaussians.scales, torch.full_like(gaussians.scales, 0.6 * START / 8.8))


def test_positions_are_depth_and_a_shift_within_a_pixel(cameras):
    raw = torch.zeros(4, RAW_CHANNELS, SIZE, SIZE)
    raw[:, 0], raw[:, 1], raw[:, 2] = 50.0, 50.0, -50.0
    gaussians, _ = decode(raw, cameras)
    pixels, depths = cameras.project(gaussians.means)
    torch.testing.assert_close(depths, torch.full_like(depths, START + DEPTH_RANGE))
    shift = torch.tensor([PIXEL_RANGE, -PIXEL_RANGE])
    torch.testing.assert_close(pixels, (pixel_centres() + shift).expand(4, -1, -1), rtol=0, atol=1e-4)


def test_outside_the_mask_nothing_shows(cameras):
    foreground = torch.rand(4, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.5
    gaussians, _ = decode(torch.zeros(4, RAW_CHANNELS, SIZE, SIZE), cameras, foreground)
    assert (gaussians.opacities[~foreground.flatten(1)] == 0).all()
    assert (gaussians.opacities[foreground.flatten(1)] > 0.8).all()


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_any_raw_numbers_give_valid_gaussians_and_gradients(cameras, size):
    raw = size * torch.randn(4, RAW_CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    raw.requires_grad_()
    gaussians, _ = decode(raw, cameras)
    assert_valid(gaussians)
    sum(x.square().sum() for x in vars(gaussians).values()).backward()
    assert raw.grad.isfinite().all()


def assert_valid(gaussians: Gaussians):
    for name, values in vars(gaussians).items():
        assert values.isfinite().all(), name
    torch.testing.assert_close(gaussians.quats.norm(dim=-1), torch.ones_like(gaussians.opacities))
    assert (gaussians.scales > 0).all()
    for values in (gaussians.opacities, gaussians.colors):
        assert ((values >= 0) & (values <= 1)).all()


def test_skin_axes_are_rotations_with_the_outward_normal(body):
    axes, areas = surface_axes(body)
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3).expand_as(axes), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(len(axes)), rtol=0, atol=1e-5)
    # The mesh is closed, so by the divergence theorem outward normals see its volume (a person: 0.05 to 0.12 m3).
    volume = (areas[:, None] * axes[..., 2] * body.v_template).sum() / 3
    assert 0.05 < volume < 0.12


@pytest.mark.parametrize("queries", [1, 4])
def test_queries_start_around_their_vertex_as_far_apart_as_they_are_large(body, queries):
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


def test_moves_on_the_skin_follow_its_axes(body):
    start = place_queries(body, 1)
    raw = torch.zeros(1, body.num_vertices, RAW_CHANNELS)
    raw[..., 2] = 50.0  # all the way along the normal
    avatar = decode_on_surface(raw, start, vertex_ids=None, betas=None, body="")
    normals = surface_axes(body)[0][..., 2]
    torch.testing.assert_close(avatar.offsets[0], (OFFSET_RANGE - SINK) * normals)
    # The thin axis of a Gaussian is its third, and that is the normal.
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
    # The skin of bent joints is squeezed, so un-posing it magnifies float32's rounding.
    torch.testing.assert_close(back.means, near, rtol=0, atol=1e-4)
    torch.testing.assert_close(quat_to_matrix(back.quats), quat_to_matrix(gaussians.quats), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.scales, gaussians.scales)


def test_refining_by_zeros_changes_nothing():
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
    same = refine(avatar, torch.zeros(1, 20, RAW_CHANNELS))
    for name in ("offsets", "quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(same, name), getattr(avatar, name), rtol=0, atol=1.1e-3)
    # What was outside the mask stays out, whatever the network says.
    assert (refine(avatar, torch.full((1, 20, RAW_CHANNELS), 5.0)).opacities[0, :5] == 0).all()


def test_nearest_vertices_by_brute_force(body):
    vertices = body.v_template
    points = vertices[::50] + 0.05 * torch.randn(len(vertices[::50]), 3, generator=torch.Generator().manual_seed(0))
    expected = (points[:, None] - vertices).square().sum(-1).argmin(1)
    assert (nearest_vertices(points, vertices) == expected).all()
    assert len(nearest_vertices(points[:0], vertices)) == 0
