"""COLMAP's sparse models, text or binary: `cameras` and `images`. Pixel centres are at +0.5, the unit is arbitrary.

Source: https://colmap.github.io/format.html.
"""

import struct
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from core.capture.importers.rig import ImportedCamera, ImportedRig, checked, rigid
from core.data.lens import Lens
from smpl_renderer.bounded_files import CONTENT_ERRORS, check_file
from smpl_renderer.errors import InputError

MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
"""Number, name and number of parameters of camera models."""
MAX_MODEL_BYTES = 2**29
"""Largest file of a model; `images` also lists the points of each image."""


def find_model(folder: Path) -> Path | None:
    """The folder with COLMAP's files, in or below the usual places of a folder."""
    for place in (folder, folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0"):
        if any((place / f"cameras{suffix}").is_file() and (place / f"images{suffix}").is_file() for suffix in SUFFIXES):
            return place
    return None


SUFFIXES = (".bin", ".txt")


def read_colmap(folder: Path) -> ImportedRig:
    """Read a model folder (or one that contains it)."""
    place = find_model(folder)
    if place is None:
        raise InputError(f"{folder}: no COLMAP model (cameras.bin and images.bin, or .txt); name its sparse/0 folder")
    binary = (place / "cameras.bin").is_file() and (place / "images.bin").is_file()
    for kind in ("cameras", "images"):
        check_file(place / f"{kind}{'.bin' if binary else '.txt'}", MAX_MODEL_BYTES, "a COLMAP model")
    try:
        if binary:
            lenses = _read_cameras_binary((place / "cameras.bin").read_bytes())
            images = _read_images_binary((place / "images.bin").read_bytes())
        else:
            lenses = _read_cameras_text((place / "cameras.txt").read_text())
            images = _read_images_text((place / "images.txt").read_text())
        cameras = {
            Path(name).with_suffix("").as_posix(): _camera(*lenses[camera_id], quat, t)
            for name, camera_id, quat, t in images
        }
    except (OSError, struct.error, *CONTENT_ERRORS) as error:
        raise InputError(f"{place}: cannot be read as a COLMAP model ({error!r}); export it again") from error
    if not cameras:
        raise InputError(f"{place}: the model holds no images; run the reconstruction again")
    cameras = {name: checked(camera, name, place) for name, camera in cameras.items()}
    return ImportedRig(cameras, f"COLMAP {place}", metric=False, per_image=True)


def _camera(model: str, width: int, height: int, params: np.ndarray, quat: np.ndarray, t: np.ndarray) -> ImportedCamera:
    K, lens = intrinsics(model, params)
    R = Rotation.from_quat([*quat[1:], quat[0]]).as_matrix()  # COLMAP's order is w x y z
    return ImportedCamera(K, rigid(R, t), (width, height), lens)


def intrinsics(model: str, params: np.ndarray) -> tuple[np.ndarray, Lens | None]:
    """K and lens of a camera model.

    Raises:
        ValueError: For a model that cannot be expressed by OpenCV's two.
    """
    one_focal = model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
    fx, fy, cx, cy = (params[0], *params[:3]) if one_focal else params[:4]
    k = [float(x) for x in params[3 if one_focal else 4 :]]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], float)
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return K, None
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        return K, Lens("opencv", (*k, *[0.0] * (4 - len(k))))
    if model in ("OPENCV", "FULL_OPENCV"):
        return K, Lens("opencv", tuple(k))
    if model in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        return K, Lens("fisheye", (*k, *[0.0] * (4 - len(k))))
    raise ValueError(f"camera model {model} is not supported: undistort the images with COLMAP first")


def _read_cameras_text(text: str) -> dict[int, tuple]:
    lenses = {}
    for line in _lines(text):
        camera_id, model, width, height, *params = line.split()
        lenses[int(camera_id)] = (model, int(width), int(height), np.array(params, float))
    return lenses


def _read_images_text(text: str) -> list[tuple]:
    """Every other line lists 2D points, which may be empty."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    while lines and not lines[0].strip():
        lines = lines[1:]
    images = []
    for line in lines[::2]:
        if not line.strip():
            continue
        values = line.split(maxsplit=9)
        images.append((values[9], int(values[8]), np.array(values[1:5], float), np.array(values[5:8], float)))
    return images


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _read_cameras_binary(data: bytes) -> dict[int, tuple]:
    (count,), position, lenses = struct.unpack_from("<Q", data), 8, {}
    for _ in range(count):
        camera_id, model_id, width, height = struct.unpack_from("<iiQQ", data, position)
        name, num_params = MODELS[model_id]
        params = np.frombuffer(data, "<f8", num_params, position + 24)
        lenses[camera_id] = (name, width, height, params.copy())
        position += 24 + 8 * num_params
    return lenses


def _read_images_binary(data: bytes) -> list[tuple]:
    (count,), position, images = struct.unpack_from("<Q", data), 8, []
    for _ in range(count):
        values = struct.unpack_from("<i7di", data, position)
        position += struct.calcsize("<i7di")
        end = data.index(b"\0", position)
        name = data[position:end].decode("utf-8", "replace")
        (num_points,) = struct.unpack_from("<Q", data, end + 1)
        position = end + 9 + 24 * num_points
        if position > len(data):
            raise ValueError("the file is truncated")
        images.append((name, values[8], np.array(values[1:5]), np.array(values[5:8])))
    return images
