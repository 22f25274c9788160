"""Regions of the canonical body between which appearance is alike: parts of both sides, and hair, face and neck.

They are found from joints and skinning weights, so that they exist on any body with SMPL's joints.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from core.avatar.editing import PARTS, PLURALS
from smpl_renderer.body_model import JOINT_NAMES, BodyModel

REGIONS = ("torso", "arms", "hands", "legs", "feet", "hair", "face", "neck")
"""Regions by index. `hair` is the head above the hairline, `neck` its remainder without the face: ears, nape, neck."""
HANDS, HAIR, FACE, NECK = (REGIONS.index(name) for name in ("hands", "hair", "face", "neck"))

HAIRLINE = (
    *((0, 0.84), (35, 0.83), (58, 0.74), (72, 0.56), (84, 0.51), (96, 0.59)),
    *((112, 0.58), (126, 0.42), (140, 0.33), (180, 0.26)),
)
"""Usual hairline from forehead to nape: degrees from the front, and height as a share of the head's."""
FACE_ANGLE = 75.0
"""Half angle of the face, in degrees from the front."""
SKULL_DEPTH = 0.436
"""Position of the skull's vertical axis, as a share of the head's depth from the back; the nose is the front."""


@dataclass(frozen=True)
class BodyRegions:
    """Region of each vertex of the rest pose."""

    ids: Int[Tensor, " V"]
    """Index into `REGIONS`."""
    axes: Float[Tensor, "R 3"]
    """Unit direction along the limb of each region, for limbs on the body's left side; zero for regions of the head."""
    above_hairline: Float[Tensor, " V"]
    """Height above the hairline as a share of the head's height; of use on the head only."""

    @property
    def is_sided(self) -> Bool[Tensor, " R"]:
        """True for regions that are pairs of limbs."""
        return torch.tensor([name in PLURALS for name in REGIONS])


def find_regions(body: BodyModel) -> BodyRegions:
    """Divide the surface of a body's mean shape into regions (on the CPU)."""
    vertices = body.v_template.detach().float().cpu()
    joints = body.rest_joints(body.v_template).detach().float().cpu()
    strongest = body.lbs_weights.argmax(1).cpu()
    ids = torch.zeros(len(vertices), dtype=torch.long)
    axes = torch.zeros(len(REGIONS), 3)
    for index, name in enumerate(REGIONS[:HAIR]):
        if name == "torso":
            names, ends = (*PARTS["hips"], *PARTS["torso"]), ("pelvis", "spine3")
        else:
            left, right = (PARTS[f"{side}_{PLURALS[name]}"] for side in ("left", "right"))
            names, ends = (*left, *right), (left[0], left[-1])
        ids[_of_joints(strongest, names)] = index
        first, last = (joints[JOINT_NAMES.index(joint)] for joint in ends)
        axes[index] = normalize(last - first, dim=0)

    on_head = _of_joints(strongest, PARTS["head"])
    skull = vertices[_of_joints(strongest, ("head",))]
    low, high = skull.amin(0), skull.amax(0)
    heights = (vertices[:, 1] - low[1]) / (high - low)[1]
    depths = vertices[:, 2] - low[2] - SKULL_DEPTH * (high - low)[2]
    angles = torch.atan2((vertices[:, 0] - joints[JOINT_NAMES.index("head"), 0]).abs(), depths)
    above = heights - _hairline(angles)
    in_front = (angles < math.radians(FACE_ANGLE)) & (heights > -0.05)
    ids[on_head] = torch.where(above > 0, HAIR, torch.where(in_front, FACE, NECK))[on_head]
    return BodyRegions(ids, axes, above)


def _of_joints(strongest: Int[Tensor, " V"], names: tuple[str, ...]) -> Bool[Tensor, " V"]:
    return torch.isin(strongest, torch.tensor([JOINT_NAMES.index(name) for name in names]))


def _hairline(angles: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
    """Height of the hairline at angles from the front in radians, by linear interpolation."""
    at, heights = torch.tensor(HAIRLINE).T.contiguous()
    degrees = torch.rad2deg(angles).clamp(0, 180)
    right = torch.searchsorted(at, degrees).clamp(1, len(at) - 1)
    share = (degrees - at[right - 1]) / (at[right] - at[right - 1])
    return torch.lerp(heights[right - 1], heights[right], share)
