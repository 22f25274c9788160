"""Conversion of captures between MVHumanNet's layout and `capture.json`, without loss of cameras, names and fits."""

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from core.data.capture import Capture
from core.data.capture_copies import camera_records, capture_record, write_fit
from core.data.capture_json import CameraRecord, FrameRecord, fit_record, write_capture_json
from core.data.crops import ImageFiles
from core.data.fits import REFIT_FOLDER
from core.data.images import open_image, to_rgb
from core.data.masks import alpha_mask, decode_mask
from core.data.mvhumannet import BODY_FILE, IMAGE_FOLDERS, MASK_FOLDERS
from core.data.mvhumannet_cameras import EXTRINSICS, INTRINSICS, SCALE
from core.data.verification import check_calibration, usable_fits
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

Layout = Literal["capture", "mvhumannet"]


def convert_capture(capture: Capture, out: Path, layout: Layout, body: BodyModel, check: bool = True) -> None:
    """Write a capture in another layout, complete or not at all.

    Cameras, fits and frames keep their names and values; the world becomes the raw one (z down). Images and masks are
    copied, unless the layout cannot hold them as they are.

    Args:
        capture: The original.
        out: Folder of the copy, which must not exist.
        layout: `capture` for capture.json, or `mvhumannet`.
        body: Body of the fits.
        check: Compare fits and masks first, which finds a world that stands along another axis.
    Raises:
        InputError: If the capture is broken, or `out` exists.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; name another folder")
    if check:
        check_calibration(capture, body)
    with atomic_path(out) as folder:
        folder.mkdir()
        if layout == "capture":
            _write_capture_json(capture, folder, body)
        else:
            _write_mvhumannet(capture, folder, body)


def _write_capture_json(capture: Capture, folder: Path, body: BodyModel) -> None:
    records = []
    usable = usable_fits(capture, sorted(capture.fits), body)
    for frame in capture.frame_ids:
        images, masks = {}, {}
        for name in _cameras_of(capture, frame):
            files = capture.files(name, frame)
            images[name] = f"images/{name}/{frame:04d}{files.image.suffix.lower()}"
            _copy(files.image, folder / images[name])
            if files.mask is not None:
                masks[name] = _write_mask(files, folder, f"masks/{name}/{frame:04d}")
        fit = f"fits/{frame:04d}.json" if frame in usable else None
        if fit is not None:
            write_fit(capture, frame, body, folder / fit)
        records.append(FrameRecord(frame, images, masks, fit, capture.time_of(frame)))
    cameras = camera_records(capture, capture.camera_names, is_undistorted=False)
    write_capture_json(folder, capture_record(capture, cameras, records))


def _write_mvhumannet(capture: Capture, folder: Path, body: BodyModel) -> None:
    usable = usable_fits(capture, sorted(capture.fits), body)
    for frame in capture.frame_ids:
        for name in _cameras_of(capture, frame):
            files = capture.files(name, frame)
            _write_oriented(files.image, folder / IMAGE_FOLDERS[0] / name, f"{frame:04d}_img")
            _write_mask(files, folder, f"{MASK_FOLDERS[0]}/{name}/{frame:04d}_img_fmask")
        if frame in usable:
            _write_refit(capture, frame, body, folder / REFIT_FOLDER / f"{frame:04d}.json")
    _write_cameras(camera_records(capture, capture.camera_names, is_undistorted=False), folder)
    if capture.body_fingerprint is not None:
        record = {"fingerprint": capture.body_fingerprint, "name": capture.body_name}
        (folder / BODY_FILE).write_text(json.dumps(record), encoding="utf-8")


def _cameras_of(capture: Capture, frame: int) -> list[str]:
    return [name for name in capture.camera_names if frame in capture.frames_of(name)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_oriented(source: Path, folder: Path, stem: str) -> None:
    """Copy an image; one that is turned by its EXIF data is written upright, since others ignore these."""
    with open_image(source) as opened:
        if not opened.is_turned:
            _copy(source, folder / f"{stem}{source.suffix.lower()}")
            return
        image, _ = opened.load()
    folder.mkdir(parents=True, exist_ok=True)
    to_rgb(image, source).save(folder / f"{stem}.png")


def _write_mask(files: ImageFiles, folder: Path, stem: str) -> str:
    """Copy a mask of 8-bit grey; write others so. Returns the relative path."""
    path = files.image if files.mask is None else files.mask
    with open_image(path) as opened:
        is_turned = opened.is_turned
        image, _ = opened.load()
    mask = alpha_mask(image, path) if files.mask is None else decode_mask(image, path)
    is_plain = files.mask is not None and image.mode == "L" and not is_turned and np.array_equal(image, mask)
    relative = f"{stem}{path.suffix.lower() if is_plain else '.png'}"
    if is_plain:
        _copy(path, folder / relative)
    else:
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(mask)).save(folder / relative)
    return relative


def _write_refit(capture: Capture, frame: int, body: BodyModel, path: Path) -> None:
    """Write a fit under HGG's keys."""
    fit = fit_record(capture.fit(frame, body))
    content = {
        "pose": [fit["global_orient"] + fit["body_pose"]],
        "betas": [fit["betas"]],
        "translation": [fit["transl"]],
        "scale": [fit["scale"]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_cameras(cameras: dict[str, CameraRecord], folder: Path) -> None:
    """Write MVHumanNet's camera files: pixel centres on integers, millimetres, and a scale of 1.

    The shared K is that of the first camera. Cameras that differ state theirs as `intrinsics` of their record.
    """
    first = next(iter(cameras.values()))
    shared = _on_integers(first.K)
    # With a prefix, the key of one camera could be taken for the name of another.
    is_ambiguous = any(other.endswith(f"_{name}") for name in cameras for other in cameras)
    records = {}
    for name, camera in cameras.items():
        K, R, t = _on_integers(camera.K), camera.T_cam_world[:3, :3], 1000 * camera.T_cam_world[:3, 3]
        record = {
            "rotation": R.tolist(),
            "translation": t.tolist(),
            "camera_pos": (-R.T @ t).tolist(),
            "quaternion": np.roll(Rotation.from_matrix(R).as_quat(), 1).tolist(),
            "focal_length": [K[0, 0], K[1, 1]],
            "image_center": [K[0, 2], K[1, 2], camera.width, camera.height],
        }
        if not np.array_equal(K, shared):
            record["intrinsics"] = K.tolist()
        if camera.lens is not None:
            record |= {"dist": list(camera.lens.coefficients), "dist_model": camera.lens.model}
        records[f"{'' if is_ambiguous else '0_0_'}{name}.png"] = record
    (folder / INTRINSICS).write_text(json.dumps({"intrinsics": shared.tolist(), "dist": []}), encoding="utf-8")
    (folder / EXTRINSICS).write_text(json.dumps(records), encoding="utf-8")
    (folder / SCALE).write_bytes(pickle.dumps(1.0, protocol=4))


def _on_integers(K: np.ndarray) -> np.ndarray:
    """K with pixel centres on integers."""
    return K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
