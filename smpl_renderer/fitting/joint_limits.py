"""Ranges of the joint angles of a body with SMPL's joints, and the penalty for leaving them.

A joint's angles are the components of its rotation vector, in the axes of the rest pose (y up, facing +z, left is +x):
x bends forwards and backwards, y turns, z tilts. Knees bend about +x, the left elbow about -y, the right one about +y.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES

# Degrees: (lowest, highest) about x, y, z; of the left side for joints in pairs. Wider than what is comfortable.
_RANGES = {
    "hip": ((-125, 50), (-50, 60), (-35, 80)),
    "knee": ((-5, 150), (-15, 15), (-10, 10)),
    "ankle": ((-45, 60), (-35, 35), (-30, 30)),
    "foot": ((-45, 30), (-10, 10), (-10, 10)),
    "spine1": ((-25, 50), (-30, 30), (-25, 25)),
    "spine2": ((-20, 40), (-30, 30), (-25, 25)),
    "spine3": ((-20, 40), (-30, 30), (-25, 25)),
    "neck": ((-40, 45), (-50, 50), (-35, 35)),
    "head": ((-40, 45), (-55, 55), (-35, 35)),
    "collar": ((-20, 20), (-30, 20), (-25, 40)),
    "shoulder": ((-120, 110), (-135, 60), (-115, 100)),
    "elbow": ((-100, 100), (-155, 5), (-50, 50)),
    "wrist": ((-60, 60), (-45, 45), (-80, 80)),
    "hand": ((-20, 20), (-20, 20), (-90, 30)),
}
MARGIN = math.radians(6)
"""Violation, in radians, that costs one half."""


def joint_ranges(device: torch.device | None = None) -> Float[Tensor, "2 23 3"]:
    """Lowest and highest angles of the 23 body joints in radians; those of the right side mirror the left's."""
    lowest, highest = [], []
    for name in JOINT_NAMES[1:]:
        side, _, stem = name.partition("_")
        ranges = _RANGES[stem or name]
        if side == "right":  # mirroring x keeps rotations about x and reverses the others
            x, y, z = ranges
            ranges = (x, (-y[1], -y[0]), (-z[1], -z[0]))
        lowest.append([low for low, _ in ranges])
        highest.append([high for _, high in ranges])
    return torch.deg2rad(torch.tensor([lowest, highest], dtype=torch.float32, device=device))


def limit_penalty(body_pose: Float[Tensor, "F 23 3"], ranges: Float[Tensor, "2 23 3"]) -> Float[Tensor, " F"]:
    """Sum over all angles of half the squared violation, in units of `MARGIN`."""
    below, above = ranges[0] - body_pose, body_pose - ranges[1]
    violation = torch.relu(torch.maximum(below, above)) / MARGIN
    return 0.5 * violation.square().sum((-2, -1))
