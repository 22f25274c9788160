"""Depths of the posed body against a drawn mesh."""

import pytest
import torch
from model_rig import random_poses, ring_cameras

from core.model.depths import surface_depths
from core.types.cameras import Cameras
from smpl_renderer.mesh_rasterizer import rasterize_mesh


@pytest.fixture
def scene(body):
    """Two persons, three moments of each, four cameras."""
    vertices = body(random_poses(body, 2, 3, spread=0.2)).vertices
    cameras = ring_cameras(4, 64)
    return vertices, Cameras(cameras.viewmats.expand(2, 3, 4, 4, 4), cameras.Ks.expand(2, 3, 4, 3, 3), 64, 64)


def drawn(vertices, faces, cameras):
    """Depths of the mesh itself, and where there are any."""
    pixels, depths = cameras.project(vertices.expand(*cameras.batch_shape, -1, -1))
    face_ids, weights = rasterize_mesh(pixels, depths, faces, cameras.height, cameras.width)
    corners = faces[face_ids.clamp(min=0)]
    found = depths.gather(1, corners.flatten(1)).view_as(weights)
    return (found * weights).sum(-1), face_ids >= 0


def test_they_are_those_of_the_drawn_mesh(body, scene):
    vertices, cameras = scene
    actual = surface_depths(vertices, body.faces, cameras)
    assert actual.shape == (2, 3, 4, 64, 64)
    expected, covered = drawn(vertices[1, 2], body.faces, cameras[1, 2])
    errors = (actual[1, 2] - expected).abs()[covered]
    # A pixel is 3.7 cm wide: what differs lies on the borders of limbs.
    assert errors.median() < 0.01 and errors.quantile(0.9) < 0.05
    assert (errors > 0.15).float().mean() < 0.03  # one in thirty: the back is 0.2 m behind the front


def test_no_back_shows_through_where_pixels_are_finer_than_faces(body):
    vertices, cameras = body(random_poses(body, 1, 1, spread=0.2)).vertices[0, 0], ring_cameras(4, 128)
    actual = surface_depths(vertices, body.faces, cameras)
    expected, covered = drawn(vertices, body.faces, cameras)
    # On 3.6 % of the pixels, at borders; on 7.2 % if backs counted.
    assert ((actual - expected).abs()[covered] > 0.15).float().mean() < 0.05


def test_pixels_beside_the_body_lie_as_deep_as_the_nearest_of_it(body, scene):
    vertices, cameras = scene
    vertices = vertices + torch.tensor([0.0, 0.0, -1.0])  # no part of it is as deep as the origin, seen from the front
    depths = surface_depths(vertices, body.faces, cameras)[0, 0, 0]
    _, covered = drawn(vertices[0, 0], body.faces, cameras[0, 0])
    beside = torch.nn.functional.max_pool2d(covered[:1].float(), 19, 1, 9).bool()[0] & ~covered[0]
    of_body = cameras[0, 0].project(vertices[0, 0].expand(4, -1, -1))[1][0]
    assert beside.sum() > 100 and of_body.min() > 3
    assert (depths[beside] > of_body.min()).all() and (depths[beside] < of_body.max()).all()
    assert depths[0, 0] == cameras.viewmats[0, 0, 0, 2, 3]  # far from it: that of the origin


def test_what_is_behind_a_camera_or_out_of_the_picture_does_not_count(body):
    vertices = body(random_poses(body, 1)).vertices[0]
    cameras = ring_cameras(2, 16)
    aside = surface_depths(vertices + torch.tensor([0.0, 50.0, 0.0]), body.faces, cameras)
    behind = surface_depths(vertices + torch.tensor([0.0, 0.0, 5.0]), body.faces, cameras)[0]
    assert (aside == 2.6).all() and (behind == 2.6).all()
