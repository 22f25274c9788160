"""Calibrations of other tools, read into one form."""

from collections.abc import Callable
from pathlib import Path

from core.capture.importers.capture_json import read_capture_cameras
from core.capture.importers.colmap import find_model, read_colmap
from core.capture.importers.nerfstudio import read_transforms
from core.capture.importers.opencv_yaml import is_opencv_calibration, read_easymocap, read_opencv
from core.capture.importers.pose2sim import is_pose2sim, read_pose2sim, read_qualisys
from core.capture.importers.rig import ImportedCamera, ImportedRig
from smpl_renderer.bounded_files import MAX_JSON_BYTES, load_text
from smpl_renderer.errors import InputError

__all__ = ["ImportedCamera", "ImportedRig", "find_calibration", "read_calibration_file"]

PLACES = (".", "calibration", "calib", "cameras", "calibrations")
"""Folders, relative to the input, in which calibrations are searched for."""


def find_calibration(folder: Path) -> ImportedRig | None:
    """The calibration in or beside the images of a folder; None if there is none."""
    if not folder.is_dir():
        return None
    for place in (folder / name for name in PLACES):
        if place.is_dir() and (reader := _reader(place)) is not None:
            return reader()
    return None


def read_calibration_file(path: Path) -> ImportedRig:
    """Read a calibration that is named: a file of any known format, or a folder that holds one.

    Raises:
        InputError: If there is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; --calibration names a calibration")
    reader = _reader(path) if path.is_dir() else _file_reader(path)
    if reader is None:
        raise InputError(
            f"{path}: no calibration of a known format; known are capture.json, transforms.json (nerfstudio), COLMAP's "
            "sparse models, intri.yml and extri.yml (EasyMocap), Calib*.toml (pose2sim), *.qca.txt and OpenCV's *.yml"
        )
    return reader()


def _file_reader(path: Path) -> Callable[[], ImportedRig] | None:
    name = path.name.lower()
    if name in ("intri.yml", "extri.yml"):
        return lambda: read_easymocap(path.parent)
    if name in ("cameras.bin", "cameras.txt", "images.bin", "images.txt"):
        return lambda: read_colmap(path.parent)
    if name.endswith(".qca.txt"):
        return lambda: read_qualisys(path)
    if path.suffix == ".toml":
        return lambda: read_pose2sim(path)
    if path.suffix in (".yml", ".yaml"):
        return lambda: read_opencv([path])
    if path.suffix == ".json":
        return lambda: _read_json(path)
    return None


def _read_json(path: Path) -> ImportedRig:
    text = load_text(path, MAX_JSON_BYTES, "JSON")
    return read_transforms(path) if '"transform_matrix"' in text else read_capture_cameras(path)


def _reader(folder: Path) -> Callable[[], ImportedRig] | None:
    if (folder / "capture.json").is_file():
        return lambda: read_capture_cameras(folder)
    if (folder / "transforms.json").is_file():
        return lambda: read_transforms(folder)
    if (folder / "intri.yml").is_file() and (folder / "extri.yml").is_file():
        return lambda: read_easymocap(folder)
    tomls = [path for path in sorted(folder.glob("*.toml")) if is_pose2sim(path)]
    if tomls:
        return lambda: read_pose2sim(tomls[-1])
    qualisys = sorted(folder.glob("*.qca.txt"))
    if qualisys:
        return lambda: read_qualisys(qualisys[-1])
    if find_model(folder) is not None:
        return lambda: read_colmap(folder)
    yamls = [path for path in sorted(folder.glob("*.y*ml")) if is_opencv_calibration(path)]
    if yamls:
        return lambda: read_opencv(yamls)
    return None
