"""Result files of body estimators, written in their formats from known poses, are read back without running code."""

import io
import json
import pickle
import sys
import types
import zlib
from collections import defaultdict

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from core.capture.cameras import StoredCamera
from core.capture.estimates import JOINTS, pose_index, read_estimate, starting_bodies
from core.capture.landmarks import NUM_LANDMARKS, Landmarks
from smpl_renderer.errors import InputError
from smpl_renderer.pickled_trees import read_tree
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.types import BodyParams

FRAMES = 5


@pytest.fixture
def poses():
    return np.random.default_rng(1).normal(size=(FRAMES, 72)) * 0.4


def matrices(poses):
    return Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(len(poses), -1, 3, 3)


def assert_body_joints(estimate, poses, joints=24, atol=1e-6):
    np.testing.assert_allclose(estimate.rotations[:, :joints], matrices(poses)[:, :joints], atol=atol)
    if joints < 24:
        np.testing.assert_allclose(estimate.rotations[:, joints:], np.tile(np.eye(3), (len(poses), 24 - joints, 1, 1)))


class JoblibWriter(pickle._Pickler):
    """Writes as joblib.dump does: an array as a wrapper object, followed by padding and its bytes."""

    def __init__(self, stream):
        super().__init__(stream, protocol=3)
        self.stream = stream

    def save(self, value, save_persistent_id=True):
        if type(value) is not np.ndarray or value.dtype.hasobject:
            return super().save(value, save_persistent_id)
        wrapper = sys.modules["joblib.numpy_pickle"].NumpyArrayWrapper()
        state = {"subclass": np.ndarray, "shape": value.shape, "order": "C", "dtype": value.dtype, "allow_mmap": True}
        wrapper.__dict__.update(state | {"numpy_array_alignment_bytes": 16})
        super().save(wrapper)
        padding = 16 - (self.stream.tell() + 1) % 16
        self.stream.write(bytes([padding]) + b"\xff" * padding + value.tobytes())


@pytest.fixture
def joblib_dump(monkeypatch):
    """`joblib.dump` for files, without joblib; the class exists only while writing."""

    def dump(value, path, compress=False):
        module = types.ModuleType("joblib.numpy_pickle")
        wrapper = type("NumpyArrayWrapper", (), {"__module__": "joblib.numpy_pickle"})
        module.NumpyArrayWrapper = wrapper
        with monkeypatch.context() as context:
            context.setitem(sys.modules, "joblib", types.ModuleType("joblib"))
            context.setitem(sys.modules, "joblib.numpy_pickle", module)
            stream = io.BytesIO()
            JoblibWriter(stream).dump(value)
        content = stream.getvalue()
        path.write_bytes(zlib.compress(content, 3) if compress else content)

    return dump


def test_gvhmr(tmp_path, body, poses):
    values = torch.from_numpy(poses)
    params = {"global_orient": values[:, :3], "body_pose": values[:, 3:66], "transl": torch.zeros(FRAMES, 3)}
    world = params | {"global_orient": values[:, 3:6]}
    torch.save({"smpl_params_incam": params, "smpl_params_global": world}, tmp_path / "hmr4d_results.pt")
    estimate = read_estimate(tmp_path, body)
    assert_body_joints(estimate, poses, joints=22)
    assert estimate.in_camera and estimate.fps == 30


def test_a_torch_file_with_code_is_refused(tmp_path, body):
    torch.save({"smpl_params_incam": Surprise()}, tmp_path / "hmr4d_results.pt")
    with pytest.raises(InputError, match="hmr4d_results"):
        read_estimate(tmp_path, body)
    assert not Surprise.called


class Surprise:
    called = False

    @classmethod
    def run(cls):
        cls.called = True

    def __reduce__(self):
        return Surprise.run, ()


@pytest.mark.parametrize("compress", [False, True])
def test_wham(tmp_path, body, poses, joblib_dump, compress):
    results = defaultdict(dict)
    results[3] = {"pose": poses.astype(np.float32)[:2], "trans": np.zeros((2, 3)), "frame_ids": np.array([0, 1])}
    results[7] = {"pose": poses, "trans": np.zeros((FRAMES, 3)), "frame_ids": np.arange(10, 10 + FRAMES)}
    joblib_dump(results, tmp_path / "wham_output.pkl", compress)
    estimate = read_estimate(tmp_path / "wham_output.pkl", body)
    assert_body_joints(estimate, poses)  # the longer of the two tracks
    assert estimate.frames.tolist() == [10, 11, 12, 13, 14]
    assert len(read_estimate(tmp_path / "wham_output.pkl", body, person=2).frames) == 2
    with pytest.raises(InputError, match="person"):
        read_estimate(tmp_path / "wham_output.pkl", body, person=3)


def test_the_only_person_of_a_file_is_any_person_of_the_images(tmp_path, body, poses):
    np.savez(tmp_path / "walk.npz", poses=poses)
    assert_body_joints(read_estimate(tmp_path / "walk.npz", body, person=2), poses)


def test_prompthmr(tmp_path, body, poses, joblib_dump):
    full = np.concatenate([matrices(poses), np.tile(np.eye(3), (FRAMES, 31, 1, 1))], 1)
    person = {"frames": np.arange(FRAMES), "smplx_cam": {"rotmat": full, "trans": np.zeros((FRAMES, 3))}}
    joblib_dump({"camera_world": {}, "people": {1: person}}, tmp_path / "results.pkl")
    assert_body_joints(read_estimate(tmp_path, body), poses, joints=22)


def test_phalp(tmp_path, body, poses, joblib_dump):
    content = {}
    for frame, pose in enumerate(matrices(poses)):
        smpl = {"global_orient": pose[:1], "body_pose": pose[1:], "betas": np.zeros(10)}
        other = {"global_orient": np.eye(3)[None], "body_pose": np.tile(np.eye(3), (23, 1, 1)), "betas": np.zeros(10)}
        entries = ([4, 9], [other, smpl]) if frame == 2 else ([9], [smpl])
        content[f"outputs/_DEMO/me/img/{frame + 1:06d}.jpg"] = {"tid": entries[0], "smpl": entries[1]}
    joblib_dump(content, tmp_path / "demo_me.pkl", compress=True)
    estimate = read_estimate(tmp_path / "demo_me.pkl", body)
    assert_body_joints(estimate, poses)
    assert estimate.frames.tolist() == list(range(FRAMES))


def test_tram(tmp_path, body, poses):
    (tmp_path / "hps").mkdir()
    rotmat = torch.from_numpy(matrices(poses)).float()
    content = {"pred_rotmat": rotmat, "pred_trans": torch.zeros(FRAMES, 3), "frame": torch.arange(FRAMES)}
    np.save(tmp_path / "hps" / "hps_track_0.npy", content, allow_pickle=True)
    assert_body_joints(read_estimate(tmp_path, body), poses)


def test_easymocap(tmp_path, body, poses):
    (tmp_path / "smpl").mkdir()
    for frame, pose in enumerate(poses):
        rest = pose.copy()
        rest[:3] = 0
        person = {"id": 0, "Rh": [pose[:3].tolist()], "Th": [[0, 0, 0]], "poses": [rest.tolist()], "shapes": [[0] * 10]}
        (tmp_path / "smpl" / f"{frame:06d}.json").write_text(json.dumps([person]))
    estimate = read_estimate(tmp_path, body)
    assert_body_joints(estimate, poses)
    assert not estimate.in_camera


@pytest.mark.parametrize("joints", [24, 52, 55])
def test_npz(tmp_path, body, poses, joints):
    padded = np.zeros((FRAMES, 3 * joints))
    padded[:, :66] = poses[:, :66]
    if joints == 24:
        padded = poses
    np.savez(tmp_path / "walk.npz", poses=padded, mocap_framerate=120.0)
    estimate = read_estimate(tmp_path / "walk.npz", body)
    assert_body_joints(estimate, poses, joints=24 if joints == 24 else 22)
    assert pose_index(estimate, 0, time=2 / 120) == 2 and pose_index(estimate, 0, time=1.0) is None


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.load"])
def test_pickles_cannot_run_code(tmp_path, body, name):
    module, function = name.split(".")
    path = tmp_path / "wham_output.pkl"
    path.write_bytes(b"c" + module.encode() + b"\n" + function.encode() + b"\n(Vecho\ntR.")
    with pytest.raises(InputError, match=f"refused.*{name}"):
        read_estimate(path, body)


def test_objects_in_npy_files_go_through_the_same_list(tmp_path):
    np.save(tmp_path / "hps_track_0.npy", {"pred_rotmat": Surprise()}, allow_pickle=True)
    with pytest.raises(InputError, match="refused"):
        read_tree(tmp_path / "hps_track_0.npy")
    assert not Surprise.called


def camera(rotation=np.eye(3)):
    T = np.eye(4)
    T[:3, :3] = rotation
    return StoredCamera("camera", np.array([[1000.0, 0, 400], [0, 1000, 600], [0, 0, 1]]), 800, 1200, T)


@pytest.mark.parametrize("in_camera", [True, False])
def test_bodies_start_where_the_landmarks_are(tmp_path, body, poses, in_camera):
    """Landmarks drawn from a known body: the start has its orientation and place."""
    poses = poses * 0.5
    # Upright in a camera with y down: half a turn about x.
    poses[:, :3] = [np.pi, 0, 0]
    transl = torch.tensor([[0.2, 0.1, 4.0]]).expand(FRAMES, 3)
    values = torch.from_numpy(poses).float()
    params = BodyParams(torch.zeros(FRAMES, 10), values[:, :3], values[:, 3:], transl, torch.ones(FRAMES))
    joints = body(params).joints
    rows = []
    for posed in joints.double().numpy():
        points, world, visibility = np.zeros((NUM_LANDMARKS, 2)), np.zeros((NUM_LANDMARKS, 3)), np.zeros(NUM_LANDMARKS)
        for mark, joint in JOINTS.items():
            projected = camera().K @ posed[joint]
            points[mark], world[mark], visibility[mark] = projected[:2] / projected[2], posed[joint], 1
        rows.append([Landmarks(points, visibility, world=world)])
    stored = poses.copy()
    if not in_camera:
        stored[:, :3] = [0.3, 1.0, -0.2]  # another world
    values = torch.from_numpy(stored)
    params_of_file = {"global_orient": values[:, :3], "body_pose": values[:, 3:66], "transl": torch.zeros(FRAMES, 3)}
    if in_camera:
        torch.save({f"smpl_params_{name}": params_of_file for name in ("incam", "global")}, tmp_path / "a.pt")
        estimate = read_estimate(tmp_path / "a.pt", body)
    else:
        np.savez(tmp_path / "a.npz", poses=stored)
        estimate = read_estimate(tmp_path / "a.npz", body)
    numbers = [(i, i / 30) for i in range(FRAMES)]
    start, covered = starting_bodies(estimate, numbers, rows, (camera(),), body)
    assert covered == FRAMES
    # Hand joints are left straight by the reader of SMPL-X, which moves no joint that has a landmark.
    torch.testing.assert_close(
        axis_angle_to_matrix(start.global_orient), axis_angle_to_matrix(params.global_orient), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(start.transl, transl.contiguous(), atol=2e-3, rtol=0)
