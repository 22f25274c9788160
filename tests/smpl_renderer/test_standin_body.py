"""Properties of the shipped stand-in body."""

import numpy as np
import torch
import trimesh

from smpl_renderer.body_files import STANDIN_BODY
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS


def test_fingerprint_is_that_of_shipped_checkpoints_and_captures(body):
    """It must not depend on the machine, and a different body would invalidate them."""
    assert body.fingerprint == "303f27d60a442f98"


def test_has_the_format_of_smpl(body):
    assert STANDIN_BODY.stat().st_size < 3e6
    assert body.v_template.shape == (6890, 3)
    assert body.faces.shape == (13776, 3)
    assert body.shapedirs.shape == (6890, 3, 10)
    assert body.posedirs.shape == (6890, 3, 207)
    assert body.parents == SMPL_PARENTS


def test_is_one_closed_surface(body):
    mesh = trimesh.Trimesh(body.v_template.numpy(), body.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2 and mesh.body_count == 1
    assert 0.04 < mesh.volume < 0.1  # cubic metres; negative for faces that point inwards


def test_weights_and_regressor_are_averages(body):
    for rows in (body.lbs_weights, body.J_regressor):
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
    assert (body.lbs_weights > 0).sum(1).max() <= 4


def test_is_mirror_symmetric(body):
    vertices = body.v_template.numpy()
    with np.load(STANDIN_BODY) as asset:
        mirror = asset["mirror"]
    np.testing.assert_allclose(vertices[mirror] * [-1, 1, 1], vertices, atol=1e-6)


def test_stands_in_a_t_pose(body):
    height = body.v_template[:, 1].max() - body.v_template[:, 1].min()
    assert 1.6 < height < 1.8
    joints = dict(zip(JOINT_NAMES, body.rest_joints(body.v_template), strict=True))
    assert joints["head"][1] > joints["neck"][1] > joints["pelvis"][1] > joints["left_knee"][1]  # y up
    assert joints["left_wrist"][0] > 0.5 and joints["right_wrist"][0] < -0.5  # left is +x
    assert joints["left_foot"][2] > joints["left_ankle"][2] + 0.05  # facing +z
    wrist, shoulder = joints["left_wrist"], joints["left_shoulder"]
    assert (wrist - shoulder)[1].abs() < 0.05


def test_joints_lie_inside(body):
    mesh = trimesh.Trimesh(body.v_template.numpy(), body.faces.numpy(), process=False)
    joints = body.rest_joints(body.v_template).numpy().astype(np.float64)
    # The winding number, the solid angle of the surface over 4 pi: 1 inside, 0 outside.
    corners = mesh.triangles[None] - joints[:, None, None]
    a, b, c = np.moveaxis(corners, 2, 0)
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    scale = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    winding_numbers = 2 * np.arctan2(volume, scale).sum(1) / (4 * np.pi)
    np.testing.assert_allclose(winding_numbers, 1, atol=1e-6)
