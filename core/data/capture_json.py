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

from core.data.input_files import check_name, check_path, read_json
from core.data.lens import Lens
from core.data.up_axis import UP_AXES
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

CAPTURE_FILE = "capture.json"
FORMAT, VERSION = "hgg-capture", 1
MISSING = "name the folder of a capture, or write the file as docs/data.md describes"


@dataclass(frozen=True)
class CameraRecord:
    """One camera; static over the capture."""

    K: Float[np.ndarray, "3 3"]
    """Intrinsics in pixels of `width` x `height`, pixel centres at +0.5."""
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
    """Positive and unique; 0 is read, too."""
    images: dict[str, str]
    """Path of the image by camera name, relative to the capture's folder, with `/`."""
    masks: dict[str, str] = field(default_factory=dict)
    """Path of the mask by camera name; a camera without one has its mask in the image's alpha."""
    fit: str | dict[str, Any] | None = None
    """Path of the fit, or the fit itself (`fit_record`); None for a frame without fit."""
    time: float | None = None
    """Time in seconds."""


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
    is_checked: bool = False
    """True if all images were checked against the fits (packed copies); readers do not check them again."""


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
    content = _to_json(record)
    _from_json(content, path)  # what readers refuse is not written
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _to_json(record: CaptureRecord) -> dict[str, Any]:
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
    if record.is_checked:
        content["checked"] = True
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
    content: dict[str, Any] = {"id": int(frame.id)}
    if frame.time is not None:
        content["time"] = float(frame.time)
    content["images"] = dict(frame.images)
    if frame.masks:
        content["masks"] = dict(frame.masks)
    if frame.fit is not None:
        content["fit"] = frame.fit
    return content


def read_capture_json(folder: Path) -> CaptureRecord:
    """Read the `capture.json` of a folder. Paths are checked as text; the files are opened by their users.

    Raises:
        InputError: If the file is missing, broken, of another version, or contradicts itself.
    """
    path = Path(folder) / CAPTURE_FILE
    return _from_json(read_json(path, MISSING), path)


def _from_json(content: Any, path: Path) -> CaptureRecord:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f'{path}: expected an object with "format": "{FORMAT}"; docs/data.md describes the file')
    if content.get("version") != VERSION:
        raise InputError(
            f"{path}: `version` is {content.get('version')!r}, expected {VERSION}; write it as docs/data.md"
        )
    up = content.get("up")
    if up not in UP_AXES:
        raise InputError(f"{path}: `up` must be one of {', '.join(UP_AXES)}, got {up!r}; name the world's up axis")
    cameras = content.get("cameras")
    if not isinstance(cameras, dict) or not cameras:
        raise InputError(f"{path}: `cameras` must be an object with one record per camera")
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{path}: `frames` must be a list of records")
    body = content.get("body")
    if body is not None and not (isinstance(body, dict) and isinstance(body.get("fingerprint"), str)):
        raise InputError(f"{path}: `body` must be null (SMPL) or an object with the body's `fingerprint`")
    records = [_frame(record, cameras, path) for record in frames]
    ids = [record.id for record in records]
    if twice := sorted({number for number in ids if ids.count(number) > 1} if len(set(ids)) < len(ids) else ()):
        raise InputError(f"{path}: two frames have the id {twice[0]}; ids must be unique")
    source = content.get("source")
    return CaptureRecord(
        cameras={check_name(name, f"{path}: camera"): _camera(record, name, path) for name, record in cameras.items()},
        frames=records,
        up=up,
        body_fingerprint=None if body is None else body["fingerprint"],
        body_name=None if body is None else body.get("name"),
        source=source if isinstance(source, dict) else None,
        is_checked=content.get("checked") is True,
    )


def _camera(record: Any, name: str, path: Path) -> CameraRecord:
    where = f"{path}: camera {name}"
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with K, width, height and T_cam_world")
    K, T = _matrix(record, "K", 3, where), _matrix(record, "T_cam_world", 4, where)
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], [0, 0, 1]) or K[1, 0] != 0:
        raise InputError(f"{where}: `K` is no camera matrix; expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in pixels")
    R = T[:3, :3]
    if not np.array_equal(T[3], [0, 0, 0, 1]) or np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise InputError(
            f"{where}: `T_cam_world` is no rigid transform; expected a rotation, a translation and 0 0 0 1"
        )
    size = [record.get(key) for key in ("width", "height")]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and x >= 1 and x == int(x) for x in size):
        raise InputError(f"{where}: `width` and `height` must be the size that K is for, in pixels, got {size}")
    return CameraRecord(K, int(size[0]), int(size[1]), T, _lens(record.get("distortion"), where))


def _lens(record: Any, where: str) -> Lens | None:
    if record is None:
        return None
    try:
        lens = Lens(record["model"], tuple(float(value) for value in record["coefficients"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{where}: `distortion` is no known model ({reason}); docs/data.md lists them") from error
    return lens if any(lens.coefficients) or lens.model == "fisheye" else None


def _frame(record: Any, cameras: dict[str, Any], path: Path) -> FrameRecord:
    number = record.get("id") if isinstance(record, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InputError(f"{path}: each frame must have a positive whole number as `id`, got {number!r}")
    where = f"{path}: frame {number}"
    files = {}
    for key in ("images", "masks"):
        files[key] = record.get(key) or {}
        if not isinstance(files[key], dict) or not all(isinstance(name, str) for name in files[key].values()):
            raise InputError(f"{where}: `{key}` must be an object with a path per camera")
        for name, relative in files[key].items():
            if name not in cameras:
                raise InputError(f"{where}: `{key}` names the camera {name!r}, which is not in `cameras`")
            check_path(relative, where)
    if unpaired := sorted(files["masks"].keys() - files["images"].keys()):
        raise InputError(f"{where}: camera {unpaired[0]} has a mask, but no image")
    fit, time = record.get("fit"), record.get("time")
    if not isinstance(fit, str | dict | None):
        raise InputError(f"{where}: `fit` must be a path or an object, got {type(fit).__name__}")
    if isinstance(fit, str):
        check_path(fit, where)
    if not isinstance(time, int | float | None) or (time is not None and not np.isfinite(time)):
        raise InputError(f"{where}: `time` must be in seconds, got {time!r}")
    return FrameRecord(number, files["images"], files["masks"], fit, time)


def _matrix(record: dict[str, Any], key: str, size: int, where: str) -> Float[np.ndarray, "n n"]:
    try:
        values = np.array(record.get(key), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape != (size, size) or not np.isfinite(values).all():
        raise InputError(f"{where}: `{key}` must be {size} x {size} finite numbers, a list of rows")
    return values
