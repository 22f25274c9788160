"""Linear blend skinning and its inverse. Matrices act on column vectors; lengths are in metres."""

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.rotations import nearest_rotation

TINY = 1e-12
"""Matrices with a determinant of smaller magnitude count as singular."""


def blend_transforms(
    transforms: Float[Tensor, "*batch J 4 4"], lbs_weights: Float[Tensor, "V J"]
) -> Float[Tensor, "*batch V 4 4"]:
    """Blend the transforms of the joints for each vertex.

    Args:
        transforms: Rest-to-posed affine matrix of each joint.
        lbs_weights: Influence of each joint on each vertex; rows sum to one.
    Raises:
        ValueError: If `lbs_weights` is not sized for these joints.
    Source: Loper et al., SMPL (2015), Sec. 3.
    """
    if lbs_weights.ndim != 2 or lbs_weights.shape[1] != transforms.shape[-3]:
        raise ValueError(f"lbs_weights must be [V, J] with J = {transforms.shape[-3]}, got {tuple(lbs_weights.shape)}")
    return (lbs_weights @ transforms.flatten(-2)).unflatten(-1, (4, 4))


def transform_points(
    points: Float[Tensor, "*batch N 3"], transforms: Float[Tensor, "*batch N 4 4"]
) -> Float[Tensor, "*batch N 3"]:
    """Apply one affine matrix to each point."""
    # Elementwise: a batched matrix product of thousands of 3 x 3 matrices is slower.
    return (transforms[..., :3, :3] * points[..., None, :]).sum(-1) + transforms[..., :3, 3]


def unpose_points(
    points: Float[Tensor, "*batch N 3"], transforms: Float[Tensor, "*batch N 4 4"]
) -> Float[Tensor, "*batch N 3"]:
    """Invert `transform_points`; finite where a transform is singular."""
    moved = points - transforms[..., :3, 3]
    # Cramer's rule: `torch.linalg.solve` waits for the device to check for errors.
    x, y, z = transforms[..., :3, :3].unbind(-1)
    rows = torch.stack([torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)], -2)
    determinants = (rows[..., 0, :] * x).sum(-1, keepdim=True)
    safe = torch.where(determinants.abs() < TINY, TINY, determinants)
    return (rows * moved[..., None, :]).sum(-1) / safe


def vertex_rotations(vertex_transforms: Float[Tensor, "*batch V 4 4"]) -> Float[Tensor, "*batch V 3 3"]:
    """Rotation nearest to the linear part of each vertex's transform; its transpose undoes it.

    It rotates what is attached to a vertex. The blended matrix itself is no similarity and would deform it: at a
    twisted wrist, blended matrices are nearly singular.
    """
    return nearest_rotation(vertex_transforms[..., :3, :3])
