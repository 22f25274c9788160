"""Rotations: conventions, round trips, and gradients at degenerate inputs."""

import math

import numpy as np
import pytest
import torch

from smpl_renderer import rotations_numpy
from smpl_renderer.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_quat,
    nearest_rotation,
    quat_multiply,
    quat_to_matrix,
)
from smpl_renderer.rotations_numpy import rotation_between

HALF = math.sqrt(0.5)


def random_rotations(*batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return quat_to_matrix(torch.randn(*batch, 4, generator=generator, dtype=torch.double))


def test_conventions():
    """A quarter turn about z takes x to y, and its quaternion starts with w."""
    quarter = torch.tensor([0.0, 0.0, math.pi / 2])
    matrix = axis_angle_to_matrix(quarter)
    torch.testing.assert_close(matrix @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(matrix_to_quat(matrix), torch.tensor([HALF, 0, 0, HALF]))
    torch.testing.assert_close(quat_to_matrix(3 * torch.tensor([HALF, 0, 0, HALF])), matrix)
    torch.testing.assert_close(matrix_to_axis_angle(matrix), quarter)


def test_round_trips():
    matrices = random_rotations(4, 50)
    torch.testing.assert_close(quat_to_matrix(matrix_to_quat(matrices)), matrices)
    torch.testing.assert_close(axis_angle_to_matrix(matrix_to_axis_angle(matrices)), matrices)
    assert (matrix_to_quat(matrices)[..., 0] >= 0).all()


def test_quat_multiply_applies_the_right_one_first():
    left, right = random_rotations(30, seed=1), random_rotations(30, seed=2)
    product = quat_multiply(matrix_to_quat(left), matrix_to_quat(right))
    torch.testing.assert_close(quat_to_matrix(product), left @ right)


def test_quat_multiply_broadcasts():
    left, right = random_rotations(3, 1, seed=1), random_rotations(5, seed=2)
    product = quat_multiply(matrix_to_quat(left), matrix_to_quat(right))
    torch.testing.assert_close(quat_to_matrix(product), left @ right)


def test_nearest_rotation_is_nearer_than_any_other():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(40, 1, 3, 3, generator=generator, dtype=torch.double)
    nearest = nearest_rotation(matrices)
    torch.testing.assert_close(torch.linalg.det(nearest), torch.ones_like(nearest[..., 0, 0]))
    small = axis_angle_to_matrix(0.01 * torch.randn(40, 100, 3, generator=generator, dtype=torch.double))
    for others in (random_rotations(40, 200), small @ nearest):
        distance, other = ((x - matrices).flatten(-2).norm(dim=-1) for x in (nearest, others))
        assert (distance <= other).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_rotation_has_gradients_where_singular_values_coincide(dtype):
    matrices = torch.stack([torch.eye(3), 2 * torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, 0.01]))]).to(dtype)
    matrices.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    (nearest_rotation(matrices) * torch.randn(3, 3, 3, generator=generator, dtype=dtype)).sum().backward()
    assert matrices.grad.isfinite().all()
    assert (matrices.grad.flatten(1).abs().amax(1) > 0).all()


def test_nearest_rotation_gradcheck():
    generator = torch.Generator().manual_seed(3)
    matrices = torch.eye(3, dtype=torch.double) + 0.3 * torch.randn(5, 3, 3, generator=generator, dtype=torch.double)
    assert torch.autograd.gradcheck(nearest_rotation, matrices.requires_grad_())


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1.0, math.pi - 1e-3, math.pi])
def test_rotation_between_directions_turns_by_the_angle_between_them(angle):
    axis = np.array([0.6, -0.48, 0.64])
    a = 3 * np.array([0.8, 0.36, -0.48])  # at right angles to the axis; lengths do not matter
    b = axis_angle_to_matrix(torch.tensor(angle * axis)).numpy() @ a / 7
    R = rotation_between(a, b)
    np.testing.assert_allclose(R @ a, 7 * b, atol=1e-9)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(R) == pytest.approx(1)
    assert np.trace(R) == pytest.approx(1 + 2 * math.cos(angle), abs=1e-9)


def test_nearest_rotations_of_arrays_are_those_of_tensors_also_for_reflections():
    matrices = np.random.default_rng(0).normal(size=(50, 3, 3))
    assert (np.linalg.det(matrices) < 0).any()
    expected = nearest_rotation(torch.from_numpy(matrices)).numpy()
    np.testing.assert_allclose(rotations_numpy.nearest_rotation(matrices), expected, atol=1e-9)
