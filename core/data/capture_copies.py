"""Parts of captures that are written again: records of their cameras and fits for `capture.json`."""

import json
from pathlib import Path

import numpy as np

from core.data.capture import Capture
from core.data.capture_json import CAPTURE_FILE, CameraRecord, CaptureRecord, FrameRecord, fit_record, read_capture_json
from core.data.input_files import read_json
from core.data.mvhumannet import BODY_FILE
from core.data.mvhumannet_cameras import read_camera_files
from core.data.up_axis import RAW_UP
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError


def camera_records(capture: Capture, names: list[str], is_undistorted: bool) -> dict[str, CameraRecord]:
    """Cameras of a capture in the raw world; without their lenses if the written images are undistorted."""
    records = {}
    for name in names:
        camera = capture.camera(name)
        lens = None if is_undistorted else camera.lens
        records[name] = CameraRecord(camera.K.numpy(), *camera.size, camera.viewmat.numpy(), lens)
    return records


def capture_record(
    capture: Capture, cameras: dict[str, CameraRecord], frames: list[FrameRecord], is_checked: bool = False
) -> CaptureRecord:
    """Record of a copy in the raw world."""
    return CaptureRecord(
        cameras=cameras,
        frames=frames,
        up=RAW_UP,
        body_fingerprint=capture.body_fingerprint,
        body_name=capture.body_name,
        source={"capture": capture.subject},
        is_checked=is_checked,
    )


def write_fit(capture: Capture, frame: int, body: BodyModel, path: Path) -> None:
    """Write the fit of a frame in the raw world as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fit_record(capture.fit(frame, body))), encoding="utf-8")


def check_cameras(capture: Capture, cameras: dict[str, CameraRecord], copy: Path) -> None:
    """Refuse to add to a copy that was made with other cameras: windows are laid by the original's, and read by its.

    Raises:
        InputError: If a camera of the copy is missing, or differs.
    """
    if (copy / CAPTURE_FILE).is_file():
        record = read_capture_json(copy)
        theirs = {name: (camera.K, camera.T_cam_world) for name, camera in record.cameras.items()}
        fingerprint = record.body_fingerprint
    else:  # a copy in MVHumanNet's layout, as older versions wrote them
        theirs = {
            name: (camera.K + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], camera.viewmat.numpy())
            for name, camera in read_camera_files(copy, set(cameras)).items()
        }
        body_file = copy / BODY_FILE
        fingerprint = read_json(body_file).get("fingerprint") if body_file.is_file() else None
    remedy = f"it was packed from another calibration than that of {capture.path}; pack into a new folder"
    for name, camera in cameras.items():
        if name not in theirs:
            raise InputError(f"{copy}: has no camera {name}; {remedy}")
        K, viewmat = theirs[name]
        if not (np.array_equal(K, camera.K) and np.array_equal(viewmat, camera.T_cam_world)):
            raise InputError(f"{copy}: the camera {name} differs; {remedy}")
    if fingerprint != capture.body_fingerprint:
        raise InputError(
            f"{copy}: is for the body {fingerprint}, not {capture.body_fingerprint}; pack into a new folder"
        )
