"""Calibrations written in each tool's format from known cameras are read back."""

import json
import struct

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from core.capture.importers import find_calibration, read_calibration_file
from core.capture.importers.colmap import MODELS
from core.data.capture_json import CameraRecord, CaptureRecord, FrameRecord, write_capture_json
from core.data.lens import Lens
from smpl_renderer.errors import InputError

TOLERANCE = 1e-6  # of the file formats' decimal text; the readers themselves are exact


@pytest.fixture
def cameras():
    """Three cameras: K (pixel centres at +0.5), rotation, translation, size, distortion."""
    rng = np.random.default_rng(0)
    made = {}
    for index, name in enumerate(("cam1", "cam2", "cam10")):
        K = np.array([[900.0 + 50 * index, 0, 540.25], [0, 910.0, 955.75], [0, 0, 1]])
        R = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        made[name] = (K, R, rng.normal(size=3) + [0, 0, 3], (1080, 1920), rng.normal(size=5) * 0.05)
    return made


def assert_same(rig, cameras, *, lens=True, prefix="", units=1.0):
    assert {name.removeprefix(prefix) for name in rig.cameras} == set(cameras)
    for name, (K, R, t, size, distortion) in cameras.items():
        read = rig.cameras[prefix + name]
        np.testing.assert_allclose(read.K, K, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(read.T_cam_world[:3, :3], R, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(read.T_cam_world[:3, 3], t * units, rtol=0, atol=TOLERANCE)
        assert read.size in (size, None)
        if lens:
            count = len(read.lens.coefficients)
            np.testing.assert_allclose(read.lens.coefficients, distortion[:count], rtol=0, atol=TOLERANCE)


def opencv_matrix(name, values):
    values = np.atleast_2d(values)
    data = ", ".join(repr(float(x)) for x in values.ravel())
    return (
        f"{name}: !!opencv-matrix\n   rows: {values.shape[0]}\n   cols: {values.shape[1]}\n   dt: d\n"
        f"   data: [ {data} ]\n"
    )


def on_integers(K):
    """K as OpenCV has it, pixel centres on integers."""
    shifted = K.copy()
    shifted[:2, 2] -= 0.5
    return shifted


@pytest.mark.parametrize("rodrigues", [True, False])
def test_easymocap(tmp_path, cameras, rodrigues):
    names = "names:\n" + "".join(f'  - "{name}"\n' for name in cameras)
    intri, extri = "%YAML:1.0\n---\n" + names, "%YAML:1.0\n---\n" + names
    for name, (K, R, t, _, distortion) in cameras.items():
        intri += opencv_matrix(f"K_{name}", on_integers(K)) + opencv_matrix(f"dist_{name}", distortion[None])
        vector = Rotation.from_matrix(R).as_rotvec()[:, None]
        extri += opencv_matrix(f"R_{name}", vector) if rodrigues else opencv_matrix(f"Rot_{name}", R)
        extri += opencv_matrix(f"T_{name}", t[:, None])
    (tmp_path / "intri.yml").write_text(intri)
    (tmp_path / "extri.yml").write_text(extri)
    assert_same(find_calibration(tmp_path), cameras)


def write_pose2sim(path, cameras):
    text = ""
    for name, (K, R, t, size, distortion) in cameras.items():
        vector = Rotation.from_matrix(R).as_rotvec()
        text += f'[{name}]\nname = "{name}"\nsize = [ {size[0]}.0, {size[1]}.0]\n'
        text += f"matrix = {json.dumps(on_integers(K).tolist())}\ndistortions = {json.dumps(distortion[:4].tolist())}\n"
        text += f"rotation = {json.dumps(vector.tolist())}\ntranslation = {json.dumps(t.tolist())}\nfisheye = false\n\n"
    path.write_text(text + "[metadata]\nadjusted = false\nerror = 0.0\n")


def test_pose2sim_in_its_calibration_folder(tmp_path, cameras):
    pytest.importorskip("tomllib")
    (tmp_path / "calibration").mkdir()
    write_pose2sim(tmp_path / "calibration" / "Calib_scene.toml", cameras)
    rig = find_calibration(tmp_path)
    assert_same(rig, cameras)
    assert rig.up == (0, 0, 1) and rig.metric


def test_qualisys(tmp_path, cameras):
    text = "<?xml version='1.0'?>\n<calibration><cameras>"
    names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
    for name, (K, R, t, (width, height), distortion) in cameras.items():
        K, center, rows = on_integers(K), -R.T @ t * 1000, np.diag([1, -1, -1]) @ R
        lens = " ".join(f'{key}="{float(value)!r}"' for key, value in zip((*names, "radialDistortion3"), distortion))
        turn = " ".join(f'r{i + 1}{j + 1}="{float(rows[i, j])!r}"' for i in range(3) for j in range(3))
        text += f'<camera model="none" serial="{name}">'
        text += f'<fov_video left="0" top="0" right="{width - 1}" bottom="{height - 1}"/>'
        text += f'<transform {turn} x="{center[0]}" y="{center[1]}" z="{center[2]}"/>'
        text += f'<intrinsic focalLengthU="{K[0, 0] * 64}" focalLengthV="{K[1, 1] * 64}" '
        text += f'centerPointU="{K[0, 2] * 64}" centerPointV="{K[1, 2] * 64}" {lens}/></camera>'
    text += '<camera model="Miqus" serial="marker camera"/></cameras></calibration>'
    (tmp_path / "Calib.qca.txt").write_text(text)
    assert_same(find_calibration(tmp_path), cameras)


def test_opencv_one_file_per_camera(tmp_path, cameras):
    for name, (K, R, t, size, distortion) in cameras.items():
        text = f"%YAML:1.0\n---\nimage_width: {size[0]}\nimage_height: {size[1]}\n"
        text += opencv_matrix("camera_matrix", on_integers(K))
        text += opencv_matrix("distortion_coefficients", distortion[None])
        text += opencv_matrix("rvec", Rotation.from_matrix(R).as_rotvec()[:, None]) + opencv_matrix("tvec", t[:, None])
        (tmp_path / f"{name}.yml").write_text(text)
    assert_same(find_calibration(tmp_path), cameras)


def test_capture_json(tmp_path, cameras):
    records = {}
    for name, (K, R, t, size, distortion) in cameras.items():
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, t
        records[name] = CameraRecord(K, *size, T, Lens("opencv", tuple(distortion)))
    frames = [FrameRecord(1, {name: f"images/{name}.png" for name in cameras})]
    write_capture_json(tmp_path, CaptureRecord(records, frames, up="+z"))
    rig = read_calibration_file(tmp_path / "capture.json")
    assert_same(rig, cameras)
    assert rig.up == (0, 0, 1)


def test_nerfstudio(tmp_path, cameras):
    frames = []
    for name, (K, R, t, size, distortion) in cameras.items():
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, t
        T_world_cam = np.linalg.inv(T) @ np.diag([1, -1, -1, 1])
        k1, k2, p1, p2, k3 = distortion
        frame = {
            "file_path": f"./images/{name}.png",
            "transform_matrix": T_world_cam.tolist(),
            "w": size[0],
            "h": size[1],
        }
        frame |= {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
        frames.append(frame | {"k1": k1, "k2": k2, "p1": p1, "p2": p2, "k3": k3})
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_model": "OPENCV", "frames": frames}))
    rig = find_calibration(tmp_path)
    assert_same(rig, cameras, prefix="images/")
    assert rig.per_image and not rig.metric


def test_nerfstudio_of_fields_of_view(tmp_path):
    content = {"camera_angle_x": 2 * np.arctan(0.5), "w": 800, "h": 600}
    content["frames"] = [{"file_path": "a", "transform_matrix": np.eye(4).tolist()}]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    camera = find_calibration(tmp_path).cameras["a"]
    np.testing.assert_allclose(camera.K, [[800, 0, 400], [0, 800, 300], [0, 0, 1]], atol=1e-9)


def colmap_params(K, distortion):
    return [K[0, 0], K[1, 1], K[0, 2], K[1, 2], *distortion[:4]]


def wxyz(R):
    x, y, z, w = Rotation.from_matrix(R).as_quat()
    return w, x, y, z


def test_colmap_text(tmp_path, cameras):
    place = tmp_path / "sparse" / "0"
    place.mkdir(parents=True)
    lenses, images = "# Camera list\n", "# Image list\n"
    for index, (name, (K, R, t, size, distortion)) in enumerate(cameras.items(), start=1):
        params = " ".join(repr(float(x)) for x in colmap_params(K, distortion))
        lenses += f"{index} OPENCV {size[0]} {size[1]} {params}\n"
        pose = " ".join(repr(float(x)) for x in (*wxyz(R), *t))
        points = "" if index == 2 else "1.0 2.0 -1 3.0 4.0 7"  # the second line of an image may be empty
        images += f"{index} {pose} {index} {name}.jpg\n{points}\n"
    (place / "cameras.txt").write_text(lenses)
    (place / "images.txt").write_text(images)
    assert_same(find_calibration(tmp_path), cameras)


def test_colmap_binary(tmp_path, cameras):
    lenses, images = struct.pack("<Q", len(cameras)), struct.pack("<Q", len(cameras))
    for index, (name, (K, R, t, size, distortion)) in enumerate(cameras.items(), start=1):
        lenses += struct.pack("<iiQQ", index, 4, *size) + struct.pack("<8d", *colmap_params(K, distortion))
        images += struct.pack("<i7di", index, *wxyz(R), *t, index) + f"folder/{name}.jpg".encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1, 2, -1, 3, 4, 7)
    (tmp_path / "cameras.bin").write_bytes(lenses)
    (tmp_path / "images.bin").write_bytes(images)
    assert_same(find_calibration(tmp_path), cameras, prefix="folder/")
    (tmp_path / "images.bin").write_bytes(images[:-20])
    with pytest.raises(InputError, match="COLMAP"):
        find_calibration(tmp_path)


def test_colmap_models_have_the_published_number_of_parameters():
    # colmap.github.io/cameras.html
    assert [count for _, count in MODELS.values()] == [3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12]


@pytest.mark.parametrize("broken", ["not a rotation", "no file", "no calibration"])
def test_what_cannot_be_used_is_named(tmp_path, cameras, broken):
    pytest.importorskip("tomllib")
    path = tmp_path / "Calib.toml"
    if broken == "not a rotation":
        path = tmp_path / "a.yml"
        content = opencv_matrix("K", np.diag([500, 500, 1])) + opencv_matrix("T", np.zeros((3, 1)))
        path.write_text(content + opencv_matrix("R", np.diag([1, 1, 2])))
    elif broken == "no calibration":
        path = tmp_path
    with pytest.raises(InputError, match=str(path.name)):
        read_calibration_file(path)
    assert broken != "no calibration" or find_calibration(tmp_path) is None
