"""A sound capture whose cameras, world and fits are written otherwise: the same is read, or a true reason is given."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bent_captures import (
    TINY,
    Bends,
    assert_same,
    each_camera,
    each_fit,
    edit,
    images,
    lists,
    masks,
    move_world,
    read,
    warp,
)
from PIL import Image
from scipy.spatial.transform import Rotation

from smpl_renderer.errors import InputError

same, refused = Bends(), Bends()
SIZE = np.array(TINY.image_size)


def rename_cameras(folder: Path, name_of, key_of) -> None:
    """Rename folders and keys; the names keep their order."""
    old = sorted(TINY.names)
    new = dict(zip(old, sorted(name_of(i) for i in range(len(old))), strict=True))

    def change(records: dict) -> None:
        named = {key.removesuffix(".png").split("_")[-1]: record for key, record in records.items()}
        records.clear()
        records.update({key_of(new[name]): record for name, record in named.items()})

    edit(folder / "camera_extrinsics.json", change)
    for kind in ("images_lr", "fmask_lr"):
        for name in old:
            (folder / kind / name).rename(folder / kind / f"new {name}")
        for name in old:
            (folder / kind / f"new {name}").rename(folder / kind / new[name])


@same(0)
def names_with_underscores(folder):
    rename_cameras(folder, lambda i: f"cam_{i + 1:02d}", lambda name: f"0_0_{name}.png")


@same(0)
def keys_without_prefix_and_suffix(folder):
    rename_cameras(folder, lambda i: f"cam_{i + 1:02d}", lambda name: name)


@same(0)
def keys_with_other_suffixes(folder):
    rename_cameras(folder, lambda i: f"GoPro {i}", lambda name: f"1_{name}.JPG")


@same(0)
def keys_in_other_case(folder):
    rename_cameras(folder, lambda i: f"Cam{i}", lambda name: name.upper())


@same(0)
def names_that_end_like_others(folder):
    rename_cameras(folder, lambda i: "1_" * i + "7", lambda name: name)


@same(0)
def names_that_are_small_numbers(folder):
    rename_cameras(folder, str, lambda name: f"0_0_{name}.png")


@same(0)
def principal_point_moved(folder):
    """The files lose 20 columns on the left and 9 rows on top."""
    for path in [*images(folder), *masks(folder)]:
        image = Image.open(path)
        image.crop((20, 9, *image.size)).save(path)

    def move(record):
        record["intrinsics"][0][2] -= 40
        record["intrinsics"][1][2] -= 18

    edit(folder / "camera_intrinsics.json", move)
    each_camera(folder, lambda _, record: record.pop("image_center"))


ZOOMS = dict(zip(TINY.names[1:3], (1.12, 0.93)))


def zoom_files(folder: Path) -> None:
    for path in [*images(folder), *masks(folder)]:
        if zoom := ZOOMS.get(path.parent.name):
            warp(path, lambda pixels, zoom=zoom: SIZE / 2 + (pixels - SIZE / 2) / zoom)


@same(3)
def lenses_of_two_cameras(folder):
    zoom_files(folder)

    def change(name, record):
        record["focal_length"] = [f * ZOOMS.get(name, 1) for f in record["focal_length"]]

    each_camera(folder, change)


@same(3)
def matrices_of_two_cameras(folder):
    zoom_files(folder)

    def change(name, record):
        K = TINY.K.copy()
        K[[0, 1], [0, 1]] *= ZOOMS.get(name, 1)
        record["intrinsics"] = K.tolist()
        del record["focal_length"], record["image_center"]

    each_camera(folder, change)


def distort_files(folder: Path, distorted) -> None:
    """Give the files a lens: `distorted` maps ideal points at depth 1. Its inverse is found by iteration."""
    focal, centre = TINY.K[0, 0] / 2, SIZE / 2  # of the files

    def source_of(pixels):
        target = (pixels - centre) / focal
        ideal = target.copy()
        for _ in range(60):
            ideal += target - distorted(ideal)
        return ideal * focal + centre

    for path in [*images(folder), *masks(folder)]:
        warp(path, source_of)


@same(3)
def distorted_images(folder):
    k1, k2, p1, p2, k3 = dist = [0.12, -0.05, 0.004, -0.003, 0.01]

    def distorted(points):
        x, y = points[..., 0], points[..., 1]
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        moved = [2 * p1 * x * y + p2 * (r2 + 2 * x**2), p1 * (r2 + 2 * y**2) + 2 * p2 * x * y]
        return points * radial[..., None] + np.stack(moved, -1)

    distort_files(folder, distorted)
    edit(folder / "camera_intrinsics.json", lambda record: record.update(dist=[dist]))


@same(3)
def fisheye_images(folder):
    ks = [0.05, -0.02, 0.01, 0.003]

    def distorted(points):
        r = np.linalg.norm(points, axis=-1, keepdims=True)
        theta = np.arctan(r)
        bent = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(ks)))
        return points * np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1)

    distort_files(folder, distorted)
    each_camera(folder, lambda _, record: record.update(dist=ks, dist_model="fisheye"))


@same(0)
def scale_as_an_array(folder):
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(np.array([TINY.scale]), 4))


@same(0)
def scale_as_a_numpy_number(folder):
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(np.float64(TINY.scale), 4))


@same(0)
def scale_as_a_tensor(folder):
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(torch.tensor(TINY.scale, dtype=torch.float64), 4))


@same(0)
def translations_as_columns(folder):
    each_camera(folder, lambda _, record: record.update(translation=[[x] for x in record["translation"]]))


# The same world about other axes. The subject frame does not depend on it.


@same(0)
def world_of_y_up(folder):
    move_world(folder, Rotation.from_euler("x", 90, degrees=True).as_matrix())


@same(0)
def world_of_y_down(folder):
    move_world(folder, Rotation.from_euler("x", -90, degrees=True).as_matrix())


@same(0)
def world_of_z_up(folder):
    move_world(folder, Rotation.from_euler("x", 180, degrees=True).as_matrix())


@same(0.01)
def world_of_x_up_and_turned(folder):
    move_world(folder, Rotation.from_euler("zyx", [20, 90, 0], degrees=True).as_matrix())


# Fits.


@same(0)
def fits_in_axis_angle(folder):
    each_fit(folder, lambda fit: fit)


@same(0)
def fits_in_single_precision(folder):
    each_fit(folder, lambda fit: {name: value.astype(np.float32)[0] for name, value in fit.items()})


@same(0)
def fits_in_matrices(folder):
    def matrices(fit):
        for name in ("global_orient", "body_pose"):
            fit[name] = Rotation.from_rotvec(fit[name].reshape(-1, 3)).as_matrix()[None]
        return fit

    each_fit(folder, matrices)


@same(0)
def fits_as_tensors(folder):
    each_fit(folder, lambda fit: {name: torch.from_numpy(value.copy()) for name, value in fit.items()})


@same(0)
def fits_as_parameters(folder):
    def parameters(fit):
        return {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in fit.items()}

    each_fit(folder, parameters)


@same(0)
def fits_of_torch_save(folder):
    each_fit(folder, lambda fit: {name: torch.from_numpy(value.copy()) for name, value in fit.items()}, ".pt")


@same(0)
def fits_of_torch_save_with_parameters(folder):
    def parameters(fit):
        return {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in fit.items()}

    each_fit(folder, parameters, ".pth")


@same(0)
def fits_as_npz(folder):
    each_fit(folder, lambda fit: fit, ".npz")


@same(0)
def fits_as_json(folder):
    each_fit(folder, lists, ".json")


@same(0)
def fits_of_one_vector(folder):
    def joined(fit):
        pose = np.concatenate([fit.pop("global_orient"), fit.pop("body_pose")], 1)
        return {"poses": pose, "shapes": fit["betas"], "trans": fit["transl"], "gender": "neutral"}

    each_fit(folder, joined)


@same(0)
def fits_of_joints_and_rows(folder):
    def joined(fit):
        pose = np.concatenate([fit["global_orient"], fit["body_pose"]], 1)
        return {"pose": pose.reshape(24, 3).tolist(), "betas": fit["betas"][0].tolist(), "transl": fit["transl"][0]}

    each_fit(folder, joined)


@pytest.mark.parametrize("count", [16, 300])
def test_further_betas_of_zero(sound, body, tmp_path, count):
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    each_fit(folder, lambda fit: fit | {"betas": np.pad(fit["betas"], ((0, 0), (0, count - 10)))})
    assert_same(read(folder, body), sound[1], 0)


@pytest.mark.parametrize("scale", [1, 1.0, [1.0], [[1.0]], np.float32(1), np.ones((1, 1)), torch.ones(1)])
def test_scales_of_any_kind(sound, body, tmp_path, scale):
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    each_fit(folder, lambda fit: fit | {"scale": scale})
    assert_same(read(folder, body), sound[1], 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fits_in_half_precision(sound, body, tmp_path, dtype):
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    each_fit(folder, lambda fit: fit | {"body_pose": torch.from_numpy(fit["body_pose"].copy()).to(dtype)})
    torch.testing.assert_close(read(folder, body).body.body_pose, sound[1].body.body_pose, atol=1e-2, rtol=0)


# What contradicts itself.


@refused(r"focal lengths \(491\.\d+, 491\.\d+\).* has focal lengths \(409\.6, 409\.6\).*correct one of the two")
def all_records_of_another_lens(folder):
    each_camera(folder, lambda _, record: record.update(focal_length=[1.2 * f for f in record["focal_length"]]))


@refused(r"focal lengths \(450\.\d+, 409\.6\)")
def a_skewed_record(folder):
    each_camera(folder, lambda _, record: record.update(focal_length=[1.1 * 409.6, 409.6]))


@refused("contradicts itself: `focal_length` is")
def a_record_that_contradicts_itself(folder):
    each_camera(folder, lambda _, record: record.update(intrinsics=(TINY.K * [[1.3], [1.3], [1]]).tolist()))


@refused("do not meet the masks .*camera_scale.pkl")
def translations_in_metres(folder):
    each_camera(folder, lambda _, record: record.update(translation=[x / 1000 for x in record["translation"]]))


@refused("do not meet the masks|reaches behind")
def cameras_to_world(folder):
    def invert(_, record):
        R, t = np.array(record["rotation"]), np.array(record["translation"])
        record.update(rotation=R.T.tolist(), translation=(-R.T @ t).tolist())

    each_camera(folder, invert)


@refused(r"are both records of the camera")
def two_records_of_one_camera(folder):
    def double(records):
        key = next(iter(records))
        name = key.removesuffix(".png").split("_")[-1]
        records[f"{name}.jpg"] = records[key] | {"translation": [0, 0, 3000]}

    edit(folder / "camera_extrinsics.json", double)


@refused("must be 69 or 207 numbers, got 63 .SMPL-X or SMPL-H")
def fits_of_smplx(folder):
    each_fit(folder, lambda fit: fit | {"body_pose": fit["body_pose"][:, :63]})


@refused("holds the fits of 2 people")
def fits_of_two_people(folder):
    each_fit(folder, lambda fit: [lists(fit), lists(fit)], ".json")


@refused(r"has no `transl` or `translation` or `trans` or `Th`")
def fits_without_translation(folder):
    each_fit(folder, lambda fit: {name: value for name, value in fit.items() if name != "transl"})


@pytest.mark.slow
@pytest.mark.parametrize("name", same)
def test_the_same_is_read(sound, body, tmp_path, name):
    bend, tolerance = same[name]
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    bend(folder)
    assert_same(read(folder, body), sound[1], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", refused)
def test_what_contradicts_itself_is_refused(sound, body, tmp_path, name):
    bend, message = refused[name]
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    bend(folder)
    with pytest.raises(InputError, match=message) as error:
        read(folder, body)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
