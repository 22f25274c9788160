"""Calibrations of pose2sim (`Calib*.toml`, also anipose's) and of Qualisys (`*.qca.txt`); the world is z-up."""

from pathlib import Path
from xml.etree import ElementTree

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
from smpl_renderer.bounded_files import CONTENT_ERRORS, MAX_TEXT_BYTES, check_file, load_text
from smpl_renderer.errors import InputError

MAX_TOML_BYTES = 2**19
"""Calibrations of a hundred cameras have 0.05 MB."""
MAX_TOML_LINE = 2**10
"""Characters; the time of `tomllib` grows with the square of the number of parts of a dotted key."""
Z_UP = (0.0, 0.0, 1.0)
QUALISYS_LENS = (
    *("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2", "radialDistortion3"),
)
"""Attributes of `intrinsic` in the order of OpenCV's coefficients k1, k2, p1, p2, k3."""


def is_pose2sim(path: Path) -> bool:
    """True if a TOML file describes cameras."""
    try:
        text = load_text(path)
    except InputError:
        return False
    return all(word in text for word in ("matrix", "rotation", "translation"))


def read_pose2sim(path: Path) -> ImportedRig:
    """Read a TOML file with one table per camera: `matrix`, `distortions`, `rotation` (Rodrigues), `translation`."""
    try:
        import tomllib
    except ImportError as error:  # Python 3.10
        raise InputError(f"{path}: reading TOML files needs Python 3.11 or newer; this is 3.10") from error
    text = load_text(path, MAX_TOML_BYTES, "a calibration")
    if max(map(len, text.split("\n"))) > MAX_TOML_LINE:
        raise InputError(f"{path}: has a line of more than {MAX_TOML_LINE} characters; export the calibration again")
    try:
        content = tomllib.loads(text)
        cameras = {
            str(table.get("name", key)): _camera(table)
            for key, table in content.items()
            if isinstance(table, dict) and "matrix" in table
        }
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: cannot be read as pose2sim's calibration ({error!r}); export it again") from error
    if not cameras:
        raise InputError(f"{path}: describes no cameras (tables with `matrix`); name the calibration's file")
    cameras = {name: checked(camera, name, path) for name, camera in cameras.items()}
    return ImportedRig(cameras, f"pose2sim {path}", up=Z_UP)


def _camera(table: dict) -> ImportedCamera:
    width, height = (round(x) for x in table["size"])
    T = rigid(rotation_from_vector(table["rotation"]), table["translation"])
    lens = opencv_lens(table.get("distortions", [0.0] * 4), bool(table.get("fisheye")))
    return ImportedCamera(shifted_to_centers(table["matrix"]), T, (width, height), lens)


def read_qualisys(path: Path) -> ImportedRig:
    """Read a `.qca.txt`: XML, millimetres, 64ths of a pixel; rotations of cameras that look along -z.

    Only cameras of a video model (or of model `none`) are taken. The distortion coefficients are OpenCV's: with them
    the chessboards of pose2sim's demo reproject to 0.64 px, without to 0.68 px, with a 64th of them also to 0.68 px.
    """
    check_file(path, MAX_TEXT_BYTES, "a calibration")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if "<!ENTITY" in text or "<!DOCTYPE" in text:
            raise ValueError("it declares XML entities")
        root = ElementTree.fromstring(text)
        cameras = {}
        for tag in root.iter("camera"):
            if not any(word in tag.get("model", "").lower() for word in ("video", "none")):
                continue
            cameras[tag.get("serial")] = _qualisys_camera(tag)
    except (OSError, ElementTree.ParseError, *CONTENT_ERRORS) as error:
        raise InputError(f"{path}: cannot be read as Qualisys' calibration ({error!r}); export it again") from error
    if not cameras:
        raise InputError(f"{path}: describes no video cameras; export the calibration again")
    return ImportedRig({n: checked(c, n, path) for n, c in cameras.items()}, f"Qualisys {path}", up=Z_UP)


def _qualisys_camera(tag: ElementTree.Element) -> ImportedCamera:
    view, place, optics = tag.find("fov_video").attrib, tag.find("transform").attrib, tag.find("intrinsic").attrib
    left, top, right, bottom = (float(view[name]) for name in ("left", "top", "right", "bottom"))
    fx, fy, cx, cy = (
        float(optics[name]) / 64 for name in ("focalLengthU", "focalLengthV", "centerPointU", "centerPointV")
    )
    K = np.array([[fx, 0, cx - left], [0, fy, cy - top], [0, 0, 1]])
    rows = np.array([[float(place[f"r{i}{j}"]) for j in (1, 2, 3)] for i in (1, 2, 3)])
    center = np.array([float(place[axis]) for axis in "xyz"]) / 1000
    # The file's matrix, transposed, has the camera's axes as columns: x right, y up, z backwards.
    R_world_cam = rows.T @ np.diag([1, -1, -1])
    R = R_world_cam.T
    size = round(right - left + 1), round(bottom - top + 1)
    lens = opencv_lens([float(optics.get(name, 0)) for name in QUALISYS_LENS])
    return ImportedCamera(shifted_to_centers(K), rigid(R, -R @ center), size, lens)
