"""Rotations. Quaternions are (w, x, y, z); matrices act on column vectors, from the left; angles are in radians.

Thin wrappers of `roma`, whose quaternions are (x, y, z, w); they are converted in this file only.
"""

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.dispatch import can_use_kernels


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by |axis_angle| about its direction; differentiable everywhere, also at zero."""
    return roma.rotvec_to_rotmat(axis_angle)


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `axis_angle_to_matrix`, with angles in [0, pi]."""
    return roma.rotmat_to_rotvec(matrix)


def matrix_to_quat(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of a rotation, with w >= 0."""
    quat = _to_wxyz(roma.rotmat_to_unitquat(matrix))
    return torch.where(quat[..., :1] < 0, -quat, quat)


def quat_to_matrix(quat: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a quaternion of any length except zero."""
    return roma.unitquat_to_rotmat(_to_xyzw(torch.nn.functional.normalize(quat, dim=-1)))


def quat_multiply(left: Float[Tensor, "*batch 4"], right: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Rotation `right` followed by rotation `left`."""
    left, right = torch.broadcast_tensors(left, right)
    return _to_wxyz(roma.quat_product(_to_xyzw(left), _to_xyzw(right)))


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation nearest to a matrix in the Frobenius norm; never a reflection.

    Gradients are finite also where singular values coincide, unlike those of a plain SVD. Runs in Triton on CUDA, for
    float32 without gradients.
    """
    if can_use_kernels(constants=[matrix]):
        from smpl_renderer.rotations_kernel import nearest_rotation_fused  # needs Triton

        return nearest_rotation_fused(matrix)
    return roma.special_procrustes(matrix)


def _to_xyzw(quat: Tensor) -> Tensor:
    return quat.roll(-1, -1)


def _to_wxyz(quat: Tensor) -> Tensor:
    return quat.roll(1, -1)
