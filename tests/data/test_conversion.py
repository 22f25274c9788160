"""Conversion between MVHumanNet's layout and capture.json: the same cameras, fits and images, there and back."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from bent_captures import TINY, assert_same, each_camera, edit, images, masks, pairs, pixels, read, write_sound
from forked_script import run_script
from PIL import Image
from scipy.spatial.transform import Rotation

from core.data.capture import Capture
from core.data.conversion import convert_capture
from core.data.readers import open_capture
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def sound(tmp_path_factory, body):
    return write_sound(tmp_path_factory.mktemp("sound") / "209001", body)


@pytest.fixture
def folder(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "209001"))


def there_and_back(folder: Path, body, out: Path) -> tuple[Capture, Capture, Capture]:
    """The capture, the copy with capture.json, and the copy of that in MVHumanNet's layout."""
    captures = [open_capture(folder)]
    for name, layout in (("capture", "capture"), ("back", "mvhumannet")):
        convert_capture(captures[-1], out / name / "209001", layout, body)
        captures.append(open_capture(out / name / "209001"))
    return tuple(captures)


def assert_same_cameras(first: Capture, second: Capture) -> None:
    assert first.camera_names == second.camera_names
    for name in first.camera_names:
        a, b = first.camera(name), second.camera(name)
        assert a.size == b.size and (a.lens is None) == (b.lens is None)
        torch.testing.assert_close(a.K, b.K, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.viewmat, b.viewmat, rtol=0, atol=1e-6)
        if a.lens is not None:
            assert a.lens == b.lens


def distort(folder):
    lenses = [([0.05, -0.02, 0.001, 0.002, 0.01], "opencv"), ([0.05, -0.02, 0.01, 0.003], "fisheye"), ([], "opencv")]

    def change(name, record):
        dist, model = lenses[TINY.names.index(name) % 3]
        record.update(dist=dist, dist_model=model)

    each_camera(folder, change)


def zoom(folder):
    def change(name, record):
        K = TINY.K.copy()
        K[[0, 1], [0, 1]] *= 1 + 0.01 * TINY.names.index(name)
        record["intrinsics"] = K.tolist()
        del record["focal_length"], record["image_center"]

    each_camera(folder, change)


def alpha(folder):
    for image, mask in pairs(folder):
        Image.fromarray(np.dstack([pixels(image), pixels(mask)])).save(image)
    shutil.rmtree(folder / "fmask_lr")


def turned(folder):
    """One image is stored on its side; its mask is not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = images(folder)[0]
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def labels(folder):
    for path in masks(folder):
        Image.fromarray((pixels(path) > 127).astype(np.uint8)).save(path)


def holes(folder):
    (folder / "smpl_param/000001.pkl").unlink()
    masks(folder)[1].unlink()


def names_that_end_alike(folder):
    """Two names of which one ends like the other."""
    first, second = sorted(TINY.names)[:2]

    def change(records):
        for key in list(records):
            name = key.removesuffix(".png").split("_")[-1]
            records[{first: "cam_1", second: "1"}.get(name, name)] = records.pop(key)

    edit(folder / "camera_extrinsics.json", change)
    for kind in ("images_lr", "fmask_lr"):
        for name, other in ((first, "cam_1"), (second, "1")):
            (folder / kind / name).rename(folder / kind / other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "bend",
    [lambda _: None, distort, zoom, alpha, turned, labels, holes, names_that_end_alike],
    ids=lambda f: f.__name__,
)
def test_there_and_back(folder, body, tmp_path, bend):
    bend(folder)
    original, copy, back = there_and_back(folder, body, tmp_path)
    for other in (copy, back):
        assert_same_cameras(original, other)
        assert other.frame_ids == original.frame_ids and sorted(other.fits) == sorted(original.fits)
        assert other.body_fingerprint == original.body_fingerprint
        assert_same(read(other.path, body), read(folder, body), 0)


def test_copies_hold_no_distortion_twice(folder, body, tmp_path):
    """Files are copied as they are, with the lens beside them."""
    distort(folder)
    _, copy, back = there_and_back(folder, body, tmp_path)
    for capture in (copy, back):
        for name in capture.camera_names:
            for frame in capture.frames_of(name):
                path = capture.files(name, frame).image
                assert path.read_bytes() == (folder / "images_lr" / name / f"{frame:04d}_img.png").read_bytes()


def test_a_world_of_another_axis_becomes_the_raw_one(folder, body, tmp_path):
    """capture.json states the axis; the copy in MVHumanNet's layout is z-down, as its readers expect."""
    _, copy, _ = there_and_back(folder, body, tmp_path)
    T = np.eye(4)
    T[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # (x, y, z) of z-down to y-down: up is -y

    def turn(record):
        record["up"] = "+y"
        for camera in record["cameras"].values():
            camera["T_cam_world"] = (np.array(camera["T_cam_world"]) @ T.T).tolist()

    edit(copy.path / "capture.json", turn)
    for path in (copy.path / "fits").iterdir():
        fit = json.loads(path.read_text())
        move_fit(fit, T[:3, :3], body)
        path.write_text(json.dumps(fit))
    convert_capture(open_capture(copy.path), tmp_path / "raw" / "209001", "mvhumannet", body)
    raw = open_capture(tmp_path / "raw" / "209001")
    vertical = [
        raw.camera(name).viewmat[1, 2] for name in raw.camera_names
    ]  # image y along the world's z, which is down
    assert min(vertical) > 0.8
    assert_same(read(raw.path, body), read(folder, body), 0.01)


def move_fit(fit: dict, R: np.ndarray, body) -> None:
    """Turn a fit about the origin: the root joint stays that of the rest pose."""
    betas = torch.tensor(fit["betas"], dtype=torch.float64)
    pelvis = (body.joint_template[:3].double() + body.joint_dirs[:3, : len(betas)].double() @ betas).numpy()
    fit["global_orient"] = (Rotation.from_matrix(R) * Rotation.from_rotvec(fit["global_orient"])).as_rotvec().tolist()
    fit["transl"] = (R @ (pelvis + fit["transl"]) - pelvis).tolist()


def run(*arguments: object) -> subprocess.CompletedProcess:
    return run_script("scripts/convert_capture.py", *arguments)


def test_the_script_writes_a_folder_per_subject_and_never_twice(folder, tmp_path):
    done = run(tmp_path, "--out", tmp_path / "out", "--to", "capture")
    assert done.returncode == 0 and (tmp_path / "out/209001/capture.json").is_file(), done.stderr
    again = run(tmp_path / "209001", "--out", tmp_path / "out", "--to", "capture")
    assert again.returncode == 2 and again.stderr.splitlines()[-1].startswith(
        f"error: {tmp_path / 'out/209001'}: exists"
    )
    before = sorted(path for path in folder.rglob("*"))
    broken = masks(folder)[-1]
    broken.write_bytes(broken.read_bytes()[:500])
    failed = run(folder, "--out", tmp_path / "second", "--to", "mvhumannet", "--no-check")
    assert failed.returncode == 2 and failed.stderr.splitlines()[-1].startswith(f"error: {broken}: ")
    assert not list((tmp_path / "second").iterdir()) and sorted(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a/b", "..", "a\\b", "", "a\nb"])
def test_names_of_cameras_cannot_leave_the_copy(folder, body, tmp_path, name):
    """Neither from MVHumanNet's keys nor from capture.json."""

    def rename(records):
        records[name] = records.pop(next(iter(records)))

    convert_capture(open_capture(folder), tmp_path / "copy", "capture", body)
    edit(tmp_path / "copy/capture.json", lambda record: rename(record["cameras"]))
    edit(folder / "camera_extrinsics.json", rename)
    before = sorted(tmp_path.parent.rglob("*"))
    for source in (folder, tmp_path / "copy"):
        with pytest.raises(InputError, match=r"is not allowed as a name|which is not in `cameras`"):
            convert_capture(open_capture(source), tmp_path / "out" / "209001", "capture", body)
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "images/../../secret.png", "C:/secret.png", "a\\b.png"]
)
@pytest.mark.parametrize("kind", ["images", "masks", "fit"])
def test_paths_of_a_capture_cannot_leave_it(folder, body, tmp_path, kind, path):
    convert_capture(open_capture(folder), tmp_path / "copy", "capture", body)

    def change(record):
        frame = record["frames"][0]
        if kind == "fit":
            frame["fit"] = path
        else:
            frame[kind][next(iter(frame[kind]))] = path

    edit(tmp_path / "copy/capture.json", change)
    with pytest.raises(InputError, match=r"capture\.json: frame 5: .* (leaves the folder|is no path)"):
        open_capture(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["images", "masks", "fits"])
def test_links_out_of_a_capture_are_refused(folder, body, tmp_path, kind):
    convert_capture(open_capture(folder), tmp_path / "copy", "capture", body)
    inside = next(path for path in sorted((tmp_path / "copy" / kind).rglob("*")) if path.is_file())
    inside.rename(tmp_path / "secret")
    inside.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link that leads out of"):
        read(tmp_path / "copy", body)
