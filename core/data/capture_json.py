"""Our own capture format: `capture.json` beside folders of images, masks and fits. docs/data.md describes the file.

Everything in the file is in one world, whose up axis it states. Lengths are in metres, `T_cam_world` takes world points
to the camera (OpenCV axes), K is in pixels of `width` x `height` with pixel centres at +0.5.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from core.data.lens import Lens
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

CAPTURE_FILE = "capture.json"
FORMAT, VERSION = "hgg-capture", 1
UP_AXES = {
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+z": (0, 0, 1),
    "-z": (0, 0, -1),
}


@dataclass(frozen=True)
class CameraRecord:
    """One camera; static over the capture."""

    K: Float[np.ndarray, "3 3"]
    """In pixels of `width` x `height`, pixel centres at +0.5."""
    width: int
    height: int
    T_cam_world: Float[np.ndarray, "4 4"]
    """World to camera, in metres."""
    lens: Lens | None = None
    """None for undistorted images."""


@dataclass(frozen=True)
class FrameRecord:
    """One frame."""

    id: int
    """Positive and unique."""
    images: dict[str, str]
    """Path of the image by camera name, relative to the capture's folder, with `/`."""
    masks: dict[str, str] = field(default_factory=dict)
    """Path of the mask by camera name; a camera without one has its mask in the image's alpha."""
    fit: str | dict[str, Any] | None = None
    """Path of the fit, or the fit itself (`fit_record`); None for a frame without fit."""
    time: float | None = None
    """Seconds."""


@dataclass(frozen=True)
class CaptureRecord:
    """Content of a `capture.json`."""

    cameras: dict[str, CameraRecord]
    frames: Sequence[FrameRecord]
    up: str = "-z"
    """The world's up axis: one of `UP_AXES`."""
    body_fingerprint: str | None = None
    """Fingerprint of the body that the fits are for; None stands for SMPL."""
    body_name: str | None = None
    source: dict[str, Any] | None = None
    """Notes of the writer, which readers ignore."""


def fit_record(params: BodyParams) -> dict[str, Any]:
    """The JSON object of a fit without batch axes; its `transl` and `global_orient` are in the world of the file."""
    if params.batch_shape:
        raise ValueError(f"params must have no batch axes, got {tuple(params.batch_shape)}; index one fit")
    names = ("betas", "global_orient", "body_pose", "transl", "scale")
    return {name: getattr(params, name).detach().cpu().double().tolist() for name in names}


def write_capture_json(folder: Path, record: CaptureRecord) -> Path:
    """Write `capture.json` into a folder, whole or not at all; images, masks and fits are written by the caller before.

    Raises:
        InputError: If a camera name or path is not allowed, or the record contradicts itself.
    """
    path = Path(folder) / CAPTURE_FILE
    content = json.dumps(_to_json(record), indent=1)
    with atomic_path(path) as temporary:
        temporary.write_text(content + "\n", encoding="utf-8")
    return path


def _to_json(record: CaptureRecord) -> dict[str, Any]:
    if record.up not in UP_AXES:
        raise InputError(f"up must be one of {', '.join(UP_AXES)}, got {record.up!r}")
    body = None
    if record.body_fingerprint is not None:
        body = {"name": record.body_name, "fingerprint": record.body_fingerprint}
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "up": record.up,
        "body": body,
        "cameras": {name: _camera_to_json(camera) for name, camera in record.cameras.items()},
        "frames": [_frame_to_json(frame) for frame in sorted(record.frames, key=lambda frame: frame.id)],
    }
    return content if record.source is None else content | {"source": record.source}


def _camera_to_json(camera: CameraRecord) -> dict[str, Any]:
    content: dict[str, Any] = {
        "K": np.asarray(camera.K, np.float64).tolist(),
        "width": int(camera.width),
        "height": int(camera.height),
        "T_cam_world": np.asarray(camera.T_cam_world, np.float64).tolist(),
    }
    if camera.lens is not None:
        content["distortion"] = {"model": camera.lens.model, "coefficients": list(camera.lens.coefficients)}
    return content


def _frame_to_json(frame: FrameRecord) -> dict[str, Any]:
    content: dict[str, Any] = {"id": frame.id}
    if frame.time is not None:
        content["time"] = frame.time
    content["images"] = dict(frame.images)
    if frame.masks:
        content["masks"] = dict(frame.masks)
    if frame.fit is not None:
        content["fit"] = frame.fit
    return content
