"""The up axis of a motion: given, or found from the poses, in which heads are above feet."""

import logging

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from core.data.up_axis import UP_AXES
from core.motion.files.track import Track
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

MIN_CLARITY = 0.8
"""Component of the mean direction from feet to head along the nearest axis, below which the up axis is not taken from
the poses: of a person who lies, or of a clip that is turned by more than 37 degrees."""
MIN_CONSISTENCY = 0.35
"""Length of the mean of the unit vectors from feet to head below which a clip shows no up axis."""
MAX_CAMERA_TILT = np.radians(40)
"""Largest tilt of a camera that is undone."""
_TO_Y_UP = {
    "+y": Rotation.identity(),
    "-y": Rotation.from_euler("x", 180, degrees=True),
    "+z": Rotation.from_euler("x", -90, degrees=True),
    "-z": Rotation.from_euler("x", 90, degrees=True),
    "+x": Rotation.from_euler("z", 90, degrees=True),
    "-x": Rotation.from_euler("z", -90, degrees=True),
}


def up_axis(value: str) -> str | None:
    """The up axis of an option: None for `auto`, else with a sign.

    Raises:
        InputError: If it is neither `auto` nor an axis.
    """
    if value == "auto":
        return None
    name = value if value[:1] in "+-" else f"+{value}"
    if name not in UP_AXES:
        raise InputError(f"--up must be auto, x, y, z, -x, -y or -z, got {value!r}")
    return name


def turned_upright(track: Track, body: BodyModel, up: str | None) -> Track:
    """The track with y up.

    Tracks in the frame of a camera are also turned by the camera's remaining tilt, if `up` is not given: on average a
    person's head is above the feet.

    Args:
        up: The up axis, or None to find it.
    """
    heads = None if up is not None else head_directions(track, body)
    if heads is not None:
        up = _found_axis(heads, track)
    rotation = _TO_Y_UP[up]
    if heads is not None and track.in_camera:
        rotation = _levelling(rotation.apply(heads.mean(0))) * rotation
    R = rotation.as_matrix()
    rotations = track.rotations.copy()
    rotations[:, 0] = R @ rotations[:, 0]
    return Track(**{**vars(track), "rotations": rotations, "pelvis": track.pelvis @ R.T, "up": "+y"})


@torch.no_grad()
def head_directions(track: Track, body: BodyModel) -> Float[np.ndarray, "T 3"]:
    """Unit vectors from the middle of the feet to the head, in the frame of the track."""
    rest = body.rest_joints(body.v_template).double().cpu().numpy()
    orientations, positions = [track.rotations[:, 0]], [np.zeros((len(track.rotations), 3))]
    for joint, parent in enumerate(body.parents[1:], start=1):
        positions.append(positions[parent] + orientations[parent] @ (rest[joint] - rest[parent]))
        orientations.append(orientations[parent] @ track.rotations[:, joint])
    at = {name: positions[JOINT_NAMES.index(name)] for name in ("head", "left_ankle", "right_ankle")}
    vectors = at["head"] - (at["left_ankle"] + at["right_ankle"]) / 2
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


def _found_axis(heads: Float[np.ndarray, "T 3"], track: Track) -> str:
    mean = heads.mean(0)
    length = np.linalg.norm(mean)
    index = int(np.abs(mean).argmax())
    if length < MIN_CONSISTENCY or abs(mean[index]) < MIN_CLARITY * length:
        logger.warning(
            "%s: the poses do not show which way is up (head over feet: %s); %s is taken, give --up if it is another",
            *(track.source, np.round(mean, 2).tolist(), track.up),
        )
        return track.up
    found = ("+" if mean[index] > 0 else "-") + "xyz"[index]
    if found != "+y":
        logger.info("%s: up is %s; turned to y", track.source, found)
    return found


def _levelling(mean: Float[np.ndarray, "3"]) -> Rotation:
    """The smallest rotation that takes a direction to y, if it is within the tilt of a camera."""
    mean = mean / np.linalg.norm(mean).clip(1e-9)
    angle = np.arccos(np.clip(mean[1], -1, 1))
    if not 1e-6 < angle <= MAX_CAMERA_TILT:
        return Rotation.identity()
    axis = np.cross(mean, [0, 1, 0])
    return Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
