"""Reading a subject folder: cameras, files, fits."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import DOTS, TinyCapture, standing, write_refit

from core.data.fits import posed_vertices
from core.data.readers import open_capture
from core.data.verification import verify
from smpl_renderer.errors import InputError

SMALL = {"image_size": (153, 128), "num_cameras": 4, "frames": (5, 10)}


@pytest.fixture
def tiny():
    return TinyCapture(**SMALL)


@pytest.mark.parametrize(
    "rig, calibrated, size, four", [("24", (2448, 2048), (153, 128), False), ("48", (4096, 3000), (68, 50), True)]
)
def test_cameras_project_as_the_format_states(rig, calibrated, size, four, tmp_path):
    tiny = TinyCapture(rig, calibrated, size, frames=(5,), four_number_centers=four)
    capture = open_capture(tiny.write(tmp_path / "209001"))
    assert capture.camera_names == sorted(tiny.names)
    assert all(capture.camera(name).size == calibrated for name in tiny.names)
    cameras = capture.cameras(tiny.names)
    pixels, _ = cameras.project(torch.from_numpy(DOTS).expand(len(tiny.names), -1, 3))
    for name, found in zip(tiny.names, pixels.numpy()):
        np.testing.assert_allclose(found, tiny.project(name, DOTS) + 0.5, atol=1e-4)  # centres at +0.5 here


@pytest.mark.parametrize(
    "center, expected",
    [
        ([1223.5, 1023.5, 2448, 2048], (2448, 2048)),
        ([1223.5, 1023.5], (2448, 2048)),
        ([1220.0, 1030.0], (2448, 2048)),  # a principal point near the middle: snapped to the known rig
    ],
)
def test_calibrated_size(tiny, tmp_path, center, expected):
    folder = tiny.write(tmp_path / "209001")
    records = json.loads((folder / "camera_extrinsics.json").read_text())
    for record in records.values():
        record["image_center"] = center
    (folder / "camera_extrinsics.json").write_text(json.dumps(records))
    intrinsics = {"intrinsics": [[1638.4, 0, center[0]], [0, 1638.4, center[1]], [0, 0, 1]]}
    (folder / "camera_intrinsics.json").write_text(json.dumps(intrinsics))
    assert open_capture(folder).camera(tiny.names[0]).size == expected


def test_the_first_of_two_records_of_a_camera_counts(tiny, tmp_path):
    folder = tiny.write(tmp_path / "209001")
    path = folder / "camera_extrinsics.json"
    records = json.loads(path.read_text())
    key = next(key for key in records if key.startswith("0_0_"))
    other = dict(records[key], translation=[0, 0, 1])
    path.write_text(json.dumps({"0_1_" + key.removeprefix("0_0_"): other, **records}))
    name = key.removeprefix("0_0_").removesuffix(".png")
    expected = tiny.scale * tiny.translations[name] / 1000
    np.testing.assert_allclose(open_capture(folder).cameras([name]).viewmats[0, :3, 3], expected)


def test_cameras_without_folder_and_folders_without_camera(tiny, tmp_path):
    folder = tiny.write(tmp_path / "209001")
    (folder / "images_lr" / tiny.names[0]).rename(folder / "images_lr" / "99999999")
    capture = open_capture(folder)
    assert capture.camera_names == sorted(tiny.names[1:])
    with pytest.raises(InputError, match=rf"camera {tiny.names[0]} has no folder"):
        capture.cameras([tiny.names[0]])
    with pytest.raises(InputError, match=r"camera 99999999 is not in camera_extrinsics\.json; usable are"):
        capture.frames_of("99999999")


@pytest.mark.parametrize("images, masks", [("images", "fmask"), ("images_lr", "fmask_lr")])
def test_both_spellings_of_the_folders(images, masks, tmp_path):
    tiny = TinyCapture(**SMALL, image_folder=images, mask_folder=masks)
    capture = open_capture(tiny.write(tmp_path / "209001"))
    assert capture.frame_ids == [5, 10]
    image_path, mask_path = capture.files(tiny.names[0], 5)
    assert image_path.parts[-3] == images and mask_path.parts[-3] == masks
    assert capture.image(tiny.names[0], 5).shape == (128, 153, 3)
    assert set(np.unique(capture.mask(tiny.names[0], 5))) == {0, 255}


def test_frames_go_by_presence(tiny, tmp_path, body):
    folder = tiny.write(tmp_path / "209001", body)
    (folder / "smpl_param/000000.pkl").unlink()  # a hole: what is first by position belongs to frame 10
    (folder / "images_lr" / tiny.names[0] / "0010_img.jpg").unlink()
    (folder / "fmask_lr" / tiny.names[1] / "0010_img_fmask.png").unlink()
    capture = open_capture(folder)
    assert sorted(capture.fits) == [10]
    assert capture.fits[10].name == "000001.pkl"
    assert capture.frames_of(tiny.names[0]) == [5]
    assert capture.frames_of(tiny.names[1]) == [5]
    assert capture.frame_ids == [5, 10]
    assert capture.complete_frames(tiny.names[2:]) == [10]
    assert capture.complete_frames(tiny.names) == []
    with pytest.raises(InputError, match=r"frame 0005 has no fit: .*000000\.pkl"):
        capture.fit(5, body)
    with pytest.raises(InputError, match=rf"camera {tiny.names[0]} has no frame 0010"):
        capture.files(tiny.names[0], 10)


def test_smpl_param_reposes_to_its_vertices(tiny, tmp_path, body):
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    for i, frame in enumerate((5, 10)):
        expected = posed_vertices(standing(i), body)
        found = posed_vertices(capture.fit(frame, body), body)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32 matrices and vertices of some metres


def test_refits_come_first_and_are_in_the_raw_world(tiny, tmp_path, body):
    folder = tiny.write(tmp_path / "209001", body)
    refit = standing(3)
    refit.scale.fill_(1.07)
    write_refit(folder / "optimized_smpl_points/0010.json", refit, body)
    capture = open_capture(folder)
    torch.testing.assert_close(capture.fit(10, body).body_pose, refit.body_pose)
    torch.testing.assert_close(capture.fit(10, body).scale, refit.scale)
    assert capture.fit(5, body).scale == 1
    # The vertices beside it are swapped to (x, z, -y): read otherwise, they would be metres off and refused.
    ply = (folder / "optimized_smpl_points/0010.ply").read_text().splitlines()
    x, z, minus_y = map(float, ply[7].split()[:3])
    found = posed_vertices(refit, body)[0]
    torch.testing.assert_close(found, torch.tensor([x, -minus_y, z], dtype=found.dtype), rtol=0, atol=1e-5)


def test_body_is_found_by_fingerprint(tiny, tmp_path, body):
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    assert capture.body_fingerprint == body.fingerprint
    assert capture.body().fingerprint == body.fingerprint
    assert open_capture(TinyCapture(**SMALL).write(tmp_path / "209002")).body_fingerprint is None  # SMPL


def test_moved_camera_is_left_out(tmp_path, body, caplog):
    tiny = TinyCapture(**SMALL | {"num_cameras": 6})
    folder = tiny.write(tmp_path / "209001", body)
    capture = open_capture(folder)
    assert verify(capture, body) == []
    assert capture.camera_names == sorted(tiny.names)

    path = folder / "camera_extrinsics.json"
    records = json.loads(path.read_text())
    moved = next(key for key in records if tiny.names[2] in key)
    records[moved]["translation"][0] += 300 / tiny.scale  # 0.3 m
    path.write_text(json.dumps(records))
    capture = open_capture(folder)
    with caplog.at_level(logging.WARNING):
        assert verify(capture, body) == [tiny.names[2]]
    assert tiny.names[2] in caplog.text
    assert capture.camera_names == sorted(set(tiny.names) - {tiny.names[2]})
    with pytest.raises(InputError, match="is left out"):
        capture.cameras([tiny.names[2]])


def test_a_wrong_scale_is_an_error(tiny, tmp_path, body):
    folder = tiny.write(tmp_path / "209001", body)
    tiny.scale = 0.8
    tiny._write_cameras(folder)
    with pytest.raises(InputError, match=r"do not meet the masks .* check camera_scale\.pkl"):
        verify(open_capture(folder), body)


def test_verify_takes_masks_of_any_size(tmp_path, body):
    tiny = TinyCapture(**SMALL, mask_size=(306, 256))
    assert verify(open_capture(tiny.write(tmp_path / "209001", body)), body) == []


def test_opening_reads_no_image(tiny, tmp_path, body, monkeypatch):
    folder = tiny.write(tmp_path / "209001", body)
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **kwargs: opened.append(path) or original(path, **kwargs))
    capture = open_capture(folder)
    assert capture.frame_ids == [5, 10] and capture.complete_frames(capture.camera_names) == [5, 10]
    assert not opened
    capture.image(tiny.names[0], 5)
    assert opened
