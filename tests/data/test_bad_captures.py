"""Hand-broken folders: one line that names the thing and the remedy."""

import json
import math
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import FRONT_LEFT_BACK_RIGHT, TinyCapture, standing, write_refit

from core.data.dataset import load_frames
from core.data.protocol import PROTOCOLS, resolve
from core.data.readers import open_capture
from core.data.verification import verify
from smpl_renderer.errors import InputError

FRONT, LEFT, BACK, RIGHT = FRONT_LEFT_BACK_RIGHT


@pytest.fixture(scope="module")
def good(tmp_path_factory, body):
    """A sound capture of four cameras and two frames."""
    tiny = TinyCapture(image_size=(77, 64), num_cameras=4, frames=(5, 10))
    return tiny.write(tmp_path_factory.mktemp("good") / "209001", body)


@pytest.fixture
def folder(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "209001"))


def use(folder: Path, body) -> None:
    """All that inference does with a capture."""
    capture = open_capture(folder)
    verify(capture, body)
    plan = resolve(PROTOCOLS["quick"], capture, body)
    frames = plan.observed_frames + plan.novel_frames
    load_frames(capture, body, frames, plan.input_views, plan.input_views[0], 32, "person")


def refused(folder: Path, body) -> str:
    with pytest.raises(InputError) as error:
        use(folder, body)
    message = str(error.value)
    assert "\n" not in message and len(message) < 450
    return message


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_pickle(path: Path, **changes) -> None:
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**content, **changes}, protocol=4))


def test_the_capture_is_good(folder, body):
    use(folder, body)


def test_missing_folder(tmp_path, body):
    assert "no such folder" in refused(tmp_path / "nowhere", body)


@pytest.mark.parametrize("name", ["camera_intrinsics.json", "camera_extrinsics.json", "camera_scale.pkl"])
def test_missing_camera_file(folder, body, name):
    (folder / name).unlink()
    message = refused(folder, body)
    assert f"209001/{name}: no such file" in message
    if name == "camera_scale.pkl":
        assert "100/65" in message  # this rig's value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"{}", b'{"a": 1}', b'{"a_b.png": {}}'])
@pytest.mark.parametrize("name", ["camera_intrinsics.json", "camera_extrinsics.json", "body.json"])
def test_broken_json(folder, body, name, content):
    (folder / name).write_bytes(content)
    assert name in refused(folder, body)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "cannot be read"),
        (b"\x80\x04garbage", "cannot be read"),
        (pickle.dumps("1.5"), "holds a str, expected one number"),
        (pickle.dumps(math.nan), "no scale|cannot be read"),
        (pickle.dumps(-1.0), "no scale|cannot be read"),
    ],
)
def test_broken_scale(folder, body, content, reason):
    (folder / "camera_scale.pkl").write_bytes(content)
    message = refused(folder, body)
    assert "camera_scale.pkl" in message and "100/65" in message
    assert any(part in message for part in reason.split("|"))


@pytest.mark.parametrize(
    "key, value",
    [
        ("rotation", [[1, 0, 0], [0, 1, 0]]),
        ("rotation", [[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("rotation", [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("translation", [1, 2, math.nan]),
        ("translation", ["x", "y", "z"]),
        ("translation", None),
    ],
)
def test_broken_camera_record(folder, body, key, value):
    def change(records):
        next(record for name, record in records.items() if BACK in name)[key] = value

    edit_json(folder / "camera_extrinsics.json", change)
    message = refused(folder, body)
    assert "camera_extrinsics.json" in message and f"camera {BACK}" in message and f"`{key}`" in message


def test_broken_intrinsics(folder, body):
    edit_json(folder / "camera_intrinsics.json", lambda c: c.update(intrinsics=[[0, 0, 0], [0, 0, 0], [0, 0, 1]]))
    assert "camera_intrinsics.json: `intrinsics` is no camera matrix" in refused(folder, body)


@pytest.mark.parametrize("size", [[0, 2048], [-2448, 2048], [math.nan, 2048], [None, 2048], ["a", "b"]])
def test_broken_picture_size(folder, body, size):
    def change(records):
        next(record for name, record in records.items() if BACK in name)["image_center"] = [1223.5, 1023.5, *size]

    edit_json(folder / "camera_extrinsics.json", change)
    message = refused(folder, body)
    assert "camera_extrinsics.json" in message and f"camera {BACK}" in message and "`image_center`" in message


def test_principal_point_outside_of_the_picture(folder, body):
    K = [[1638.4, 0, -1223.5], [0, 1638.4, 1023.5], [0, 0, 1]]
    edit_json(folder / "camera_intrinsics.json", lambda c: c.update(intrinsics=K))
    edit_json(
        folder / "camera_extrinsics.json", lambda c: [r.update(image_center=[-1223.5, 1023.5]) for r in c.values()]
    )
    message = refused(folder, body)
    assert "the principal point (-1223.5, 1023.5) of camera_intrinsics.json is outside of the image" in message


@pytest.mark.parametrize("dist", [[0.1, 0.0], ["a"], {"k1": 0.1}, [float("nan")] * 4])
def test_broken_distortion(folder, body, dist):
    edit_json(folder / "camera_intrinsics.json", lambda c: c.update(dist=dist))
    assert "camera_intrinsics.json: `dist` is no lens distortion" in refused(folder, body)


def test_no_camera_has_pictures(folder, body):
    shutil.rmtree(folder / "images_lr")
    assert "no images: there is no folder images_lr/<camera>" in refused(folder, body)


def test_camera_folders_are_empty(folder, body):
    for path in folder.glob("images_lr/*/*"):
        path.unlink()
    assert "no images: images_lr/<camera> holds no <FFFF>_img.jpg (8 masks and 2 fits" in refused(folder, body)


def test_fewer_cameras_are_all_used(folder, body):
    shutil.rmtree(folder / "images_lr" / LEFT)
    assert resolve(PROTOCOLS["quick"], open_capture(folder), body).input_views == [FRONT, BACK, RIGHT]
    use(folder, body)


@pytest.mark.parametrize("kind, end", [("images_lr", "img.jpg"), ("fmask_lr", "img_fmask.png")])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "directory"])
def test_unreadable_picture(folder, body, kind, end, damage):
    path = folder / kind / LEFT / f"0005_{end}"
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>404</html>"}[damage])
    message = refused(folder, body)
    assert f"{LEFT}/0005_{end}: cannot be read as an image" in message


def test_picture_of_another_shape(folder, body):
    path = folder / "images_lr" / FRONT / "0005_img.jpg"
    Image.new("RGB", (64, 64)).save(path)
    assert "0005_img.jpg: 64 x 64 pixels are of another shape than the camera's 2448 x 2048" in refused(folder, body)


def test_mask_of_another_size_works(folder, body):
    path = folder / "fmask_lr" / LEFT / "0005_img_fmask.png"
    Image.open(path).resize((154, 128), Image.Resampling.NEAREST).save(path)
    use(folder, body)


def test_frame_missing_in_one_camera_works(folder, body):
    (folder / "images_lr" / LEFT / "0010_img.jpg").unlink()
    assert resolve(PROTOCOLS["quick"], open_capture(folder), body).observed_frames == [5]
    use(folder, body)
    with pytest.raises(InputError, match=rf"camera {LEFT} has no frame 0010: .*0010_img\.jpg"):
        load_frames(open_capture(folder), body, [10], [FRONT, LEFT], FRONT, 32, "center")


def test_unknown_camera_asked_for(folder, body):
    with pytest.raises(InputError, match=rf"camera 12345678 is not in camera_extrinsics\.json; usable are .*{LEFT}"):
        load_frames(open_capture(folder), body, [5], ["12345678"], FRONT, 32, "center")


def test_no_fits(folder, body):
    shutil.rmtree(folder / "smpl_param")
    assert "no fits: neither optimized_smpl_points/<FFFF>.json nor smpl_param/" in refused(folder, body)


def test_missing_fit_asked_for(folder, body):
    (folder / "smpl_param/000001.pkl").unlink()
    use(folder, body)  # the other frame is there
    with pytest.raises(InputError, match=r"frame 0010 has no fit: .*optimized_smpl_points/0010\.json .*000001\.pkl"):
        load_frames(open_capture(folder), body, [10], [FRONT], FRONT, 32, "center")


@pytest.mark.parametrize("key", ["betas", "body_pose", "global_orient", "joints", "vertices"])
def test_nan_in_a_fit(folder, body, caplog, key):
    """The frame is left out; a capture with such fits only is refused."""
    for path in (folder / "smpl_param/000001.pkl", folder / "smpl_param/000000.pkl"):
        value = pickle.loads(path.read_bytes())[key].clone()
        value.view(-1)[1] = math.nan
        edit_pickle(path, **{key: value})
        if path.stem == "000001":
            use(folder, body)
            assert f"frame 0010 is left out: {path}: `{key}` of the fit holds NaN" in caplog.text
    assert f".pkl: `{key}` of the fit holds NaN" in refused(folder, body)


@pytest.mark.parametrize(("key", "value"), [("betas", 1e4), ("joints", 1e30), ("joints", -1e308)])
def test_absurd_numbers_in_a_fit(folder, body, caplog, key, value):
    path = folder / "smpl_param/000001.pkl"
    stored = pickle.loads(path.read_bytes())[key].double()
    edit_pickle(path, **{key: torch.full_like(stored, value), "vertices": None})
    use(folder, body)
    assert f"frame 0010 is left out: {path}: `" in caplog.text and "which is no person's" in caplog.text


@pytest.mark.parametrize(
    "key, value",
    [("body_pose", None), ("global_orient", torch.zeros(1, 4)), ("vertices", torch.zeros(1, 6890, 2)), ("betas", [])],
)
def test_broken_fit(folder, body, key, value):
    edit_pickle(folder / "smpl_param/000001.pkl", **{"full_pose": None, key: value})
    message = refused(folder, body)
    assert "000001.pkl" in message and f"`{key}`" in message


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", pickle.dumps([1, 2])])
def test_unreadable_fit(folder, body, content):
    (folder / "smpl_param/000001.pkl").write_bytes(content)
    assert "000001.pkl" in refused(folder, body)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def test_malicious_fit(folder, body, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / "smpl_param/000001.pkl").write_bytes(pickle.dumps(Evil(), protocol=4))
    assert "000001.pkl" in refused(folder, body)
    assert not (tmp_path / "evil").exists()


def test_fit_of_another_body_of_the_same_size(folder, body):
    vertices = pickle.loads((folder / "smpl_param/000001.pkl").read_bytes())["vertices"]
    edit_pickle(folder / "smpl_param/000001.pkl", vertices=vertices + torch.tensor([0.0, 0.0, 0.02]))
    message = refused(folder, body)
    assert "000001.pkl" in message and "20 mm away" in message and body.fingerprint in message and "--body" in message


def test_refit_of_another_body_without_vertices(folder, body):
    for i, frame in enumerate((5, 10)):
        write_refit(folder / f"optimized_smpl_points/{frame:04d}.json", standing(i))
        path = folder / f"smpl_param/{frame // 5 - 1:06d}.pkl"
        vertices = pickle.loads(path.read_bytes())["vertices"]
        edit_pickle(path, vertices=vertices + torch.tensor([0.0, 0.0, 0.02]))
    assert "smpl_param/" in refused(folder, body)


def test_broken_original_beside_a_good_refit_works(folder, body):
    for i, frame in enumerate((5, 10)):
        write_refit(folder / f"optimized_smpl_points/{frame:04d}.json", standing(i))
    path = folder / "smpl_param/000001.pkl"
    vertices = pickle.loads(path.read_bytes())["vertices"]
    edit_pickle(path, vertices=vertices + torch.tensor([0.0, 0.0, 0.02]))
    (folder / "smpl_param/000000.pkl").write_bytes(b"broken")
    capture = open_capture(folder)
    assert capture.fit(5, body).scale == 1
    with pytest.raises(InputError, match="20 mm away"):  # the next original shows that this is another body
        capture.fit(10, body)


@pytest.mark.parametrize("count", [10474, 10475])
def test_fit_of_another_body_of_another_size(folder, body, count):
    edit_pickle(folder / "smpl_param/000001.pkl", vertices=torch.zeros(1, count, 3))
    assert f"000001.pkl: the fit stores {count} vertices" in refused(folder, body)


@pytest.mark.parametrize(
    "key, value",
    [("pose", [[0.0] * 87]), ("translation", [0, 0]), ("scale", 0), ("scale", -1.0)],
)
def test_broken_refit(folder, body, key, value):
    path = folder / "optimized_smpl_points/0010.json"
    write_refit(path, standing(1))
    use(folder, body)
    edit_json(path, lambda content: content.update({key: value}))
    message = refused(folder, body)
    assert "0010.json" in message and f"`{key}`" in message


def test_refit_that_is_not_its_point_cloud(folder, body):
    path = folder / "optimized_smpl_points/0010.json"
    write_refit(path, standing(1), body)
    use(folder, body)
    edit_json(path, lambda content: content.update(scale=[1.05]))
    assert "0010.json" in refused(folder, body)
    write_refit(path, standing(1), body)
    lines = path.with_suffix(".ply").read_text().splitlines()
    path.with_suffix(".ply").write_text("\n".join([*lines[:-1], "nan nan nan"]))
    assert "0010.ply: holds NaN" in refused(folder, body)
    path.with_suffix(".ply").write_text("ply\nnonsense\n")
    assert "0010.ply: cannot be read as a point cloud" in refused(folder, body)


def test_capture_names_another_body(folder, body):
    edit_json(folder / "body.json", lambda content: content.update(fingerprint="0123456789abcdef"))
    assert "0123456789abcdef" in refused(folder, body) and body.fingerprint in refused(folder, body)
    with pytest.raises(InputError, match="no body with fingerprint 0123456789abcdef"):
        open_capture(folder).body()


def test_person_behind_a_camera(folder, body):
    fit = standing(1)
    fit.transl[0] += 30
    write_refit(folder / "optimized_smpl_points/0010.json", fit)
    with pytest.raises(InputError, match=r"209001: the fit of frame 0010 reaches behind camera"):
        load_frames(open_capture(folder), body, [10], [FRONT], FRONT, 32, "person")


def test_nothing_is_wanted(folder, body):
    for nothing in ({"input_views": ()}, {"observed_frames": ()}):
        with pytest.raises(InputError, match=r"209001: no .* at least one"):
            resolve(replace(PROTOCOLS["quick"], **nothing), open_capture(folder), body)


def test_masks_that_are_empty(folder, body):
    for path in folder.glob("fmask_lr/*/*.png"):
        Image.fromarray(np.zeros((64, 77), np.uint8)).save(path)
    assert re.search(
        r"in most cameras, the image of frame \d+ cannot be used: its mask is empty", refused(folder, body)
    )
