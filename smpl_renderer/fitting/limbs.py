"""Arms and legs as chains of two bones: joint rotations from bone directions, in closed form."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.rotations import axis_angle_to_matrix

BLEND = 0.3
"""Weight of the untwisted hinge axis against that of the bend, as the sine of the bend at which both count alike."""


@dataclass(frozen=True)
class Limb:
    """Joints of one arm or leg, and the axis about which its middle joint bends, in the rest pose."""

    name: str
    parent: int
    first: int
    middle: int
    last: int
    hinge: tuple[float, float, float]


def _limb(side: str, parent: str, first: str, middle: str, last: str, hinge: tuple[float, float, float]) -> Limb:
    joints = [JOINT_NAMES.index(name) for name in (parent, f"{side}_{first}", f"{side}_{middle}", f"{side}_{last}")]
    return Limb(f"{side} {'arm' if middle == 'elbow' else 'leg'}", *joints, hinge)


LIMBS = (
    _limb("left", "left_collar", "shoulder", "elbow", "wrist", (0.0, -1.0, 0.0)),
    _limb("right", "right_collar", "shoulder", "elbow", "wrist", (0.0, 1.0, 0.0)),
    _limb("left", "pelvis", "hip", "knee", "ankle", (1.0, 0.0, 0.0)),
    _limb("right", "pelvis", "hip", "knee", "ankle", (1.0, 0.0, 0.0)),
)


def two_bone_rotations(
    limb: Limb,
    rest_joints: Float[Tensor, "J 3"],
    parent: Float[Tensor, "F 3 3"],
    upper: Float[Tensor, "F 3"],
    lower: Float[Tensor, "F 3"],
) -> tuple[Float[Tensor, "F 3 3"], Float[Tensor, "F 3 3"]]:
    """Local rotations of a limb's first and middle joint that point its bones in given directions.

    The middle joint only bends, and never backwards. Where the bend does not determine the twist of the first bone, the
    twist is small.

    Args:
        limb: The arm or leg.
        rest_joints: Joints of the rest pose.
        parent: World rotation of the joint above the first.
        upper, lower: World directions of the two bones.
    """
    upper, lower = normalize(upper, dim=-1), normalize(lower, dim=-1)
    rest_upper = normalize(rest_joints[limb.middle] - rest_joints[limb.first], dim=-1)
    hinge = upper.new_tensor(limb.hinge)
    hinge = normalize(hinge - (hinge @ rest_upper) * rest_upper, dim=-1)
    swing = shortest_rotation((parent @ rest_upper[:, None])[..., 0], upper) @ parent
    untwisted = (swing @ hinge[:, None])[..., 0]
    bend = torch.linalg.cross(upper, lower)
    axis = normalize(bend + BLEND * untwisted, dim=-1)
    axis = normalize(axis - (axis * upper).sum(-1, keepdim=True) * upper, dim=-1)
    world = torch.stack([upper, axis, torch.linalg.cross(upper, axis)], -1)
    rest = torch.stack([rest_upper, hinge, torch.linalg.cross(rest_upper, hinge)], -1)
    orientation = world @ rest.T
    # The bend about that axis; negative values would bend backwards.
    sine, cosine = (bend * axis).sum(-1), (upper * lower).sum(-1)
    angle = torch.atan2(sine, cosine).clamp_min(0.05)
    return parent.mT @ orientation, axis_angle_to_matrix(angle[:, None] * hinge)


def shortest_rotation(start: Float[Tensor, "F 3"], end: Float[Tensor, "F 3"]) -> Float[Tensor, "F 3 3"]:
    """The rotation by the smallest angle that turns one unit vector into another."""
    axis = torch.linalg.cross(start, end)
    sine, cosine = axis.norm(dim=-1), (start * end).sum(-1)
    # Opposite vectors leave the axis open: any one across them.
    spare = torch.eye(3).to(start)[start.abs().argmin(-1)]
    spare = normalize(torch.linalg.cross(start, spare), dim=-1)
    direction = torch.where((sine > 1e-6)[:, None], axis / sine.clamp_min(1e-6)[:, None], spare)
    return axis_angle_to_matrix(torch.atan2(sine, cosine)[:, None] * direction)
