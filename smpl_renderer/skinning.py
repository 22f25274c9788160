"""Linear blend skinning, and what goes along with the skin. Matrices act on column vectors; lengths are in metres."""

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.rotations import nearest_rotation

TINY = 1e-12
"""Determinants nearer to zero than this are singular."""


def blend_transforms(
    transforms: Float[Tensor, "*batch J 4 4"], lbs_weights: Float[Tensor, "V J"]
) -> Float[Tensor, "*batch V 4 4"]:
    """Mix the joints' transforms for every vertex.

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
    """Apply an affine matrix of its own to every point."""
    # A product and a sum: thousands of 3 x 3 matrices are slower as a batched matrix product.
    return (transforms[..., :3, :3] * points[..., None, :]).sum(-1) + transforms[..., :3, 3]


def unpose_points(
    points: Float[Tensor, "*batch N 3"], transforms: Float[Tensor, "*batch N 4 4"]
) -> Float[Tensor, "*batch N 3"]:
    """Undo `transform_points`; finite where a transform is singular."""
    moved = points - transforms[..., :3, 3]
    # Cramer's rule: `torch.linalg.solve` waits for the device to ask whether it worked.
    x, y, z = transforms[..., :3, :3].unbind(-1)
    rows = torch.stack([torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)], -2)
    determinants = (rows[..., 0, :] * x).sum(-1, keepdim=True)
    safe = torch.where(determinants.abs() < TINY, TINY, determinants)
    return (rows * moved[..., None, :]).sum(-1) / safe


def skin_points(
    points: Float[Tensor, "*batch V 3"],
    transforms: Float[Tensor, "*batch J 4 4"],
    lbs_weights: Float[Tensor, "V J"],
) -> Float[Tensor, "*batch V 3"]:
    """Carry rest-pose points to the posed body.

    Args:
        points: Rest-pose positions, one for each row of `lbs_weights`.
        transforms: Rest-to-posed affine matrix of each joint.
        lbs_weights: Influence of each joint on each point; rows sum to one.
    """
    if lbs_weights.shape[0] != points.shape[-2]:
        raise ValueError(f"lbs_weights must be [V, J] with V = {points.shape[-2]}, got {tuple(lbs_weights.shape)}")
    return transform_points(points, blend_transforms(transforms, lbs_weights))


def vertex_rotations(vertex_transforms: Float[Tensor, "*batch V 4 4"]) -> Float[Tensor, "*batch V 3 3"]:
    """How things on the skin turn: the rotation nearest to each vertex's transform.

    Blended matrices are no similarities (the skin of a twisted wrist collapses), so nothing but a rotation should turn
    what lies on them. To un-pose, turn by the transpose.
    """
    return nearest_rotation(vertex_transforms[..., :3, :3])
