"""Frame Gaussians: their decoding from splat maps, and the depths at which they start, against a rasterized mesh."""

import pytest
import torch
from model_rig import random_poses, ring_cameras
from render_scenes import crop_cameras

from core.model.decode import RAW_CHANNELS
from core.model.frame_gaussians import DEPTH_RANGE, PIXEL_RANGE, decode_pixels, surface_depths
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from smpl_renderer.mesh_rasterizer import rasterize_mesh

SIZE = 8
START = 2.5
"""Initial depth of all pixels in the tests of the decoder, in metres."""


@pytest.fixture
def cameras():
    """Four cameras in front of the pelvis, which is not in the middle of their images."""
    cameras = ring_cameras(4, SIZE)
    return crop_cameras(cameras, torch.tensor([0.0, 1.0, -1.0, 0.5]), torch.tensor([0.0, 0.0, 2.0, 1.0]), SIZE, SIZE)


def decode(raw, cameras, foreground=None):
    colors = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    if foreground is None:
        foreground = torch.ones(4, SIZE, SIZE, dtype=torch.bool)
    return decode_pixels(raw, cameras, torch.full((4, SIZE, SIZE), START), colors, foreground), colors


def pixel_centres():
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def test_gaussians_of_raw_zeros_lie_on_their_rays_at_the_initial_depth(cameras):
    gaussians, colors = decode(torch.zeros(4, RAW_CHANNELS, SIZE, SIZE), cameras)
    pixels, depths = cameras.project(gaussians.means)
    torch.testing.assert_close(pixels, pixel_centres().expand(4, -1, -1), rtol=0, atol=1e-4)
    torch.testing.assert_close(depths, torch.full_like(depths, START))
    # Initial colours are those of the input, up to the clamp of the logit.
    torch.testing.assert_close(gaussians.colors, colors.flatten(2).mT, rtol=0, atol=1.1e-3)
    # A Gaussian fills about its pixel, which is 0.284 m wide at 2.5 m and a focal length of 1.1 * 8 pixels.
    torch.testing.assert_close(gaussians.scales, torch.full_like(gaussians.scales, 0.6 * START / 8.8))


def test_positions_are_a_depth_and_a_shift_of_at_most_one_pixel(cameras):
    raw = torch.zeros(4, RAW_CHANNELS, SIZE, SIZE)
    raw[:, 0], raw[:, 1], raw[:, 2] = 50.0, 50.0, -50.0
    gaussians, _ = decode(raw, cameras)
    pixels, depths = cameras.project(gaussians.means)
    torch.testing.assert_close(depths, torch.full_like(depths, START + DEPTH_RANGE))
    shift = torch.tensor([PIXEL_RANGE, -PIXEL_RANGE])
    torch.testing.assert_close(pixels, (pixel_centres() + shift).expand(4, -1, -1), rtol=0, atol=1e-4)


def test_gaussians_outside_of_the_mask_are_transparent(cameras):
    foreground = torch.rand(4, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.5
    gaussians, _ = decode(torch.zeros(4, RAW_CHANNELS, SIZE, SIZE), cameras, foreground)
    assert (gaussians.opacities[~foreground.flatten(1)] == 0).all()
    assert (gaussians.opacities[foreground.flatten(1)] > 0.8).all()


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_any_raw_channels_give_valid_gaussians_and_gradients(cameras, size):
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


@pytest.fixture
def scene(body):
    """Two subjects in three frames each, and four cameras."""
    vertices = body(random_poses(body, 2, 3, spread=0.2)).vertices
    cameras = ring_cameras(4, 64)
    return vertices, Cameras(cameras.viewmats.expand(2, 3, 4, 4, 4), cameras.Ks.expand(2, 3, 4, 3, 3), 64, 64)


def rasterized_depths(vertices, faces, cameras):
    """Depths of the rasterized mesh, and the pixels that it covers."""
    pixels, depths = cameras.project(vertices.expand(*cameras.batch_shape, -1, -1))
    face_ids, weights = rasterize_mesh(pixels, depths, faces, cameras.height, cameras.width)
    corners = faces[face_ids.clamp(min=0)]
    found = depths.gather(1, corners.flatten(1)).view_as(weights)
    return (found * weights).sum(-1), face_ids >= 0


def test_surface_depths_equal_those_of_the_rasterized_mesh(body, scene):
    vertices, cameras = scene
    actual = surface_depths(vertices, body.faces, cameras)
    assert actual.shape == (2, 3, 4, 64, 64)
    expected, covered = rasterized_depths(vertices[1, 2], body.faces, cameras[1, 2])
    errors = (actual[1, 2] - expected).abs()[covered]
    # A pixel is 3.7 cm wide. Depths differ at the borders of limbs.
    assert errors.median() < 0.01 and errors.quantile(0.9) < 0.05
    assert (errors > 0.15).float().mean() < 0.03  # the back is 0.2 m behind the front


def test_back_faces_do_not_show_through_where_pixels_are_finer_than_faces(body):
    vertices, cameras = body(random_poses(body, 1, 1, spread=0.2)).vertices[0, 0], ring_cameras(4, 128)
    actual = surface_depths(vertices, body.faces, cameras)
    expected, covered = rasterized_depths(vertices, body.faces, cameras)
    # 3.6 % of the pixels, at borders; 7.2 % if back faces counted.
    assert ((actual - expected).abs()[covered] > 0.15).float().mean() < 0.05


def test_pixels_beside_the_body_take_depths_of_the_body(body, scene):
    vertices, cameras = scene
    vertices = vertices + torch.tensor(
        [0.0, 0.0, -1.0]
    )  # seen from the front, all of the body is deeper than the origin
    depths = surface_depths(vertices, body.faces, cameras)[0, 0, 0]
    _, covered = rasterized_depths(vertices[0, 0], body.faces, cameras[0, 0])
    beside = torch.nn.functional.max_pool2d(covered[:1].float(), 19, 1, 9).bool()[0] & ~covered[0]
    body_depths = cameras[0, 0].project(vertices[0, 0].expand(4, -1, -1))[1][0]
    assert beside.sum() > 100 and body_depths.min() > 3
    assert (depths[beside] > body_depths.min()).all() and (depths[beside] < body_depths.max()).all()
    assert depths[0, 0] == cameras.viewmats[0, 0, 0, 2, 3]  # far from the body: the depth of the origin


def test_faces_behind_a_camera_or_outside_of_the_image_are_ignored(body):
    vertices = body(random_poses(body, 1)).vertices[0]
    cameras = ring_cameras(2, 16)
    aside = surface_depths(vertices + torch.tensor([0.0, 50.0, 0.0]), body.faces, cameras)
    behind = surface_depths(vertices + torch.tensor([0.0, 0.0, 5.0]), body.faces, cameras)[0]
    assert (aside == 2.6).all() and (behind == 2.6).all()
