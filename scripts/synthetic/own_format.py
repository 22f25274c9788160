"""Cameras and fits of a synthetic capture in our own format, `capture.json` (docs/data.md)."""

import json
from pathlib import Path

import numpy as np

from core.data.capture_json import CameraRecord, CaptureRecord, FrameRecord, fit_record, write_capture_json
from scripts.synthetic.layout import image_files
from scripts.synthetic.motion import FRAME_RATE
from scripts.synthetic.rigs import Rig
from smpl_renderer.types import BodyParams


def write_own_format(folder: Path, rig: Rig, fits: BodyParams, frames: tuple[int, ...], stamp: dict) -> None:
    """Write `fits/*.json` and, last, `capture.json`.

    Args:
        folder: The subject's folder, with images and masks.
        rig: Cameras of the capture.
        fits: Fits [F] in the raw world (z down).
        frames: Frame ids.
        stamp: Record of the body and the options (`stamp.make_stamp`), stored as `source`.
    """
    (folder / "fits").mkdir()
    records = []
    for position, frame in enumerate(frames):
        path = f"fits/{frame:04d}.json"
        (folder / path).write_text(json.dumps(fit_record(fits[position])))
        files = {name: image_files(folder, name, frame, "capture") for name in rig.names}
        images, masks = ({n: pair[k].relative_to(folder).as_posix() for n, pair in files.items()} for k in (0, 1))
        records.append(FrameRecord(frame, images, masks, path, time=frame / FRAME_RATE))
    write_capture_json(
        folder,
        CaptureRecord(
            cameras=_camera_records(rig),
            frames=records,
            up="-z",
            body_fingerprint=stamp["fingerprint"],
            body_name=stamp["name"],
            source=stamp,
        ),
    )


def _camera_records(rig: Rig) -> dict[str, CameraRecord]:
    """Cameras of the image files, whose size is half of the calibrated one."""
    K = rig.intrinsics
    K[:2, 2] += 0.5  # pixel centres at +0.5
    K[:2] /= 2
    records = {}
    for name, rotation, translation in zip(rig.names, rig.rotations, rig.translations):
        T_cam_world = np.eye(4)
        T_cam_world[:3, :3], T_cam_world[:3, 3] = rotation, translation
        records[name] = CameraRecord(K, rig.width // 2, rig.height // 2, T_cam_world)
    return records
