"""Body fits of captures as motions: our `capture.json`, MVHumanNet's sequences, and EasyMocap's files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from core.data.capture_json import CAPTURE_FILE, FORMAT, read_capture_json
from core.data.fits import FIT_FOLDER, KEYS, REFIT_FOLDER, parse_fit, rest_pelvis
from core.data.input_files import numbered_files
from core.motion.files.containers import read_json, read_npz
from core.motion.files.track import Track, at_even_times, chosen_track, from_axis_angles, from_parts, sorted_track
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_fit_pickle

__all__ = ["CAPTURE_FILE", "FIT_FOLDER", "FORMAT", "REFIT_FOLDER", "SMPLX_FOLDER"]

SMPLX_FOLDER = "smplx/smpl"
MVHUMANNET_FPS = 5.0
MVHUMANNET_STEP = 5
"""Frames are numbered in multiples of it."""
CAPTURE_FPS = 30.0
SECONDS_PER_FIT = 0.5
"""Time between the fits of a capture that states no times."""
NUMBERED = re.compile(r"(\d+)\.(?:json|pkl|pickle|npz|pt|pth)", re.IGNORECASE)

Pelvis = Float[np.ndarray, "3"]


def read_capture_fits(path: Path, body: BodyModel, fps: float | None) -> Track:
    """The fits of a `capture.json`, or of the folder that holds it, interpolated over their times.

    Args:
        fps: Fits per second, where they have no times or others are wanted.
    """
    folder = path if path.is_dir() else path.parent
    record = read_capture_json(folder)
    frames = [frame for frame in record.frames if frame.fit is not None]
    if not frames:
        raise InputError(f"{folder}: none of its frames has a fit; fit the body first (scripts/prepare_capture.py)")
    rows = []
    for frame in frames:
        file = folder / (frame.fit if isinstance(frame.fit, str) else CAPTURE_FILE)
        rows.append(_fit(_read_values(file) if isinstance(frame.fit, str) else frame.fit, file, body))
    rotations, pelvis = (np.concatenate(parts) for parts in zip(*rows))
    times = [frame.time for frame in frames]
    if fps is not None or None in times or (np.diff(times) <= 0).any():
        times = (SECONDS_PER_FIT if fps is None else 1 / fps) * np.arange(len(rows))
    track = Track(rotations, pelvis, np.arange(len(rows)), f"fits of {folder}", up=record.up)
    return at_even_times(track, times, CAPTURE_FPS)


def read_mvhumannet(folder: Path, body: BodyModel) -> Track:
    """Refits (`optimized_smpl_points`) or fits (`smpl_param`) of a sequence; the folder itself or one of these."""
    if folder.name not in (REFIT_FOLDER, FIT_FOLDER):
        folder = next(folder / name for name in (REFIT_FOLDER, FIT_FOLDER) if numbered_files(folder / name, NUMBERED))
    files = numbered_files(folder, NUMBERED)
    if not files:
        raise InputError(f"{folder}: holds no fits (000000.pkl, 0005.json); name a sequence of MVHumanNet")
    rotations, pelvis = (
        np.concatenate(parts) for parts in zip(*(_fit(_read_values(f), f, body) for f in files.values()))
    )
    frames = np.array(list(files))
    if folder.name == REFIT_FOLDER and not (frames % MVHUMANNET_STEP).any():
        frames //= MVHUMANNET_STEP
    return Track(rotations, pelvis, frames, f"fits of {folder}", MVHUMANNET_FPS, up="-z")


def read_easymocap(path: Path, person: int | None, rest_pelvis: Pelvis) -> Track:
    """EasyMocap's `smpl/*.json`, one list of people per frame; a folder or one file.

    `Rh` and `Th` act about the origin: v = R(Rh) SMPL(poses) + Th, so the pelvis is at R(Rh) J0 + Th.
    """
    files = {0: path} if path.is_file() else numbered_files(path, NUMBERED)
    rows: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for number, file in files.items():
        content = read_json(file)
        people = content.get("annots", content.get("annotations")) if isinstance(content, dict) else content
        try:
            for entry in people:
                root = Rotation.from_rotvec(np.asarray(entry["Rh"], np.float64).ravel())
                pose = _easymocap_pose(np.asarray(entry["poses"], np.float64).ravel())
                pelvis = root.apply(rest_pelvis) + np.asarray(entry["Th"], np.float64).ravel()
                pose[:3] = (root * Rotation.from_rotvec(pose[:3])).as_rotvec()
                rows.setdefault(int(entry.get("id", 0)), []).append((number, pose, pelvis))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}: cannot be read as EasyMocap's fit ({error!r}); expected a list of people with id, Rh, Th and "
                "poses"
            ) from error
    source = f"EasyMocap {path}"
    sized = {key: (len(value), value) for key, value in rows.items()}
    frames, poses, pelvis = zip(*chosen_track(sized, person, source))
    width = {len(pose) for pose in poses}
    if len(width) > 1:
        raise InputError(f"{path}: poses have {min(width)} and {max(width)} numbers; fit all frames with one model")
    return sorted_track(Track(from_axis_angles(np.stack(poses)), np.stack(pelvis), np.array(frames), source))


def _easymocap_pose(pose: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """The pose with the root's rotation in front; SMPL-X and SMPL-H are cut to the body, as hands are principal
    components there."""
    if len(pose) in (63, 69):
        pose = np.concatenate([np.zeros(3), pose])
    return pose if len(pose) == 72 else pose[:66]


def _read_values(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json(path)
    return (
        read_npz(path, [name for names in KEYS.values() for name in names])
        if suffix == ".npz"
        else read_fit_pickle(path)
    )


def _fit(values: Any, path: Path, body: BodyModel) -> tuple[Float[np.ndarray, "1 24 3 3"], Float[np.ndarray, "1 3"]]:
    """Rotations and pelvis of one fit, on the mean shape: neither its shape nor its vertices are used."""
    if isinstance(values, dict):
        betas = torch.zeros(body.num_betas, dtype=torch.float64)
        values = {
            **{key: value for key, value in values.items() if key not in ("vertices", *KEYS["betas"])},
            "betas": betas,
        }
    params = parse_fit(values, path, body)
    rotations = from_parts(params.global_orient.numpy()[None], params.body_pose.numpy()[None])
    pelvis = params.scale * rest_pelvis(body, params.betas) + params.transl
    return rotations, pelvis.numpy()[None]
