"""Motion files of other programs: each kind is written from a known motion and read back."""

import logging
import os
import pickle
from dataclasses import replace

import motion_files as write
import numpy as np
import pytest
import torch
from motion_files import Truth, motion_rotations, orientations
from scipy.spatial.transform import Rotation

from core.motion.files.read import read_motion
from core.motion.motion import apply_motion, facing_front, leg_length
from core.motion.sources import open_motion
from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def truth(body) -> Truth:
    return Truth(body)


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between rotations [..., 3, 3]."""
    relative = (a.swapaxes(-1, -2) @ b).reshape(-1, 3, 3)
    return np.degrees(Rotation.from_matrix(relative).magnitude()).reshape(a.shape[:-2])


def in_world(path, truth, body, **kwargs):
    """Read a file and compare rotations and path with the truth, both exactly."""
    motion = read_motion(path, body, **kwargs)
    assert len(motion) == truth.count and motion.fps == truth.fps
    # float32 axis-angles keep about 1e-5 degrees; JSON and BVH texts less.
    assert angles(motion_rotations(motion), truth.rotations).max() < 0.01
    np.testing.assert_allclose(motion.pelvis.numpy(), truth.pelvis, atol=1e-4)
    return motion


def from_camera(path, truth, body, has_path=True, **kwargs):
    """Read a file in a camera's frame: the pose is that of the truth, and so is the path but for a rotation."""
    motion = read_motion(path, body, **kwargs)
    assert angles(motion_rotations(motion)[:, 1:], truth.rotations[:, 1:]).max() < 0.01
    # The camera's tilt is unknown: on average, heads are above feet.
    assert angles(motion_rotations(motion)[:, 0], truth.rotations[:, 0]).max() < 12
    if has_path:
        steps, expected = (np.linalg.norm(np.diff(x, axis=0), axis=1) for x in (motion.pelvis.numpy(), truth.pelvis))
        np.testing.assert_allclose(steps, expected, atol=1e-4)
    return motion


@pytest.mark.parametrize("up", ["+z", "+y", "-y"])
def test_amass(truth, body, tmp_path, up):
    in_world(write.write_amass(tmp_path / "a.npz", truth, up), truth, body)
    in_world(write.write_amass_smplx(tmp_path / "b.npz", truth, up), truth, body)


@pytest.mark.parametrize("up", ["+y", "-y"])
def test_aist_at_60_frames_per_second_also_where_it_is_upside_down(body, tmp_path, up):
    truth = Truth(body, fps=60.0)
    motion = in_world(write.write_aist(tmp_path / "gBR.pkl", truth, up), truth, body)
    posed = apply_motion(motion, body, torch.zeros(10))
    joints = body(posed).joints
    assert (joints[:, JOINT_NAMES.index("head"), 1] > 1.2).all() and joints[..., 1].min() > -0.02


def test_the_up_axis_can_be_given(truth, body, tmp_path):
    path = write.write_amass(tmp_path / "a.npz", truth, "+z")
    with pytest.raises(InputError, match="--up"):
        read_motion(path, body, up="w")
    given, believed = read_motion(path, body, up="z"), read_motion(path, body, up="y")
    assert angles(motion_rotations(given)[:, 0], truth.rotations[:, 0]).max() < 0.01
    assert angles(motion_rotations(believed)[:, 0], truth.rotations[:, 0]).min() > 80


def test_poses_that_show_no_up_axis_are_reported(truth, body, tmp_path, caplog):
    lying = Truth(body)
    halfway = Rotation.from_euler("x", 45, degrees=True).as_matrix()
    lying.rotations[:, 0] = halfway @ lying.rotations[:, 0]
    with caplog.at_level(logging.WARNING):
        read_motion(write.write_amass(tmp_path / "a.npz", lying, "+y"), body)
    assert "--up" in caplog.text


def test_smpl_and_smplx_results(truth, body, tmp_path):
    in_world(write.write_smpl_pt(tmp_path / "smpl.pt", truth), truth, body)
    motion = in_world(write.write_smplx_json(tmp_path / "frames.json", truth), truth, body)
    assert angles(motion_rotations(motion)[:, 22:], np.eye(3)[None, None].repeat(2, 1)).max() < 1e-3


def test_gvhmr(truth, body, tmp_path):
    in_world(write.write_gvhmr(tmp_path / "hmr4d_results.pt", truth), truth, body)
    in_world(tmp_path, truth, body)  # the folder


def test_wham_fills_gaps_and_takes_the_longest_track(truth, body, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        in_world(write.write_wham(tmp_path / "wham_output.pkl", truth), truth, body)
    assert "2 people" in caplog.text
    short = read_motion(tmp_path / "wham_output.pkl", body, person=2)
    assert len(short) == 3
    with pytest.raises(InputError, match="--person 1 to 2"):
        read_motion(tmp_path / "wham_output.pkl", body, person=3)
    filled = read_motion(write.write_wham(tmp_path / "gaps.pkl", truth, left_out=(10, 11)), body)
    assert len(filled) == truth.count
    # Two frames of 33 ms on an arc between their neighbours are within some degrees of what they were.
    assert angles(motion_rotations(filled), truth.rotations).max() < 6
    kept = [i for i in range(truth.count) if i not in (10, 11)]
    assert angles(motion_rotations(filled)[kept], truth.rotations[kept]).max() < 0.01


def test_tram_in_the_world_and_in_the_camera(truth, body, tmp_path):
    folder = write.write_tram(tmp_path / "clip", truth)
    in_world(folder, truth, body)
    (folder / "camera.npy").unlink()
    from_camera(folder, truth, body, has_path=False)


def test_4d_humans(truth, body, tmp_path):
    from_camera(write.write_phalp(tmp_path / "demo.pkl", truth), truth, body, has_path=False)


def test_prompthmr(truth, body, tmp_path):
    in_world(write.write_prompthmr(tmp_path / "results.pkl", truth), truth, body)


def test_easymocap(truth, body, tmp_path):
    in_world(write.write_easymocap(tmp_path / "smpl", truth), truth, body)


def test_a_capture_is_a_motion(body):
    """The shipped capture has MVHumanNet's layout, five frames per second and z down."""
    motion = read_motion("test_dataset/209903", body)
    assert motion.fps == 5
    joints = body(apply_motion(motion, body, torch.zeros(10))).joints
    assert (joints[:, JOINT_NAMES.index("head"), 1] - joints[:, JOINT_NAMES.index("left_foot"), 1] > 0.9).all()


LIMBS = [(f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for a, b in (("hip", "knee"), ("knee", "ankle"))]
LIMBS += [(f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for a, b in (("shoulder", "elbow"), ("elbow", "wrist"))]


def limb_directions(rotations: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Unit vectors [T, 8, 3] of upper and lower arms and legs in the world."""
    world = orientations(rotations)
    columns = []
    for a, b in LIMBS:
        i, j = JOINT_NAMES.index(a), JOINT_NAMES.index(b)
        columns.append(world[:, i] @ ((rest[j] - rest[i]) / np.linalg.norm(rest[j] - rest[i])))
    return np.stack(columns, 1)


@pytest.mark.parametrize(
    ("style", "unit", "fps"),
    [
        ("cmu", 0.0254 / 0.45, 120.0),
        ("mixamo", 0.01, 30.0),
        ("lafan", 0.01, 30.0),
        ("bandai", 0.01, 60.0),
        ("motionbuilder", 0.0254, 25.0),
        ("mixamo", 1.0, 20.0),
    ],
)
def test_bvh_skeletons_keep_the_directions_of_limbs(body, tmp_path, style, unit, fps):
    truth = Truth(body, fps, count=int(1.5 * fps))
    motion = read_motion(write.write_bvh(tmp_path / f"{style}.bvh", truth, style, unit, longer=1.2), body)
    assert len(motion) == truth.count and motion.fps == fps
    rotations = motion_rotations(motion)
    found, expected = (limb_directions(R, truth.rest) for R in (rotations, truth.rotations))
    assert np.degrees(np.arccos((found * expected).sum(-1).clip(-1, 1))).max() < 1.5
    assert angles(rotations[:, 0], truth.rotations[:, 0]).max() < 6  # rest poses are upright, spines are not straight
    assert motion.leg_length == pytest.approx(leg_length(body, torch.zeros(10)), rel=0.02)
    np.testing.assert_allclose(motion.pelvis.numpy(), truth.pelvis, atol=0.02)


@pytest.mark.slow
def test_feet_slide_no_more_and_sink_no_deeper_than_in_the_source(body, tmp_path):
    """On a body of other proportions, from a BVH at 120 frames per second."""
    truth = Truth(body, 120.0, count=180)
    motion = read_motion(write.write_bvh(tmp_path / "cmu.bvh", truth, "cmu", 0.0254 / 0.45), body)
    betas = torch.zeros(10)
    betas[0] = 2.0
    source = replace(motion, **{"pelvis": torch.from_numpy(truth.pelvis).float()})
    slides, depths = [], []
    for clip, shape in ((source, torch.zeros(10)), (motion, betas)):
        output = body(apply_motion(clip, body, shape))
        toes = output.joints[:, [JOINT_NAMES.index(f"{side}_foot") for side in ("left", "right")]]
        low = toes[..., 1] < torch.quantile(toes[..., 1], 0.2)
        step = (toes[1:] - toes[:-1])[..., ::2].norm(dim=-1)
        slides.append(step[low[1:] & low[:-1]].mean().item())
        depths.append(-output.vertices[..., 1].amin().item())
    assert slides[1] < 1.3 * slides[0] + 1e-4  # the taller body's steps are longer
    assert depths[1] < depths[0] + 0.01


def test_a_motion_by_name_or_file_faces_the_front(truth, body, tmp_path):
    assert open_motion("walk", body).loops
    turned = Truth(body)
    about_y = Rotation.from_euler("y", 100, degrees=True).as_matrix()
    turned.rotations[:, 0] = about_y @ turned.rotations[:, 0]
    turned.pelvis = turned.pelvis @ about_y.T + [3, 0, 5]
    motion = open_motion(write.write_smpl_pt(tmp_path / "a.pt", turned), body)
    heading = motion_rotations(motion)[:, 0, :, 2].mean(0)
    assert abs(heading[0]) < 1e-3 and heading[2] > 0.5
    torch.testing.assert_close(motion.pelvis[0, ::2], torch.zeros(2))
    again = facing_front(motion)
    torch.testing.assert_close(again.pelvis, motion.pelvis, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="walk"):
        open_motion("moonwalk", body)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bvh", b"HIERARCHY\nROOT Hips\n{\n OFFSET 0 0\n}\n", "OFFSET"),
        ("a.bvh", b"HIERARCHY\nROOT Hips\n{\n OFFSET 0 0 0\n CHANNELS 3 Xrotation Yrotation Zrotation\n}\n", "BVH"),
        ("a.npz", b"PK\x03\x04 broken", "npz"),
        ("a.pkl", b"\x80\x04 broken", "cannot be read"),
        ("a.pt", b"not a zip", "cannot be read"),
        ("a.json", b"{", "JSON"),
        ("a.json", b'{"a": 1}', "dictionary of a"),
        ("a.json", b'{"poses": [' + b"9" * 400 + b"]}", "no motion"),
        ("a.fbx", b"Kaydara", "suffix"),
        ("a.pkl", pickle.dumps({"poses": Evil()}), "refused"),
        ("a.pkl", pickle.dumps({"poses": np.zeros((4, 30))}), "at least 22"),
        ("a.pkl", pickle.dumps({"poses": np.full((4, 72), np.nan)}), "finite|rotation|cannot"),
    ],
)
def test_broken_files_are_refused_with_their_name(body, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_motion(tmp_path / name, body)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("fps", [np.nan, np.inf, -np.inf, 1e300])
def test_rates_that_are_no_numbers_are_refused(body, tmp_path, fps):
    np.savez(tmp_path / "a.npz", poses=np.zeros((4, 72)), trans=np.zeros((4, 3)), mocap_framerate=fps)
    with pytest.raises(InputError, match=r"a\.npz: states .* frames per second"):
        read_motion(tmp_path / "a.npz", body)


def test_an_archive_that_announces_terabytes_is_refused(body, tmp_path):
    with pytest.raises(InputError, match="GB"):
        read_motion(write.write_zip_bomb(tmp_path / "a.npz"), body)
