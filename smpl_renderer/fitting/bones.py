"""Bone directions that world landmarks of a single-image network contain, and how far they can be trusted.

The statistics are MediaPipe's, measured on images of 52 synthetic people whose bodies are known.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class _Bone:
    """Errors of a bone's direction in degrees; the bias of its elevation (towards +z, away from the camera)."""

    ends: tuple[str, str]
    lateral: float
    depth: float
    bias: float = 0.0


_BONES = (
    _Bone(("left_shoulder", "right_shoulder"), 7, 8),
    _Bone(("left_hip", "right_hip"), 9, 10),
    _Bone(("left_ear", "right_ear"), 8, 10),
    _Bone(("left_ear", "nose"), 11, 14),
    _Bone(("right_ear", "nose"), 11, 14),
)
_SIDED_BONES = (
    _Bone(("shoulder", "hip"), 4, 7, -5),
    _Bone(("shoulder", "elbow"), 6, 15, -4),
    _Bone(("elbow", "wrist"), 7, 24),
    _Bone(("wrist", "index"), 15, 25, -13),
    _Bone(("wrist", "pinky"), 13, 22, -10),
    _Bone(("hip", "knee"), 6, 10, -4),
    _Bone(("knee", "ankle"), 6, 9, 3),
    _Bone(("heel", "big_toe"), 18, 40, -20),
)
HIDDEN_FACTOR = 2.0
"""Errors of bones with an end that is not visible are larger by this factor."""


@dataclass(frozen=True)
class BoneTargets(TensorStructure):
    """Directions of B bones in each camera's axes."""

    starts: Int[Tensor, " B"]
    ends: Int[Tensor, " B"]
    """Landmark indices."""
    directions: Float[Tensor, "F C B 3"]
    whitening: Float[Tensor, "F C B 3 3"]
    """Takes differences of unit vectors to standard deviations: along elevation, across it, and along the bone."""
    weights: Float[Tensor, "F C B"]


def bone_targets(
    names: tuple[str, ...], world_landmarks: Float[Tensor, "F C L 3"], visibility: Float[Tensor, "F C L"]
) -> BoneTargets:
    """Directions and precisions of all bones whose ends are among the landmarks."""
    bones = list(_BONES)
    for side in ("left", "right"):
        for bone in _SIDED_BONES:
            ends = (f"{side}_{bone.ends[0]}", f"{side}_{bone.ends[1]}")
            bones.append(_Bone(ends, bone.lateral, bone.depth, bone.bias))
    bones = [bone for bone in bones if set(bone.ends) <= set(names)]
    device = world_landmarks.device
    starts, ends = torch.tensor([[names.index(end) for end in bone.ends] for bone in bones], device=device).T
    directions = normalize(world_landmarks[..., ends, :] - world_landmarks[..., starts, :], dim=-1)
    bias = torch.tensor([math.radians(bone.bias) for bone in bones], device=device)
    directions = _raise_elevation(directions, -bias)
    sigmas = torch.tensor([[b.depth, b.lateral, b.depth] for b in bones], device=device, dtype=directions.dtype)
    seen = torch.minimum(visibility[..., starts], visibility[..., ends])
    factor = HIDDEN_FACTOR + (1 - HIDDEN_FACTOR) * seen
    known = visibility > 0
    known &= world_landmarks.isfinite().all(-1) & (world_landmarks.abs().sum(-1) > 0)
    present = known[..., starts] & known[..., ends]
    directions = torch.where(present[..., None], directions, directions.new_tensor([1.0, 0.0, 0.0]))
    whitening = _elevation_frames(directions) / (torch.deg2rad(sigmas) * factor[..., None])[..., None]
    return BoneTargets(starts, ends, directions, whitening, present.to(directions))


def _elevation_frames(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rows: the direction of growing elevation, the one across it, and the unit vector itself."""
    depth = torch.zeros_like(directions)
    depth[..., 2] = 1
    across = normalize(torch.linalg.cross(directions, depth), dim=-1)
    return torch.stack([torch.linalg.cross(across, directions), across, directions], -2)


def _raise_elevation(directions: Float[Tensor, "*batch 3"], angles: Float[Tensor, "*batch"]) -> Tensor:
    """Turn unit vectors towards +z by an angle, in the plane that holds them and the z axis, but not past it."""
    elevation = torch.asin(directions[..., 2].clamp(-1, 1))
    raised = (elevation + angles).clamp(-math.pi / 2, math.pi / 2)
    lateral = normalize(directions[..., :2], dim=-1) * raised.cos()[..., None]
    return torch.cat([lateral, raised.sin()[..., None]], -1)
