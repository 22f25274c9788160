"""`transforms.json` of nerfstudio and instant-ngp: camera-to-world matrices with OpenGL axes, one camera per image."""

from pathlib import Path

import numpy as np

from core.capture.importers.rig import ImportedCamera, ImportedRig, checked, opencv_lens
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.errors import InputError

FISHEYE_MODELS = ("OPENCV_FISHEYE",)
PINHOLE_MODELS = ("PINHOLE", "OPENCV", "SIMPLE_PINHOLE", "PERSPECTIVE")


def read_transforms(path: Path) -> ImportedRig:
    """Read a `transforms.json` (or the folder that holds it). The unit of length is arbitrary."""
    path = path / "transforms.json" if path.is_dir() else path
    content = load_json(path)
    try:
        cameras = {
            Path(frame["file_path"]).with_suffix("").as_posix().removeprefix("./"): _camera(content, frame)
            for frame in content["frames"]
        }
        cameras = {name: checked(camera, name, path) for name, camera in cameras.items()}
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: not a transforms.json of nerfstudio ({error!r}); export it again") from error
    return ImportedRig(cameras, f"nerfstudio {path}", metric=False, per_image=True)


def _camera(content: dict, frame: dict) -> ImportedCamera:
    values = content | frame  # a frame's own intrinsics come before the file's
    model = str(values.get("camera_model", "OPENCV")).upper()
    if model not in PINHOLE_MODELS + FISHEYE_MODELS:
        raise ValueError(f"camera_model {model} is not supported: undistort the images first")
    width, height = values.get("w"), values.get("h")
    fx = values.get("fl_x") or _focal(values.get("camera_angle_x"), width)
    fy = values.get("fl_y") or _focal(values.get("camera_angle_y"), height) or fx
    if not fx or not width or not height:
        raise KeyError("fl_x, w or h")
    K = np.array([[fx, 0, values.get("cx", width / 2)], [0, fy, values.get("cy", height / 2)], [0, 0, 1]], float)
    fisheye = model in FISHEYE_MODELS
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    lens = opencv_lens([float(values.get(name) or 0) for name in names], fisheye)
    T_world_cam = np.array(frame["transform_matrix"], float) @ np.diag([1, -1, -1, 1])  # OpenGL axes to OpenCV's
    return ImportedCamera(K, np.linalg.inv(T_world_cam), (int(width), int(height)), lens)


def _focal(angle: float | None, size: float | None) -> float | None:
    return None if not angle or not size else size / 2 / np.tan(angle / 2)
