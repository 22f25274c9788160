"""Bodies to start a fit from, by the motion files of body estimators and the landmarks of the frames.

Joint rotations alone are taken from a file; shape and place are fitted to the images again.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from core.capture.cameras import StoredCamera
from core.capture.landmarks import TORSO, Landmarks
from core.motion.files.read import read_track
from core.motion.files.track import MissingPerson, Track
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import matrix_to_axis_angle
from smpl_renderer.rotations_numpy import nearest_rotation
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

JOINTS = {11: 16, 12: 17, 13: 18, 14: 19, 15: 20, 16: 21, 23: 1, 24: 2, 25: 4, 26: 5, 27: 7, 28: 8}
"""Joints of the body that landmarks show, by landmark."""


def read_estimate(path: Path, body: BodyModel, person: int = 1) -> Track:
    """Poses of one person in a motion file (docs/motion.md), in the camera where the file has them.

    Args:
        person: Number of the person, from 1 for the one in the most frames. The only person of a file is taken
            whatever the number: it counts the people in the images.
    Raises:
        InputError: If the file is of no known kind, broken, or holds several people, but fewer than `person`.
    """
    try:
        return read_track(path, body, person, space="camera")
    except MissingPerson as error:
        if error.count > 1:
            raise
    logger.info("%s: holds one person, who is taken as person %d", path, person)
    return read_track(path, body, space="camera")


def pose_index(track: Track, number: int, time: float | None) -> int | None:
    """Index of the pose for a frame, by its number or, at another rate, its time in seconds; None if none is near."""
    wanted = number if track.fps is None or time is None else round(time * track.fps)
    index = int(np.abs(track.frames - wanted).argmin())
    return index if abs(int(track.frames[index]) - wanted) <= 1 else None


def starting_bodies(
    estimate: Track,
    numbers: list[tuple[int, float | None]],
    landmarks: list[list[Landmarks | None]],
    cameras: tuple[StoredCamera, ...],
    body: BodyModel,
) -> tuple[BodyParams, int]:
    """Mean-shaped bodies in the estimated poses, placed by the landmarks, and how many frames the estimate covers.

    Args:
        numbers: Number (from 0) and time of each frame. A frame without an estimate takes the nearest one's pose.
        landmarks: By frame and camera. Estimates are taken to belong to the first camera.
    """
    indices = [pose_index(estimate, number, time) for number, time in numbers]
    covered = sum(index is not None for index in indices)
    counts = np.arange(len(indices))
    known = np.array([i for i, index in enumerate(indices) if index is not None])
    rotations = []
    R_world_cam = cameras[0].T_cam_world[:3, :3].T
    for i in counts:
        exact = indices[i] is not None
        if exact:
            index = indices[i]
        elif len(known):
            index = indices[known[np.abs(known - i).argmin()]]
        else:
            index = int(np.abs(estimate.frames - numbers[i][0]).argmin())
        R = estimate.rotations[index].copy()
        seen = next((x for x in landmarks[i] if x is not None and x.world is not None), None)
        if exact and estimate.in_camera:
            R[0] = R_world_cam @ R[0]
        elif seen is not None:
            camera = cameras[landmarks[i].index(seen)]
            R[0] = camera.T_cam_world[:3, :3].T @ _aligned_root(R, seen, body)
        rotations.append(R)
    R = torch.from_numpy(np.stack(rotations))
    axis_angles = matrix_to_axis_angle(R).float()
    params = BodyParams.zeros(len(counts), num_betas=body.num_betas)
    params = replace(params, global_orient=axis_angles[:, 0], body_pose=axis_angles[:, 1:].flatten(1))
    with torch.no_grad():
        joints = body(params.to(body.v_template)).joints.double().cpu().numpy()
    transl = np.stack([_place(joints[i], landmarks[i], cameras) for i in counts])
    return replace(params, transl=torch.from_numpy(transl).float()), covered


@torch.no_grad()
def _aligned_root(R: Float[np.ndarray, "24 3 3"], landmarks: Landmarks, body: BodyModel) -> Float[np.ndarray, "3 3"]:
    """The orientation that takes the posed torso to that of the 3D landmarks (Kabsch)."""
    pose = torch.from_numpy(R)
    pose[0] = torch.eye(3)
    axis_angles = matrix_to_axis_angle(pose).float()
    params = BodyParams.zeros(num_betas=body.num_betas)
    params = replace(params, global_orient=axis_angles[0], body_pose=axis_angles[1:].flatten())
    joints = body(params.to(body.v_template)).joints.double().cpu().numpy()
    a = np.stack([joints[JOINTS[i]] for i in TORSO])
    b = landmarks.world[list(TORSO)]
    return nearest_rotation((b - b.mean(0)).T @ (a - a.mean(0)))


def _place(
    joints: Float[np.ndarray, "24 3"], row: list[Landmarks | None], cameras: tuple[StoredCamera, ...]
) -> Float[np.ndarray, "3"]:
    """The translation whose joints project best to the landmarks: linear least squares."""
    A, rhs = [], []
    for camera, landmarks in zip(cameras, row):
        if landmarks is None:
            continue
        P = camera.K @ camera.T_cam_world[:3]
        for mark, joint in JOINTS.items():
            weight = landmarks.visibility[mark] / (camera.K[0, 0])
            if landmarks.visibility[mark] < 0.3:
                continue
            u = landmarks.points[mark]
            X = np.append(joints[joint], 1)
            for axis in range(2):
                row_of_P = u[axis] * P[2] - P[axis]
                A.append(weight * row_of_P[:3])
                rhs.append(-weight * row_of_P @ X)
    if len(A) < 6:
        return np.array([0.0, 0.0, 3.0]) @ cameras[0].T_cam_world[:3, :3]
    return np.linalg.lstsq(np.array(A), np.array(rhs), rcond=None)[0]
