"""YAML files of OpenCV's `FileStorage`: matrices, numbers and lists of names, without OpenCV or a YAML package."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from core.capture.importers.rig import (
    ImportedCamera,
    ImportedRig,
    checked,
    opencv_lens,
    rigid,
    rotation_from_vector,
    shifted_to_centers,
)
from smpl_renderer.bounded_files import CONTENT_ERRORS, MAX_TEXT_BYTES, load_text
from smpl_renderer.errors import InputError

_MATRIX = re.compile(
    r"^[ \t]*(?P<name>[\w.\-]+)[ \t]*:[ \t]*!!opencv-matrix\s+rows[ \t]*:[ \t]*(?P<rows>\d+)"
    r"\s+cols[ \t]*:[ \t]*(?P<cols>\d+)\s+dt[ \t]*:[ \t]*\S+\s+data[ \t]*:[ \t]*\[(?P<data>[^\]]*)\]",
    re.MULTILINE,
)
_SCALAR = re.compile(r"^[ \t]*([\w.\-]+)[ \t]*:[ \t]*([^\s!\[][^\n]*)$", re.MULTILINE)
_LIST = re.compile(r"^[ \t]*([\w.\-]+)[ \t]*:[ \t]*\n((?:[ \t]*-[ \t]*[^\n]+\n?)+)", re.MULTILINE)
K_NAMES = ("K", "camera_matrix", "cameraMatrix", "Camera_Matrix", "intrinsic_matrix", "M")
DISTORTION_NAMES = ("dist", "D", "distortion_coefficients", "distCoeffs", "Distortion_Coefficients", "dist_coeffs")
ROTATION_NAMES = ("Rot", "R", "rvec", "rotation", "rotation_vector", "rotation_matrix")
TRANSLATION_NAMES = ("T", "t", "tvec", "translation", "translation_vector")
WIDTH_NAMES, HEIGHT_NAMES = (
    ("image_width", "image_Width", "width", "W"),
    ("image_height", "image_Height", "height", "H"),
)


def read_file_storage(path: Path) -> dict[str, Any]:
    """Matrices as arrays, numbers as float, lists as lists of text; other content is left out.

    Raises:
        InputError: If the file cannot be read or a matrix is not of its stated size.
    """
    text = load_text(path, kind="a calibration")
    values: dict[str, Any] = {}
    for match in _LIST.finditer(text):
        values[match[1]] = [line.strip()[1:].strip().strip("\"'") for line in match[2].strip().splitlines()]
    for match in _SCALAR.finditer(text):
        try:
            values[match[1]] = float(match[2])
        except ValueError:
            continue
    for match in _MATRIX.finditer(text):
        try:
            data = np.array([float(x) for x in match["data"].replace(",", " ").split()])
            values[match["name"]] = data.reshape(int(match["rows"]), int(match["cols"]))
        except ValueError as error:
            raise InputError(f"{path}: matrix {match['name']} is broken ({error}); export it again") from error
    return values


def read_easymocap(folder: Path) -> ImportedRig:
    """Read `intri.yml` and `extri.yml` of EasyMocap; metres."""
    intri_path, extri_path = folder / "intri.yml", folder / "extri.yml"
    intri, extri = read_file_storage(intri_path), read_file_storage(extri_path)
    names = intri.get("names") or [key[2:] for key in intri if key.startswith("K_")]
    cameras = {}
    for name in names:
        try:
            K = shifted_to_centers(intri[f"K_{name}"])
            distortion = intri.get(f"dist_{name}", intri.get(f"D_{name}", np.zeros(5)))
            Rot = extri.get(f"Rot_{name}")
            R = Rot if Rot is not None else rotation_from_vector(extri[f"R_{name}"])
            size = intri.get(f"W_{name}"), intri.get(f"H_{name}")
            size = (int(size[0]), int(size[1])) if all(size) else None
            camera = ImportedCamera(K, rigid(R, extri[f"T_{name}"]), size, opencv_lens(distortion))
        except KeyError as error:
            raise InputError(f"{folder}: camera {name} lacks {error} in its files; export again") from error
        except CONTENT_ERRORS as error:
            raise InputError(f"{folder}: camera {name}: {error}; export the calibration again") from error
        cameras[name] = checked(camera, name, folder)
    if not cameras:
        raise InputError(f"{intri_path}: names no cameras; export the calibration again")
    return ImportedRig(cameras, f"EasyMocap {folder}")


def is_opencv_calibration(path: Path) -> bool:
    """True if a YAML file holds a camera matrix under one of OpenCV's usual names."""
    try:
        text = load_text(path, MAX_TEXT_BYTES)
    except InputError:
        return False
    return "!!opencv-matrix" in text and any(re.search(rf"^\s*{name}\s*:", text, re.MULTILINE) for name in K_NAMES)


def read_opencv(paths: list[Path]) -> ImportedRig:
    """Read one YAML file per camera, named like the camera. A single file may lack the pose: it is the world then."""
    cameras = {}
    for path in paths:
        values = read_file_storage(path)
        K = _first(values, K_NAMES)
        R, t = _first(values, ROTATION_NAMES), _first(values, TRANSLATION_NAMES)
        if K is None or np.shape(K) != (3, 3):
            raise InputError(f"{path}: holds no 3 x 3 camera matrix ({', '.join(K_NAMES)}); add it, or calibrate again")
        if (R is None or t is None) and len(paths) > 1:
            raise InputError(
                f"{path}: has no rotation and translation ({', '.join(ROTATION_NAMES[:3])}; T, tvec); add it"
            )
        width, height = _first(values, WIDTH_NAMES), _first(values, HEIGHT_NAMES)
        try:
            R = np.eye(3) if R is None else R if np.size(R) == 9 else rotation_from_vector(R)
            t = np.zeros(3) if t is None else np.asarray(t)
            size = (int(width), int(height)) if width and height else None
            distortion = _first(values, DISTORTION_NAMES)
            fisheye = bool(values.get("fisheye"))
            lens = None if distortion is None else opencv_lens(distortion, fisheye)
            camera = ImportedCamera(shifted_to_centers(K), rigid(R, t), size, lens)
        except CONTENT_ERRORS as error:
            raise InputError(f"{path}: {error}; export the calibration again") from error
        cameras[path.stem] = checked(camera, path.stem, path)
    return ImportedRig(cameras, f"OpenCV {paths[0] if len(paths) == 1 else paths[0].parent}")


def _first(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if name in values), None)
