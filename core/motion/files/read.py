"""Recognition of motion files, and the way from a file to a `Motion`."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.input_files import numbered_files
from core.motion.files import captures, estimators, smpl_results
from core.motion.files.containers import npz_names, read_any, read_npz
from core.motion.files.skeletons import read_bvh_track
from core.motion.files.stride import stride_ratio
from core.motion.files.track import Space, Track, check_track, chosen_track, fill_gaps
from core.motion.files.upright import turned_upright, up_axis
from core.motion.motion import MAX_FPS, Motion, leg_length
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import CONTENT_ERRORS
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import matrix_to_axis_angle

logger = logging.getLogger(__name__)

DEFAULT_FPS = 30.0
KNOWN = (
    "known are .bvh, AMASS and SMPL results (.npz, .pkl, .json, .pt), AIST++ (.pkl), GVHMR (hmr4d_results.pt), WHAM "
    "(wham_output.pkl), TRAM (hps_track_0.npy), PromptHMR (results.pkl), 4D-Humans (.pkl), EasyMocap (folder of "
    ".json), MVHumanNet (folder) and capture.json"
)
_SUFFIXES = (".bvh", ".npz", ".npy", ".pkl", ".pickle", ".pt", ".pth", ".json")


def read_motion(
    path: Path, body: BodyModel, up: str = "auto", fps: float | None = None, person: int | None = None
) -> Motion:
    """The motion in a file or folder: y up, metres, at the file's frame rate.

    Rotations of the pelvis and the 21 body joints carry over; hands are straight, except those of SMPL files. Shape
    does not carry over: the motion applies to any body.

    Args:
        path: A file or folder of a known kind (`KNOWN`).
        body: A body of SMPL's tree, whose rest pose the motion is transferred to.
        up: Up axis of the file (`+z`, `-y`, ...), or `auto`: the one along which heads are above feet.
        fps: Frames per second, in place of what the file states; 30 if it states none.
        person: Number of the person, from 1 for the one in the most frames, which is the default.
    Raises:
        InputError: If the file is of no known kind, broken, or holds fewer people; or if `up` is no axis.
    """
    path = Path(path)
    axis = up_axis(up)
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise InputError(f"--fps-in must be above 0 and at most {MAX_FPS:g}, got {fps:g}")
    track = read_track(path, body, person, fps=fps)
    rate = _rounded(fps or track.fps or DEFAULT_FPS)
    if not 0 < rate <= MAX_FPS:  # also if it is NaN
        raise InputError(f"{path}: states {rate:g} frames per second; give --fps-in")
    if fps is None and track.fps is None:
        logger.info("%s: no frame rate; %g frames per second are taken, see --fps-in", track.source, DEFAULT_FPS)
    track = turned_upright(fill_gaps(replace(track, fps=rate)), body, axis)
    logger.info("%s: %d frames at %g frames per second", track.source, len(track.rotations), rate)
    return _to_motion(track, body, rate, path.stem)


def read_track(
    path: Path, body: BodyModel, person: int | None = None, space: Space = "world", fps: float | None = None
) -> Track:
    """Poses of a file in its own frame: before gaps are filled and the up axis is turned.

    Args:
        space: Choice between poses in the world and in the camera, for files that hold both.
        fps: Rate of a capture's fits, in place of their times.
    Raises:
        InputError: As `read_motion`.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a motion file ({KNOWN})")
    try:
        track = _read(path, body, person, space, fps)
    except InputError:
        raise
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: holds no motion of a known kind ({error!r}); {KNOWN}") from error
    check_track(track, path)
    return track


def _rounded(fps: float) -> float:
    """A frame rate that was stored as a rounded frame time: 0.033333 seconds are 30 frames per second."""
    if not math.isfinite(fps):
        return fps
    return float(round(fps)) if round(fps) and abs(fps - round(fps)) < 5e-4 * fps else fps


def _to_motion(track: Track, body: BodyModel, fps: float, name: str) -> Motion:
    rest = body.rest_joints(body.v_template)
    legs = track.leg_length
    if not legs:
        ratio = stride_ratio(track, rest.double().cpu().numpy(), fps)
        legs = leg_length(body, torch.zeros(body.num_betas)) * (ratio or 1.0)
        if ratio is not None:
            logger.info("%s: by its strides, the person's legs are %.2f metres long", track.source, legs)
    axis_angles = matrix_to_axis_angle(torch.from_numpy(track.rotations))
    return Motion(
        global_orient=axis_angles[:, 0].float(),
        body_pose=axis_angles[:, 1:].flatten(1).float(),
        pelvis=torch.from_numpy(np.ascontiguousarray(track.pelvis)).float(),
        fps=fps,
        name=name,
        leg_length=legs,
    )


def _read(path: Path, body: BodyModel, person: int | None, space: Space, fps: float | None) -> Track:
    rest_pelvis = body.rest_joints(body.v_template)[0].double().cpu().numpy()
    if path.is_dir():
        return _read_folder(path, body, person, space, fps, rest_pelvis)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"{path}: its suffix is that of no motion file; {KNOWN}")
    if suffix in (".bvh", ".npz"):
        chosen_track({0: (1, None)}, person, str(path))
    if suffix == ".bvh":
        return read_bvh_track(path, body)
    if suffix == ".npz":
        return _read_npz(path, rest_pelvis)
    if suffix == ".npy" and path.name.startswith("hps_track"):
        return estimators.read_tram(path, person, rest_pelvis, space)
    content = read_any(path)
    if isinstance(content, dict) and content.get("format") == captures.FORMAT:
        chosen_track({0: (1, None)}, person, str(path))
        return captures.read_capture_fits(path, body, fps)
    if (reader := _estimator_of(content)) is not None:
        return reader(content, path, person, rest_pelvis, space)
    if _is_easymocap(content):
        return captures.read_easymocap(path, person, rest_pelvis)
    parameters = smpl_results.find_parameters(content)
    if parameters is None:
        raise InputError(f"{path}: holds {_described(content)}, not a motion; {KNOWN}")
    chosen_track({0: (1, None)}, person, str(path))
    return smpl_results.read_parameters(parameters, path, rest_pelvis)


def _read_npz(path: Path, rest_pelvis: np.ndarray) -> Track:
    parameters = smpl_results.find_parameters(read_npz(path, smpl_results.NAMES))
    if parameters is None:
        raise InputError(
            f"{path}: holds {', '.join(npz_names(path)[:12]) or 'nothing'}; expected poses, or global_orient "
            "(root_orient) and body_pose (pose_body)"
        )
    return smpl_results.read_parameters(parameters, path, rest_pelvis)


def _read_folder(
    path: Path, body: BodyModel, person: int | None, space: Space, fps: float | None, rest_pelvis
) -> Track:
    if (path / captures.CAPTURE_FILE).is_file():
        chosen_track({0: (1, None)}, person, str(path))
        return captures.read_capture_fits(path, body, fps)
    for name in ("hmr4d_results.pt", "wham_output.pkl", "results.pkl"):
        if (path / name).is_file():
            return _read(path / name, body, person, space, fps)
    if (path / "hps").is_dir() or any(path.glob("hps_track_*.npy")):
        return estimators.read_tram(path, person, rest_pelvis, space)
    fits = [path / name for name in (captures.REFIT_FOLDER, captures.FIT_FOLDER)]
    if path.name in (captures.REFIT_FOLDER, captures.FIT_FOLDER) or any(
        numbered_files(fit, captures.NUMBERED) for fit in fits
    ):
        chosen_track({0: (1, None)}, person, str(path))
        return captures.read_mvhumannet(path, body)
    for folder in (path / captures.SMPLX_FOLDER, path / "smpl", path):
        if any(file.suffix == ".json" for file in numbered_files(folder, captures.NUMBERED).values()):
            return captures.read_easymocap(folder, person, rest_pelvis)
    raise InputError(f"{path}: holds no motion of a known kind; {KNOWN}")


def _estimator_of(content: Any) -> Callable[..., Track] | None:
    """The reader of an estimator's result, recognised by its keys."""
    if not isinstance(content, dict) or not content:
        return None
    if "smpl_params_global" in content and "smpl_params_incam" in content:
        return estimators.read_gvhmr
    if "people" in content:
        return estimators.read_prompthmr
    first = next(iter(content.values()))
    if not isinstance(first, dict):
        return None
    if "smpl" in first and "tid" in first:
        return estimators.read_phalp
    return estimators.read_wham if "pose" in first and ("trans" in first or "pose_world" in first) else None


def _is_easymocap(content: Any) -> bool:
    people = content.get("annots", content.get("annotations")) if isinstance(content, dict) else content
    return isinstance(people, list) and bool(people) and isinstance(people[0], dict) and "Rh" in people[0]


def _described(content: Any) -> str:
    """Short description of the content of a file, for messages."""
    if isinstance(content, dict):
        return f"a dictionary of {', '.join(map(str, list(content)[:12]))}"
    return f"a {type(content).__name__} of {len(content)}" if hasattr(content, "__len__") else type(content).__name__
