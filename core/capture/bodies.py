"""Body fits of a capture: observations for the fitter, and its bodies in the world of `capture.json`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.capture.cameras import CameraSet, StoredCamera
from core.capture.landmarks import NUM_LANDMARKS, Landmarks
from core.capture.observe import Views
from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting import FitResult, Observations, Silhouettes
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.rotations_numpy import rotation_between
from smpl_renderer.types import BodyParams

FitFunction = Callable[..., FitResult]
HAND_TO_BODY = {0: (15, 16), 17: (17, 18), 5: (19, 20), 2: (21, 22)}
"""Landmarks of the hand network that are landmarks of the body (left, right): wrist, and three knuckles."""


@dataclass(frozen=True)
class World:
    """The world of the capture."""

    up: str
    """Name of the up axis, as in `capture.json`."""
    rotation: Float[np.ndarray, "3 3"]
    """Rotation from the world of the fit to this world."""


def with_hands(landmarks: Landmarks) -> Landmarks:
    """Body landmarks at the wrists and knuckles replaced by the hand network's, which are more exact."""
    if landmarks.hands is None:
        return landmarks
    points, visibility = landmarks.points.copy(), landmarks.visibility.copy()
    for side in range(2):
        confidence = float(landmarks.hand_visibility[side])
        if confidence < 0.6:
            continue
        for hand, body in HAND_TO_BODY.items():
            points[body[side]] = landmarks.hands[side, hand]
            visibility[body[side]] = max(visibility[body[side]], 0.9 * confidence)
    return replace(landmarks, points=points, visibility=visibility)


def observations(views: Views, cameras: CameraSet, times: list[float | None], device: torch.device) -> Observations:
    """Input of the fit: landmarks, 3D landmarks and silhouettes of all frames and cameras."""
    num_frames, num_cameras = len(views), len(cameras.cameras)
    points = np.zeros((num_frames, num_cameras, NUM_LANDMARKS, 2), np.float32)
    visibility = np.zeros((num_frames, num_cameras, NUM_LANDMARKS), np.float32)
    world = np.zeros((num_frames, num_cameras, NUM_LANDMARKS, 3), np.float32)
    have_world = False
    for f, row in enumerate(views):
        for c, view in enumerate(row):
            if view.landmarks is None:
                continue
            landmarks = with_hands(view.landmarks)
            points[f, c], visibility[f, c] = landmarks.points, landmarks.visibility
            if landmarks.world is not None:
                world[f, c] = landmarks.world
                have_world = True
    known_times = [t for t in times if t is not None]
    silhouettes = Silhouettes.from_masks([[view.mask for view in row] for row in views])
    return Observations(
        Ks=torch.tensor(np.stack([camera.K for camera in cameras.cameras])).float(),
        viewmats=torch.tensor(np.stack([camera.T_cam_world for camera in cameras.cameras])).float(),
        image_sizes=torch.tensor([[camera.width, camera.height] for camera in cameras.cameras]).float(),
        landmarks=torch.from_numpy(points),
        visibility=torch.from_numpy(visibility),
        world_landmarks=torch.from_numpy(world) if have_world else None,
        silhouettes=silhouettes,
        times=torch.tensor(known_times) if len(known_times) == num_frames and num_frames > 1 else None,
        up=None if cameras.up is None else torch.tensor(cameras.up).float(),
    ).to(device)


def upright_world(up: Float[Tensor, "F 3"], known: tuple[float, float, float] | None) -> World:
    """The world of the file: that of the cameras if its up axis is known, else turned so that up is -y.

    -y is up in the frame of a level camera, so a single camera's world hardly turns.
    """
    if known is not None:
        vector = np.array(known)
        axis = int(np.abs(vector).argmax())
        if np.abs(vector[axis]) > 0.999:
            return World(("+" if vector[axis] > 0 else "-") + "xyz"[axis], np.eye(3))
        mean = vector
    else:
        mean = up.mean(0).double().cpu().numpy()
    return World("-y", rotation_between(mean, np.array([0.0, -1.0, 0.0])))


def turned_cameras(cameras: tuple[StoredCamera, ...], world: World) -> tuple[StoredCamera, ...]:
    """Cameras in the world of the file."""
    T = np.eye(4)
    T[:3, :3] = world.rotation.T
    return tuple(replace(camera, T_cam_world=camera.T_cam_world @ T) for camera in cameras)


@torch.no_grad()
def turned_bodies(
    params: BodyParams, body: BodyModel, rotation: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"] | None = None
) -> BodyParams:
    """Bodies after a rigid motion of the world, x -> rotation x + shift; float64.

    `global_orient` turns about the rest pelvis p, hence t' = Q (p + t) + shift - p with p scaled.
    """
    params = params.to(torch.device("cpu")).to(torch.float64)
    Q = torch.from_numpy(np.asarray(rotation, float))
    template = body.joint_template[:3].double().cpu()
    dirs = body.joint_dirs[:3, : params.betas.shape[-1]].double().cpu()
    pelvis = params.scale[..., None] * (template + params.betas @ dirs.mT)
    moved = (pelvis + params.transl) @ Q.T - pelvis
    if shift is not None:
        moved = moved + torch.from_numpy(np.asarray(shift, float))
    orient = matrix_to_axis_angle(Q @ axis_angle_to_matrix(params.global_orient))
    return replace(params, global_orient=orient, transl=moved)
