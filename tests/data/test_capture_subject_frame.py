"""The subject frame: the same pixels as in the raw world, and the same numbers whatever the rig."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_capture import FRONT_LEFT_BACK_RIGHT, TinyCapture, standing

from core.data.dataset import load_frames
from core.data.fits import posed_vertices
from core.data.readers import open_capture
from core.data.subject_frame import move_body, posed_pelvis, subject_frame, to_subject_frame
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams

FIRST = FRONT_LEFT_BACK_RIGHT[0]


def load(tiny: TinyCapture, folder, body: BodyModel, params: list[BodyParams], first: str = FIRST) -> Frames:
    capture = open_capture(tiny.write(folder, body, params))
    return load_frames(capture, body, list(tiny.frames), tiny.names, first, 32, "center")


@pytest.fixture
def tiny():
    return TinyCapture(image_size=(153, 128), num_cameras=4, frames=(5, 10))


@pytest.fixture
def double_body(body):
    """The body in float64: in float32 its vertices alone are good to 1e-4 calibrated pixels."""
    import copy

    return copy.deepcopy(body).double()


def test_projection_is_that_of_the_raw_world(tiny, tmp_path, double_body):
    capture = open_capture(tiny.write(tmp_path / "209001"))
    fits = BodyParams.stack([standing(0), standing(2)])
    fits.scale[1] = 1.1
    cameras = capture.cameras(tiny.names)
    center = cameras.centers[0]
    Ks = cameras.Ks.expand(2, -1, 3, 3)
    stacked = type(cameras)(cameras.viewmats.expand(2, -1, 4, 4), Ks, cameras.width, cameras.height)
    moved, in_subject = to_subject_frame(fits, stacked, center, double_body)
    raw, subject = posed_vertices(fits, double_body), posed_vertices(moved, double_body)
    for f in range(2):
        pixels, depths = in_subject[f].project(subject[f].expand(4, -1, 3))
        assert (depths > 0).all()
        for c, name in enumerate(tiny.names):
            np.testing.assert_allclose(pixels[c], tiny.project(name, raw[f].numpy()) + 0.5, atol=1e-4)


def test_first_camera_looks_from_plus_z_at_the_pelvis(tiny, tmp_path, body):
    frames = load(tiny, tmp_path / "209001", body, [standing(0), standing(1)])
    center = frames.cameras.centers[:, tiny.names.index(FIRST)]
    torch.testing.assert_close(center[:, 0], torch.zeros(2), rtol=0, atol=1e-5)
    assert (center[:, 2] > 1.5).all()
    pelvis = posed_pelvis(frames.body, body)
    torch.testing.assert_close(pelvis, torch.zeros(2, 3), rtol=0, atol=1e-5)
    joints = body(frames.body).joints
    torch.testing.assert_close(joints[:, 0], torch.zeros(2, 3), rtol=0, atol=1e-5)
    # y is up, and a person who faces the first camera has its left at +x.
    assert (joints[:, 15, 1] > 0.4).all() and (joints[:, 7, 1] < -0.6).all()
    assert (joints[:, 16, 0] > 0.1).all() and (joints[:, 17, 0] < -0.1).all()


def test_cameras_stand_around_in_the_order_front_left_back_right(tiny, tmp_path, body):
    frames = load(tiny, tmp_path / "209001", body, [standing(0), standing(1)])
    x, _, z = frames.cameras.centers[0].T
    azimuth = torch.rad2deg(torch.atan2(x, z)) % 360
    expected = torch.tensor([0.0, 92.7, 183.3, 271.5])  # the raw azimuths of HGG's four, relative to the first
    assert ((azimuth - expected + 180) % 360 - 180).abs().max() < 6  # the pelvis is not on the rig's axis


def test_nothing_depends_on_how_the_rig_is_turned(tiny, tmp_path, body):
    """Turning cameras and bodies about the vertical axis and moving them together changes no number."""
    fits = [standing(0), standing(1)]
    before = load(tiny, tmp_path / "209001", body, fits)
    turn, shift = Rotation.from_euler("z", 77, degrees=True).as_matrix(), np.array([0.4, -0.3, 0.2])
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3], T[:3, 3] = torch.from_numpy(turn), torch.from_numpy(shift)
    for name, R in tiny.rotations.items():
        tiny.rotations[name] = R @ turn.T
        tiny.translations[name] = tiny.translations[name] - R @ turn.T @ shift * 1000 / tiny.scale
    moved = [move_body(params, T, body) for params in fits]
    after = load(tiny, tmp_path / "turned" / "209001", body, moved)
    for a, b in ((before.cameras.viewmats, after.cameras.viewmats), (before.cameras.Ks, after.cameras.Ks)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    for name in ("betas", "global_orient", "body_pose", "transl", "scale"):
        torch.testing.assert_close(getattr(before.body, name), getattr(after.body, name), rtol=0, atol=1e-5)
    assert (before.images - after.images).abs().mean() < 1e-3  # a mask pixel may round the other way


def test_moving_a_body_moves_its_vertices(double_body):
    params = standing(2)
    params.scale.fill_(0.9)
    T = subject_frame(torch.tensor([0.3, -0.2, -0.9]).double(), torch.tensor([1.0, 1.5, -1.5]).double())
    expected = posed_vertices(params, double_body) @ T[:3, :3].T + T[:3, 3]
    torch.testing.assert_close(posed_vertices(move_body(params, T, double_body), double_body), expected)


def test_the_first_view_need_not_be_among_the_views(tiny, tmp_path, body):
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    full = load_frames(capture, body, [10], tiny.names, FIRST, 32, "center")
    part = load_frames(capture, body, [10], tiny.names[1:], FIRST, 32, "center")
    torch.testing.assert_close(full.select_views([1, 2, 3]).cameras.viewmats, part.cameras.viewmats)
    torch.testing.assert_close(full.select_views([1, 2, 3]).images, part.images)
