"""Rays and projection are inverse to each other, also after resizing, and in any coordinate frame."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from core.types.cameras import Cameras, look_at

WIDTH, HEIGHT = 12, 8


@pytest.fixture
def cameras() -> Cameras:
    """Three cameras around the origin, of unequal focal lengths and off-centre principal points."""
    eye = torch.tensor([[2.0, 0.5, 1.0], [-1.0, 1.5, 2.0], [0.3, -0.2, -2.5]], dtype=torch.double)
    viewmats = look_at(eye, torch.zeros_like(eye), torch.tensor([0.0, 1.0, 0.0], dtype=torch.double))
    Ks = torch.tensor([[14.0, 0.0, 5.2], [0.0, 15.0, 4.5], [0.0, 0.0, 1.0]], dtype=torch.double)
    return Cameras(viewmats, Ks.expand(3, 3, 3), WIDTH, HEIGHT)


def pixel_centers(width: int, height: int) -> torch.Tensor:
    """[H * W, 2], row by row."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1).double()


@pytest.mark.parametrize(
    "change",
    [lambda c: c, lambda c: c.resized(5, 9)],
    ids=["unchanged", "resized"],
)
def test_rays_meet_their_pixels(cameras, change):
    cameras = change(cameras)
    origins, directions = cameras.rays()
    pixels, depths = cameras.project((origins + 1.7 * directions).flatten(1, 2))
    expected = pixel_centers(cameras.width, cameras.height).expand_as(pixels)
    torch.testing.assert_close(pixels, expected)
    torch.testing.assert_close(depths, torch.full_like(depths, 1.7))  # directions reach depth 1
    torch.testing.assert_close(origins[:, 0, 0], cameras.centers)


def test_resizing_scales_pixel_coordinates(cameras):
    points = torch.randn(3, 20, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * 0.3
    pixels, _ = cameras.project(points)
    factors = torch.tensor([2.5, 0.25], dtype=torch.double)
    torch.testing.assert_close(cameras.resized(30, 2).project(points)[0], pixels * factors)


def test_a_change_of_frame_changes_no_projection(cameras):
    T_world_frame = torch.eye(4, dtype=torch.double)
    T_world_frame[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0.3, -1.0, 0.4]).as_matrix())
    T_world_frame[:3, 3] = torch.tensor([0.2, -0.4, 1.0])
    in_frame = torch.randn(3, 20, 3, dtype=torch.double, generator=torch.Generator().manual_seed(1)) * 0.3
    in_world = in_frame @ T_world_frame[:3, :3].T + T_world_frame[:3, 3]
    for actual, expected in zip(cameras.in_frame(T_world_frame).project(in_frame), cameras.project(in_world)):
        torch.testing.assert_close(actual, expected)


def test_plucker_coordinates_do_not_depend_on_the_point_of_the_ray(cameras):
    moments, directions = cameras.plucker().movedim(1, -1).split(3, -1)
    origins, along = cameras.rays()
    torch.testing.assert_close(directions, torch.nn.functional.normalize(along, dim=-1))
    for distance in (0.0, 2.3):  # any point of the ray has the same moment
        torch.testing.assert_close(moments, torch.linalg.cross(origins + distance * directions, directions))


def test_look_at_centres_the_target_and_keeps_up(cameras):
    pixels, depths = cameras.project(torch.zeros(3, 1, 3, dtype=torch.double))
    torch.testing.assert_close(pixels[:, 0], cameras.Ks[:, :2, 2])
    torch.testing.assert_close(depths[:, 0], cameras.centers.norm(dim=-1))
    above, _ = cameras.project(torch.tensor([0.0, 0.1, 0.0], dtype=torch.double).expand(3, 1, 3))
    assert (above[:, 0, 1] < pixels[:, 0, 1]).all()  # up in the world is up in the image
    torch.testing.assert_close(torch.linalg.det(cameras.viewmats), torch.ones(3, dtype=torch.double))
