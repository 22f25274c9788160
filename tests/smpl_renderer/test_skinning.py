"""Linear blend skinning, its inverse, and the rotations of vertices."""

import dataclasses
import math

import pytest
import torch

from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.skinning import blend_transforms, transform_points, unpose_points, vertex_rotations
from smpl_renderer.types import BodyParams


@pytest.fixture
def posed(toy_body):
    generator = torch.Generator().manual_seed(0)
    params = BodyParams.zeros(3).to(torch.double)
    pose = torch.randn(3, 12, generator=generator, dtype=torch.double)
    params = dataclasses.replace(
        params, global_orient=pose[:, :3], body_pose=0.3 * pose[:, 3:], scale=0.5 + params.scale
    )
    return toy_body.double()(params)


def test_unposing_undoes_posing(posed):
    generator = torch.Generator().manual_seed(0)
    points = posed.shaped + 0.1 * torch.randn(posed.shaped.shape, generator=generator, dtype=torch.double)
    moved = transform_points(points, posed.vertex_transforms)
    torch.testing.assert_close(unpose_points(moved, posed.vertex_transforms), points)
    assert (moved - points).norm(dim=-1).min() > 0.1


def test_a_vertex_with_equal_weights_moves_halfway():
    """Between a joint at rest and one that is lifted by two."""
    lift = torch.eye(4)
    lift[1, 3] = 2
    points = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    weights = torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1.0]])
    moved = transform_points(points, blend_transforms(torch.stack([torch.eye(4), lift]), weights))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [1.0, 2, 0]]))


def test_weights_for_another_number_of_joints_are_refused():
    with pytest.raises(ValueError, match="J = 3"):
        blend_transforms(torch.eye(4).expand(3, 4, 4), torch.full((7, 4), 0.25))


def test_vertices_rotate_with_the_root_in_the_rest_pose(body):
    """The scale of the body makes no difference."""
    orient = torch.tensor([[0.4, -2.0, 1.0]])
    params = dataclasses.replace(BodyParams.zeros(1), global_orient=orient, scale=torch.tensor([1.7]))
    rotations = vertex_rotations(body(params).vertex_transforms)
    expected = axis_angle_to_matrix(orient)[:, None].expand_as(rotations)
    torch.testing.assert_close(rotations, expected, rtol=0, atol=1e-5)


def test_vertex_rotations_are_rotations_where_transforms_are_nearly_singular(body):
    """At a wrist that is twisted by three radians."""
    pose = torch.zeros(1, 23, 3)
    pose[0, 19, 0] = 3.0  # left wrist, about the arm
    transforms = body(dataclasses.replace(BodyParams.zeros(1), body_pose=pose.flatten(1))).vertex_transforms
    assert torch.linalg.det(transforms[..., :3, :3]).min() < 0.2
    rotations = vertex_rotations(transforms)
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations.mT @ rotations, identity, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(1, 6890), rtol=0, atol=1e-5)
    hand = body.lbs_weights[:, 20] > 0.999
    expected = axis_angle_to_matrix(torch.tensor([3.0, 0, 0])).expand(int(hand.sum()), 3, 3)
    torch.testing.assert_close(rotations[0, hand], expected, rtol=0, atol=1e-3)


def test_vertex_rotations_have_finite_gradients_at_rest(body):
    pose = torch.zeros(1, 69, requires_grad=True)
    rotations = vertex_rotations(body(dataclasses.replace(BodyParams.zeros(1), body_pose=pose)).vertex_transforms)
    generator = torch.Generator().manual_seed(0)
    (rotations * torch.randn(rotations.shape, generator=generator)).sum().backward()
    assert pose.grad.isfinite().all() and pose.grad.abs().min() > 0


def test_bending_the_elbow_points_the_forearm_forwards(body):
    """Conventions of axes and joints: the left elbow is bent by -90 degrees about y."""
    pose = torch.zeros(1, 23, 3)
    pose[0, 17, 1] = -math.pi / 2
    joints = body(dataclasses.replace(BodyParams.zeros(1), body_pose=pose.flatten(1))).joints[0]
    forearm = torch.nn.functional.normalize(joints[20] - joints[18], dim=0)
    assert forearm[2] > 0.99
