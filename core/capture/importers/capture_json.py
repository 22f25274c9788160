"""Cameras of our own `capture.json`."""

from pathlib import Path

import numpy as np

from core.capture.importers.rig import ImportedCamera, ImportedRig, checked
from core.data.capture_json import FORMAT, UP_AXES
from core.data.lens import Lens
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.errors import InputError


def read_capture_cameras(path: Path) -> ImportedRig:
    """Read the cameras of a `capture.json` (or of the folder that holds it); its frames and fits are not used."""
    path = path / "capture.json" if path.is_dir() else path
    content = load_json(path)
    try:
        if content.get("format") != FORMAT:
            raise ValueError(f'its "format" is not "{FORMAT}"')
        cameras = {}
        for name, record in content["cameras"].items():
            distortion = record.get("distortion")
            lens = Lens(distortion["model"], tuple(map(float, distortion["coefficients"]))) if distortion else None
            K, T = np.array(record["K"], float).reshape(3, 3), np.array(record["T_cam_world"], float).reshape(4, 4)
            cameras[name] = checked(
                ImportedCamera(K, T, (int(record["width"]), int(record["height"])), lens), name, path
            )
        up = UP_AXES[content.get("up", "-z")]
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: cannot be read as capture.json ({error!r}); correct or replace it") from error
    return ImportedRig(cameras, f"capture.json {path}", up=tuple(float(x) for x in up))
