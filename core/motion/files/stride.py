"""The size of the person who moved, from the strides: while a foot stands, the pelvis moves as the leg swings.

Files of SMPL's family give rotations and a path but, without their body model, no leg length. The ratio of the path to
the movement of the standing foot relative to the pelvis is that of the legs. With it, feet slide least.
"""

import numpy as np
from jaxtyping import Float

from core.motion.files.track import Track
from smpl_renderer.body_model import JOINT_NAMES, SMPL_PARENTS

STEPS_PER_SECOND = 15
"""Rate at which displacements are compared; at higher rates jitter would dominate them."""
MIN_TRAVEL = 1.0
"""Metres that the standing feet must move relative to the pelvis in total."""
MIN_CORRELATION = 0.95
SIZES = (0.75, 1.33)
"""Range of leg lengths relative to the body's."""
_SOLES = ("left_ankle", "right_ankle", "left_foot", "right_foot")


def stride_ratio(track: Track, rest: Float[np.ndarray, "24 3"], fps: float) -> float | None:
    """Leg length of the person who moved, relative to that of a body; None if the strides do not show it.

    Args:
        track: Poses with y up, in metres.
        rest: Joints of the body's rest pose.
        fps: Frames per second of the track.
    """
    step = max(1, round(fps / STEPS_PER_SECOND))
    if len(track.rotations) <= step:
        return None
    soles = _sole_points(track.rotations, rest)  # [T, 4, 3], relative to the pelvis
    supporting = soles[..., 1].argmin(1)
    stays = supporting[:-step] == supporting[step:]
    index = np.flatnonzero(stays)
    foot = supporting[index]
    swing = -(soles[index + step, foot] - soles[index, foot])[:, ::2]
    path = (track.pelvis[index + step] - track.pelvis[index])[:, ::2]
    for _ in range(3):  # the last two without transitions that do not fit
        weight = (swing**2).sum()
        if np.linalg.norm(swing, axis=1).sum() < MIN_TRAVEL * step or weight < 1e-9:
            return None
        ratio = float((swing * path).sum() / weight)
        errors = np.linalg.norm(path - ratio * swing, axis=1)
        correlation = (swing * path).sum() / np.sqrt(weight * max((path**2).sum(), 1e-12))
        keep = errors <= max(3 * np.median(errors), 1e-4)
        swing, path = swing[keep], path[keep]
    if correlation < MIN_CORRELATION or not SIZES[0] <= ratio <= SIZES[1]:
        return None
    return ratio


def _sole_points(
    rotations: Float[np.ndarray, "T 24 3 3"], rest: Float[np.ndarray, "24 3"]
) -> Float[np.ndarray, "T 4 3"]:
    """Points below ankles and toes, on the floor in the rest pose, relative to the pelvis."""
    orientations, positions = [rotations[:, 0]], [np.zeros((len(rotations), 3))]
    for joint in range(1, len(SMPL_PARENTS)):
        parent = SMPL_PARENTS[joint]
        positions.append(positions[parent] + orientations[parent] @ (rest[joint] - rest[parent]))
        orientations.append(orientations[parent] @ rotations[:, joint])
    indices = [JOINT_NAMES.index(name) for name in _SOLES]
    floor = rest[:, 1].min()
    points = []
    for joint in indices:
        height = np.array([0.0, rest[joint, 1] - floor, 0.0])
        points.append(positions[joint] - orientations[joint] @ height)
    return np.stack(points, 1)
