"""Cameras solved from the landmarks of a person, on synthetic landmarks with known cameras."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from core.capture.bundle_adjustment import Sightings, adjust
from core.capture.cameras import CameraSet, StoredCamera
from core.capture.landmarks import Landmarks
from core.capture.self_calibration import solve_cameras
from smpl_renderer.errors import InputError

FOCAL = 900.0


def ring(count, rng):
    """Cameras around the origin that look at it, roughly level, in a y-down world."""
    cameras = []
    for index in range(count):
        azimuth = 2 * np.pi * index / count + rng.normal(0, 0.1)
        R = Rotation.from_euler("yxz", [azimuth, rng.normal(0, 0.1), rng.normal(0, 0.05)]).as_matrix()
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, [rng.normal(0, 0.1), rng.normal(0, 0.1), 3.5 + rng.normal(0, 0.3)]
        K = np.array([[FOCAL, 0, 360], [0, FOCAL, 640], [0, 0, 1.0]])
        cameras.append(StoredCamera(f"cam{index}", K, 720, 1280, T))
    return tuple(cameras)


def skeleton(rng):
    """33 points of a standing body, moved about, [33, 3]; y down."""
    points = rng.normal(0, [0.25, 0.5, 0.15], (33, 3))
    return points + rng.normal(0, [0.2, 0.02, 0.2], 3)


def view(camera, X, rng, noise=0.0, world_noise=0.0):
    in_camera = X @ camera.T_cam_world[:3, :3].T + camera.T_cam_world[:3, 3]
    pixels = in_camera[:, :2] / in_camera[:, 2:] * FOCAL + camera.K[:2, 2]
    world = 0.9 * (in_camera - in_camera[[23, 24]].mean(0))  # the network's scale is that of an average person
    return Landmarks(
        pixels + rng.normal(0, 1, pixels.shape) * noise,
        np.full(33, 0.9),
        world + rng.normal(0, 1, world.shape) * world_noise,
    )


def unknown(cameras, focal=FOCAL):
    """The same cameras without poses, and with guessed focal lengths."""
    blind = []
    for camera in cameras:
        K = camera.K.copy()
        K[0, 0] = K[1, 1] = focal
        blind.append(replace(camera, K=K, T_cam_world=np.eye(4)))
    return CameraSet(tuple(blind), calibrated=False, up=None, metric=True)


def pose_errors(solved, true):
    """Largest rotation error in degrees, and error of the camera centres relative to their spread."""
    angles, centers, wanted = [], [], []
    for a, b in zip(solved, true):
        relative = b.T_cam_world @ np.linalg.inv(true[0].T_cam_world)
        R = a.T_cam_world[:3, :3] @ relative[:3, :3].T
        angles.append(np.degrees(Rotation.from_matrix(R).magnitude()))
        centers.append(-a.T_cam_world[:3, :3].T @ a.T_cam_world[:3, 3])
        wanted.append(-relative[:3, :3].T @ relative[:3, 3])
    centers, wanted = np.array(centers), np.array(wanted)
    scale = (centers * wanted).sum() / (centers**2).sum()
    return max(angles), np.abs(scale * centers - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("count", [2, 4])
def test_exact_landmarks_give_exact_cameras(count):
    rng = np.random.default_rng(count)
    cameras = ring(count, rng)
    rows = [[view(camera, X, rng, world_noise=0.03) for camera in cameras] for X in (skeleton(rng) for _ in range(3))]
    solved, note = solve_cameras(unknown(cameras), rows, focals_known=True)
    angle, shift = pose_errors(solved.cameras, cameras)
    assert angle < 0.01 and shift < 1e-4  # only the adjustment's stopping tolerance is left
    assert solved.calibrated and not solved.metric and "0.0 %" in note


def test_noisy_landmarks_and_a_wrong_guess_of_the_focal_length():
    rng = np.random.default_rng(5)
    cameras = ring(4, rng)
    rows = [
        [view(camera, X, rng, noise=3.0, world_noise=0.05) for camera in cameras]
        for X in (skeleton(rng) for _ in range(8))
    ]
    solved, note = solve_cameras(unknown(cameras, 1.15 * FOCAL), rows, focals_known=False)
    angle, shift = pose_errors(solved.cameras, cameras)
    assert angle < 1.5 and shift < 0.05
    focal = solved.cameras[0].K[0, 0]
    assert abs(focal / FOCAL - 1) < 0.06 and solved.cameras[0].K[0, 2] == 360 and "times the guess" in note


def test_frames_with_exchanged_sides_do_not_spoil_the_cameras():
    """One camera takes the person's back for the front in a quarter of the frames: 3D landmarks mirrored in depth."""
    rng = np.random.default_rng(7)
    cameras = ring(4, rng)
    rows = []
    for frame in range(8):
        X = skeleton(rng)
        row = [view(camera, X, rng, noise=1.0, world_noise=0.02) for camera in cameras]
        if frame % 4 == 0:
            row[2] = replace(row[2], world=row[2].world * [1, 1, -1])
        rows.append(row)
    solved, _ = solve_cameras(unknown(cameras), rows, focals_known=True)
    angle, shift = pose_errors(solved.cameras, cameras)
    assert angle < 1.0 and shift < 0.03


def test_cameras_join_through_others_when_they_share_no_frame():
    rng = np.random.default_rng(3)
    cameras = ring(3, rng)
    rows = []
    for frame in range(6):
        X = skeleton(rng)
        row = [view(camera, X, rng) for camera in cameras]
        row[0 if frame % 2 else 2] = None  # the first and the last never see the person together
        rows.append(row)
    solved, _ = solve_cameras(unknown(cameras), rows, focals_known=True)
    angle, shift = pose_errors(solved.cameras, cameras)
    assert angle < 0.01 and shift < 1e-3


def test_what_cannot_be_solved_is_refused():
    rng = np.random.default_rng(1)
    cameras = ring(3, rng)
    rows = [[view(camera, X, rng) for camera in cameras] for X in (skeleton(rng) for _ in range(2))]
    alone = [[row[0], row[1], None] for row in rows]
    with pytest.raises(InputError, match="shares no view"):
        solve_cameras(unknown(cameras), alone, focals_known=True)
    with pytest.raises(InputError, match="no frame shows the person to two cameras"):
        solve_cameras(unknown(cameras), [[row[0], None, None] for row in rows], focals_known=True)
    unsynchronised = [[view(camera, skeleton(rng), rng) for camera in cameras] for _ in range(2)]
    with pytest.raises(InputError, match="synchronised"):
        solve_cameras(unknown(cameras), unsynchronised, focals_known=True)


def test_adjustment_keeps_the_first_camera_and_a_known_focal_length():
    rng = np.random.default_rng(2)
    cameras = ring(3, rng)
    X = skeleton(rng)
    points = np.stack([view(camera, X, rng).points for camera in cameras], 1)
    seen = np.ones((33, 3), bool)
    seen[:5, 1] = False
    sightings = Sightings(points, seen, np.full((33, 3), 500.0), np.full(3, FOCAL), np.tile([360.0, 640.0], (3, 1)))
    T = np.stack([camera.T_cam_world for camera in cameras])
    turned = T[:, :3, :3] @ Rotation.from_rotvec([[0, 0, 0], [0.1, 0, 0], [0, 0.1, 0]]).as_matrix()
    result = adjust(sightings, turned, T[:, :3, 3], X + rng.normal(0, 0.02, X.shape), free_focal=False)
    np.testing.assert_allclose(result.rotations[0], T[0, :3, :3], atol=1e-12)
    assert result.focal_factor == pytest.approx(1, abs=1e-6)
    assert len(result.errors) == seen.sum() and result.errors.max() < 1e-4
