"""Camera paths from a file: JSON with one or several cameras, in the form of `capture.json`.

    {"up": "+y", "cameras": [{"K": 3x3, "width": 640, "height": 640, "T_cam_world": 4x4}, ...]}

The world is that of animations: the floor at height 0, metres, the motion beginning above the origin. One camera stays;
several are passed at even intervals from the beginning of the animation to its end.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp

from core.data.up_axis import UP_AXES, raw_from_world
from core.types.cameras import Cameras
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

MAX_SIDE = 4096
MAX_CAMERAS = 100_000
MAX_ELEMENT = 1e6
"""Largest element of a matrix, in pixels or metres; the renderer computes in float32."""


def read_camera_path(path: Path, count: int) -> Cameras:
    """Cameras [count] of the frames of an animation.

    Raises:
        InputError: If the file is missing or holds something else.
    """
    content = load_json(path)
    try:
        records = content["cameras"]
        records = list(records.values()) if isinstance(records, dict) else records
        if not isinstance(records, list) or not 1 <= len(records) <= MAX_CAMERAS:
            raise ValueError(f"`cameras` must list 1 to {MAX_CAMERAS} cameras")
        Ks = np.stack([_matrix(record, "K", 3) for record in records])
        viewmats = np.stack([_matrix(record, "T_cam_world", 4) for record in records])
        sizes = {(int(record["width"]), int(record["height"])) for record in records}
        up = content.get("up", "+y")
        if len(sizes) > 1 or not all(16 <= side <= MAX_SIDE for side in next(iter(sizes))):
            raise ValueError(f"`width` and `height` must be the same of all cameras, 16 to {MAX_SIDE}")
        if up not in UP_AXES:
            raise ValueError(f"`up` must be one of {', '.join(UP_AXES)}, got {up!r}")
    except CONTENT_ERRORS as error:
        reason = f"it lacks `{error.args[0]}`" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: holds no camera path ({reason}); docs/motion.md describes the file") from error
    to_y_up = (raw_from_world("+y").T @ raw_from_world(up)).numpy()
    viewmats, Ks = interpolate_cameras(viewmats @ to_y_up.T, Ks, count)
    width, height = sizes.pop()
    return Cameras(torch.from_numpy(viewmats).float(), torch.from_numpy(Ks).float(), width, height)


def interpolate_cameras(
    viewmats: Float[np.ndarray, "K 4 4"], Ks: Float[np.ndarray, "K 3 3"], count: int
) -> tuple[Float[np.ndarray, "T 4 4"], Float[np.ndarray, "T 3 3"]]:
    """Cameras at `count` (T) even intervals between key cameras: centres and Ks linearly, rotations along arcs."""
    if len(viewmats) == 1 or count == 1:
        return np.repeat(viewmats[:1], count, 0), np.repeat(Ks[:1], count, 0)
    if len(viewmats) == count:
        return viewmats, Ks
    known, wanted = np.arange(len(viewmats)), np.linspace(0, len(viewmats) - 1, count)
    R = viewmats[:, :3, :3]
    centers = -np.einsum("tji,tj->ti", R, viewmats[:, :3, 3])

    def linear(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(values), -1).T
        return np.stack([np.interp(wanted, known, row) for row in flat], 1).reshape(count, *values.shape[1:])

    result = np.tile(np.eye(4), (count, 1, 1))
    result[:, :3, :3] = Slerp(known, Rotation.from_matrix(R))(wanted).as_matrix()
    result[:, :3, 3] = -np.einsum("tij,tj->ti", result[:, :3, :3], linear(centers))
    return result, linear(Ks)


def write_camera_path(path: Path, cameras: Cameras) -> None:
    """Write cameras [C] of a y-up world as a file for `read_camera_path`, atomically."""
    records = [
        {"K": K.tolist(), "width": cameras.width, "height": cameras.height, "T_cam_world": viewmat.tolist()}
        for viewmat, K in zip(cameras.viewmats, cameras.Ks)
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"up": "+y", "cameras": records}, indent=1), encoding="utf-8")


def _matrix(record: Any, key: str, size: int) -> np.ndarray:
    matrix = np.array(record[key], np.float64)
    if matrix.shape != (size, size) or not (np.abs(matrix) <= MAX_ELEMENT).all():
        raise ValueError(f"`{key}` must be {size} x {size} numbers")
    R = matrix[:3, :3]
    if size == 4 and (np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0):
        raise ValueError(f"`{key}` is no rigid transform")
    return matrix
