"""Rotations. Quaternions are (w, x, y, z); matrices act on column vectors, from the left; angles are in radians.

Thin wrappers over `roma`, whose quaternions are (x, y, z, w): that order goes no further than this file.
"""

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer import dispatch as kernels


def axis_angle_to_matrix(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation by |axis_angle| about its direction; differentiable everywhere, at zero too."""
    return roma.rotvec_to_rotmat(axis_angle)


def matrix_to_axis_angle(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Inverse of `axis_angle_to_matrix`, with angles in [0, pi]."""
    return roma.rotmat_to_rotvec(matrix)


def matrix_to_quat(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion of a rotation; of the two with opposite signs, the one with w >= 0."""
    quat = _to_wxyz(roma.rotmat_to_unitquat(matrix))
    return torch.where(quat[..., :1] < 0, -quat, quat)


def quat_to_matrix(quat: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation of a quaternion of any length but zero."""
    return roma.unitquat_to_rotmat(_to_xyzw(torch.nn.functional.normalize(quat, dim=-1)))


def quat_multiply(left: Float[Tensor, "*batch 4"], right: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """The rotation `right` followed by `left`."""
    left, right = torch.broadcast_tensors(left, right)
    return _to_wxyz(roma.quat_product(_to_xyzw(left), _to_xyzw(right)))


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation nearest to a matrix in Frobenius norm, never a reflection.

    Its gradients are finite even where singular values coincide, which is where those of a plain SVD are NaN. Where
    none is asked for, float32 on CUDA runs in Triton.
    """
    if kernels.takes(matrix):
        from smpl_renderer.dispatch import rotation  # needs Triton

        return rotation.nearest_rotation(matrix)
    return roma.special_procrustes(matrix)


def _to_xyzw(quat: Tensor) -> Tensor:
    return quat.roll(-1, -1)


def _to_wxyz(quat: Tensor) -> Tensor:
    return quat.roll(1, -1)
