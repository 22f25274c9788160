"""Readers of foreign files return a value or raise an `InputError`, whatever the bytes."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.capture.importers.capture_json import read_capture_cameras
from core.capture.importers.colmap import read_colmap
from core.capture.importers.nerfstudio import read_transforms
from core.capture.importers.opencv_yaml import is_opencv_calibration, read_easymocap, read_opencv
from core.capture.importers.pose2sim import read_pose2sim, read_qualisys
from core.capture.keypoints import KeypointFolder, read_keypoints
from core.data.capture_json import FORMAT
from core.inference.camera_file import read_camera_path
from core.inference.report import read_metrics
from core.motion.files.read import read_track
from core.training.run_state import load_run_state
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.bounded_files import load_json, load_npz
from smpl_renderer.connectivity import load_connectivity
from smpl_renderer.errors import InputError
from smpl_renderer.pickled_trees import read_tree
from smpl_renderer.pickles import read_fit_pickle, read_float_pickle, read_smpl_pickle

RIGID = np.eye(4).tolist()
CAMERA = {"K": [[500, 0, 50], [0, 500, 50], [0, 0, 1]], "width": 100, "height": 100, "T_cam_world": RIGID}
TRANSFORM = {"file_path": "a.png", "transform_matrix": RIGID}
DOCUMENTS = {
    "capture.json": {"format": FORMAT, "cameras": {"a": CAMERA | {"distortion": None}}, "up": "-z"},
    "transforms.json": {"w": 100, "h": 100, "fl_x": 500, "k1": 0.1, "frames": [TRANSFORM]},
    "camera.json": {"up": "+y", "cameras": [CAMERA]},
    "keypoints.json": {"people": [{"pose_keypoints_2d": [1.0] * 75, "hand_left_keypoints_2d": [1.0] * 63}]},
    "coco.json": {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": 1, "keypoints": [1.0] * 51, "num_keypoints": 17}],
    },
    "metrics.json": {"mean": {}, "subjects": {}, "settings": {"protocol": {}, "checkpoint": "a"}},
    "motion.json": {"poses": [[0.0] * 72] * 3, "trans": [[0.0] * 3] * 3},
    "fits.json": [{"id": 0, "Rh": [[0, 0, 0]], "Th": [[0, 0, 0]], "poses": [[0.0] * 72], "shapes": [[0.0] * 10]}],
}
"""Sound documents by name; the tests replace one value of them."""
JSON_READERS: list[tuple[str, Callable[[Path], object]]] = [
    ("capture.json", read_capture_cameras),
    ("transforms.json", read_transforms),
    ("camera.json", lambda path: read_camera_path(path, 2)),
    ("keypoints.json", read_keypoints),
    ("coco.json", KeypointFolder),
    ("metrics.json", read_metrics),
]
BINARY_READERS: dict[str, Callable[[Path], object]] = {
    "a.json": load_json,
    "a.npz": load_npz,
    "fit.pkl": read_fit_pickle,
    "number.pkl": read_float_pickle,
    "body.pkl": read_smpl_pickle,
    "tree.pkl": read_tree,
    "connectivity.pt": load_connectivity,
    "state_00000001.pt": load_run_state,
    "a.yml": lambda path: (is_opencv_calibration(path), read_opencv([path])),
    "a.toml": read_pose2sim,
    "a.qca.txt": read_qualisys,
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [10**400, -(10**400), 1e308, -1e308, float("nan"), float("inf"), 0, "", "1", [], {}, [[1], [2, 3]]]
    ),
    st.text(max_size=5),
    st.lists(st.floats(), max_size=4),
)
SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def value_or_input_error(read: Callable[[Path], object], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflows; the result counts
        try:
            read(path)
        except InputError as error:
            assert path.stem.split(".")[0] in str(error) or path.parent.name in str(error)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of all values in a document, the containers included."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def with_value(document: object, place: tuple, value: object) -> object:
    """The document with one value replaced."""
    if not place:
        return value
    key, *rest = place
    changed = document.copy()
    changed[key] = with_value(document[key], tuple(rest), value)
    return changed


@pytest.mark.slow
@pytest.mark.parametrize(("name", "read"), JSON_READERS, ids=[name for name, _ in JSON_READERS])
@SETTINGS
@given(data=st.data())
def test_documents_with_one_odd_value(tmp_path, name, read, data):
    document = DOCUMENTS[name]
    path = tmp_path / name
    path.write_text(json.dumps(document))
    read(path)  # sound
    place = data.draw(st.sampled_from(places(document)))
    path.write_text(json.dumps(with_value(document, place, data.draw(ODD))))
    value_or_input_error(read, path)


@pytest.mark.parametrize("name", BINARY_READERS)
@SETTINGS
@given(content=st.binary(max_size=200))
@example(content=b"")
@example(content=b"PK\x03\x04")
@example(content=b"\x80\x04.")
@example(content=b"[" * 200_000)
def test_any_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    value_or_input_error(BINARY_READERS[name], tmp_path / name)


def sound_files(folder: Path) -> dict[str, bytes]:
    """Sound content of binary files by the name in `BINARY_READERS`."""
    np.savez(folder / "sound.npz", betas=np.zeros(10))
    index = torch.tensor([[0, 1], [1, 0]])
    torch.save({"neighbors": index, "mask": index >= 0, "fingerprint": "a"}, folder / "sound.pt")
    matrix = (
        "K: !!opencv-matrix\n   rows: 3\n   cols: 3\n   dt: d\n   data: [ 500., 0., 50., 0., 500., 50., 0., 0., 1. ]\n"
    )
    toml = '[a]\nname = "a"\nsize = [ 9.0, 9.0]\nmatrix = [ [ 5.0, 0.0, 4.0], [ 0.0, 5.0, 4.0], [ 0.0, 0.0, 1.0]]\n'
    return {
        "a.npz": (folder / "sound.npz").read_bytes(),
        "connectivity.pt": (folder / "sound.pt").read_bytes(),
        "state_00000001.pt": (folder / "sound.pt").read_bytes(),
        "fit.pkl": pickle.dumps({"betas": np.zeros(10)}),
        "tree.pkl": pickle.dumps({"poses": np.zeros((2, 3)), "list": [1, {"a": 2.0}]}),
        "number.pkl": pickle.dumps(1.5),
        "body.pkl": pickle.dumps({"v_template": np.zeros((4, 3))}, 2),
        "a.yml": f"%YAML:1.0\n---\nimage_width: 100\nimage_height: 100\n{matrix}".encode(),
        "a.toml": f"{toml}rotation = [ 0.0, 0.0, 0.0]\ntranslation = [ 0.0, 0.0, 3.0]\n".encode(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BINARY_READERS if name not in ("a.json", "a.qca.txt")])
@SETTINGS
@given(data=st.data())
def test_sound_bytes_with_changes(tmp_path, name, data):
    content = bytearray(sound_files(tmp_path)[name])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content))) if data.draw(st.booleans()) else len(content)
    (tmp_path / name).write_bytes(content[:length])
    value_or_input_error(BINARY_READERS[name], tmp_path / name)


@SETTINGS
@given(cameras=st.binary(max_size=100), images=st.binary(max_size=200), suffix=st.sampled_from([".bin", ".txt"]))
@example(cameras=b"\xff" * 8, images=b"\xff" * 8, suffix=".bin")
@example(cameras=b"1 PINHOLE 9 9 inf 1 1 1", images=b"1 1 0 0 0 0 0 0 1 a.png\n", suffix=".txt")
def test_colmap_models(tmp_path, cameras, images, suffix):
    for old in tmp_path.iterdir():
        old.unlink()
    (tmp_path / f"cameras{suffix}").write_bytes(cameras)
    (tmp_path / f"images{suffix}").write_bytes(images)
    value_or_input_error(read_colmap, tmp_path)


@SETTINGS
@given(content=st.text("KRTW_a:[] -!0159.e\n", max_size=80))
@example(content="K_a: !!opencv-matrix\n rows: 1\n cols: 1\n dt: d\n data: [ 1 ]\nnames:\n - a\n")
@example(content="names:\n - a\nK_a: 5\n")
def test_easymocap_calibrations(tmp_path, content):
    for name in ("intri.yml", "extri.yml"):
        (tmp_path / name).write_text(content)
    value_or_input_error(read_easymocap, tmp_path)


@pytest.mark.slow
@SETTINGS
@given(data=st.data())
def test_motion_files_with_one_odd_value(tmp_path, data):
    document = DOCUMENTS[data.draw(st.sampled_from(["fits.json", "motion.json"]))]
    changed = with_value(document, data.draw(st.sampled_from(places(document))), data.draw(ODD))
    (tmp_path / "a.json").write_text(json.dumps(changed))
    value_or_input_error(lambda path: read_track(path, load_body(STANDIN_BODY)), tmp_path / "a.json")
