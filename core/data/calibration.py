"""A capture's camera files: `camera_intrinsics.json`, `camera_extrinsics.json` and `camera_scale.pkl`.

In the files pixel centres lie on integers and translations are unscaled millimetres. Both end here: from a
`Calibration` on, pixel centres are at +0.5 and lengths are metres.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.types.cameras import Cameras
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_float_pickle

logger = logging.getLogger(__name__)

RIG_SCALES = {(4096, 3000): "120/65", (2448, 2048): "100/65"}
"""Calibrated width and height of MVHumanNet's two rigs, and the value that `camera_scale.pkl` has there."""


@dataclass(frozen=True)
class Calibration:
    """All cameras of a capture, in the raw world (z down) and in pixels of the calibrated size; float64."""

    viewmats: dict[str, Float[Tensor, "4 4"]]
    """World to camera, by camera name."""
    K: Float[Tensor, "3 3"]
    width: int
    height: int

    def cameras(self, names: list[str]) -> Cameras:
        """Some of the cameras, in this order."""
        viewmats = torch.stack([self.viewmats[name] for name in names])
        return Cameras(viewmats, self.K.expand(len(names), 3, 3), self.width, self.height)


def read_calibration(folder: Path) -> Calibration:
    """Read the three camera files of a subject folder.

    A world point X is at `R X + scale * t / 1000` in a camera, with R, t of the extrinsics.

    Raises:
        InputError: If a file is missing, cannot be read, or holds something else.
    """
    intrinsics_path, extrinsics_path = folder / "camera_intrinsics.json", folder / "camera_extrinsics.json"
    intrinsics, records = read_json(intrinsics_path), read_json(extrinsics_path)
    K = _array(intrinsics, "intrinsics", 9, intrinsics_path).reshape(3, 3)
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], [0, 0, 1]):
        raise InputError(f"{intrinsics_path}: `intrinsics` is not a camera matrix; get the file again")
    if np.any(intrinsics.get("dist") or 0):
        logger.warning("%s: lens distortion is not modelled; `dist` is ignored", intrinsics_path)
    if not isinstance(records, dict) or not records:
        raise InputError(f"{extrinsics_path}: expected an object with one record per camera; get the file again")

    records = _by_camera(records)
    width, height = _calibrated_size(K, records, extrinsics_path)
    scale = _read_scale(folder / "camera_scale.pkl", width, height)
    viewmats = {name: _viewmat(record, scale, extrinsics_path, name) for name, record in records.items()}
    K[:2, 2] += 0.5  # pixel centres: from integers to +0.5
    return Calibration(viewmats, torch.from_numpy(K), width, height)


def read_json(path: Path) -> Any:
    """Read a JSON file of a capture.

    Raises:
        InputError: If it is missing or broken.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the capture is incomplete, unpack it again") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); get the file again") from error


def _by_camera(records: dict[str, dict]) -> dict[str, dict]:
    """Camera records under their names: what stands between the last `_` and `.png` of `1_<name>.png` or
    `0_0_<name>.png`.

    Of several records of a camera (`0_0_` and `0_1_`) the first in order is taken.
    """
    named: dict[str, dict] = {}
    for key in sorted(records):
        named.setdefault(key.rsplit("_", 1)[-1].removesuffix(".png"), records[key])
    return named


def _calibrated_size(K: np.ndarray, records: dict[str, dict], path: Path) -> tuple[int, int]:
    """Width and height of the pictures that K is for.

    No file states them for all subjects: they are the third and fourth number of `image_center` where it has four, else
    they follow from the principal point, which is the picture's centre in MVHumanNet.
    """
    stated = set()
    for name, record in records.items():
        center = record.get("image_center") if isinstance(record, dict) else None
        if isinstance(center, list) and len(center) == 4:
            size = _array(record, "image_center", 4, path, f"camera {name}")[2:]
            if size.min() < 1:
                raise InputError(f"{path}: `image_center` of camera {name} ends in no picture size; correct it")
            stated.add((round(size[0]), round(size[1])))
    if len(stated) > 1:
        raise InputError(
            f"{path}: cameras of different sizes {sorted(stated)} in `image_center`; one size is supported"
        )
    if stated:
        return stated.pop()
    centred = (2 * K[0, 2] + 1, 2 * K[1, 2] + 1)
    for rig in RIG_SCALES:
        if all(abs(c - r) < 0.01 * r for c, r in zip(centred, rig)):
            return rig
    if min(centred) < 1:
        raise InputError(
            f"{path.with_name('camera_intrinsics.json')}: the principal point of `intrinsics` is not in the picture; "
            "get the file again"
        )
    return round(centred[0]), round(centred[1])


def _read_scale(path: Path, width: int, height: int) -> float:
    """The factor from the files' unit to metres (and 1000); it decides where every camera stands, so nothing is
    assumed."""
    known = RIG_SCALES.get((width, height))
    remedy = (
        f"this rig's value is {known}, write that" if known else "120/65 and 100/65 are the values of MVHumanNet's rigs"
    )
    try:
        scale = read_float_pickle(path)
    except (InputError, OSError) as error:
        reason = "no such file" if not path.is_file() else f"cannot be read ({error})"
        raise InputError(
            f"{path}: {reason}; it scales all cameras: get it again ({remedy} as a pickled float)"
        ) from error
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"{path}: holds {scale}, which is no scale; {remedy} as a pickled float")
    return scale


def _viewmat(record: dict, scale: float, path: Path, name: str) -> Float[Tensor, "4 4"]:
    where = f"camera {name}"
    R = _array(record, "rotation", 9, path, where).reshape(3, 3)
    t = _array(record, "translation", 3, path, where)
    # MVHumanNet's own are orthonormal to 1.3e-6.
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise InputError(f"{path}: `rotation` of {where} is not a rotation; get the file again or remove this record")
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = R, scale * t / 1000
    return torch.from_numpy(viewmat)


def _array(record: Any, key: str, size: int, path: Path, where: str = "the file") -> np.ndarray:
    """`size` finite numbers of a record, flat, in float64."""
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{path}: {where} has no `{key}`; get the file again")
    try:
        values = np.asarray(record[key], dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size != size or not np.isfinite(values).all():
        raise InputError(f"{path}: `{key}` of {where} must be {size} finite numbers; get the file again")
    return values
