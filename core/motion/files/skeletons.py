"""BVH files as tracks: retargeted, with the path of the pelvis and the unit of length found from the legs."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from core.motion.files.bvh import BvhClip, read_bvh
from core.motion.files.joint_names import JointMap, find_joints
from core.motion.files.retarget import retarget
from core.motion.files.track import Track
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

UNITS = {
    "metres": 1.0,
    "centimetres": 0.01,
    "millimetres": 0.001,
    "inches": 0.0254,
    "feet": 0.3048,
    "decimetres": 0.1,
    "units of CMU's files": 0.0254 / 0.45,
}
TYPICAL_LEG = 0.8
"""Metres from hip to ankle of an adult; the nearest unit is taken."""
MIN_LEG, MAX_LEG = 0.3, 1.4
"""Range of plausible legs in metres, of children and of stylised characters."""


@torch.no_grad()
def read_bvh_track(path: Path, body: BodyModel) -> Track:
    """The motion of a BVH file's skeleton on SMPL's joints.

    Raises:
        InputError: If the file is broken, or its skeleton is not that of a human.
    """
    clip = read_bvh(path)
    if len(clip.positions) == 0:
        raise InputError(f"{path}: holds a skeleton but no frames; export it with its animation")
    try:
        joints = find_joints(clip.skeleton.names, clip.skeleton.parents)
    except (ValueError, StopIteration) as error:
        raise InputError(
            f"{path}: is not a skeleton that can be mapped to a body ({error}); rename its joints"
        ) from error
    legs = _leg_length(clip, joints)
    unit = _unit(legs, path)
    rest = body.rest_joints(body.v_template).double().cpu().numpy()
    rotations = retarget(clip, joints, rest)
    hips = [clip.positions[:, joints.limbs[f"{side}_hip"]] for side in ("left", "right")]
    rest_legs = _rest_legs(rest)
    left, right = (rest[JOINT_NAMES.index(f"{side}_hip")] for side in ("left", "right"))
    # The hips, not the pelvis, stand on the legs; skeletons place the pelvis differently above them.
    above_hips = (rest[0] - (left + right) / 2) * (legs * unit / rest_legs)
    pelvis = (hips[0] + hips[1]) / 2 * unit + rotations[:, 0] @ above_hips
    return Track(
        rotations=rotations,
        pelvis=pelvis,
        frames=np.arange(len(rotations)),
        source=f"BVH {path}",
        fps=clip.fps,
        leg_length=legs * unit,
    )


def _leg_length(clip: BvhClip, joints: JointMap) -> float:
    """Length from hip over knee to ankle in units of the file: the mean of both legs in the first frame."""
    first = clip.positions[0]
    total = 0.0
    for side in ("left", "right"):
        hip, knee, ankle = (first[joints.limbs[f"{side}_{role}"]] for role in ("hip", "knee", "ankle"))
        total += np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee)
    return float(total / 2)


def _unit(legs: float, path: Path) -> float:
    """Metres per unit of the file."""
    if not legs > 0:
        raise InputError(f"{path}: the legs of its skeleton have no length; export it with its offsets")
    name = min(UNITS, key=lambda unit: abs(np.log(legs * UNITS[unit] / TYPICAL_LEG)))
    if not MIN_LEG <= legs * UNITS[name] <= MAX_LEG:
        unit = TYPICAL_LEG / legs
        logger.warning("%s: legs of %g units fit no unit of length; taken as %g metres", path, legs, TYPICAL_LEG)
        return unit
    logger.info("%s: lengths are in %s (legs of %.2f metres)", path, name, legs * UNITS[name])
    return UNITS[name]


def _rest_legs(rest: Float[np.ndarray, "24 3"]) -> float:
    hip, knee, ankle = (rest[JOINT_NAMES.index(f"left_{name}")] for name in ("hip", "knee", "ankle"))
    return float(np.linalg.norm(knee - hip) + np.linalg.norm(ankle - knee))
