"""Results in SMPL's own parameters: AMASS, AIST++, and the output of fitting programs, in any container.

A file holds `poses` (or `pose`, `smpl_poses`), or `global_orient` with `body_pose` (AMASS: `root_orient`, `pose_body`),
and usually a translation. SMPL's vertices are R (v - J0) + J0 + transl, so the pelvis is at J0 + transl.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from core.motion.files.track import Track, from_axis_angles, from_parts, smpl_joints
from smpl_renderer.errors import InputError

POSES = ("poses", "smpl_poses", "fullpose", "full_pose", "pose")
ROOTS = ("global_orient", "root_orient", "root_pose")
BODIES = ("body_pose", "pose_body")
TRANSLATIONS = ("transl", "trans", "smpl_trans", "translation", "root_trans")
RATES = ("mocap_framerate", "mocap_frame_rate", "framerate", "frame_rate", "fps")
SCALING = "smpl_scaling"
NAMES = (*POSES, *ROOTS, *BODIES, *TRANSLATIONS, *RATES, SCALING)
"""All keys that are read."""
GROUPS = ("smpl_params_global", "smpl_params", "smplx_params", "smplx", "smpl", "params", "motion", "pred", "result")
"""Keys below which programs put such a dictionary."""
AIST_FPS = 60.0


def find_parameters(content: Any) -> dict[str, Any] | None:
    """The dictionary with poses in a file's content: itself, one in a known group, or a list with one per frame."""
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        if find_parameters(content[0]) is None:
            return None
        frames = [find_parameters(item) or {} for item in content]
        shared = [name for name in NAMES if all(name in frame for frame in frames)]
        return {name: np.stack([np.asarray(frame[name], np.float64).squeeze() for frame in frames]) for name in shared}
    if not isinstance(content, dict):
        return None
    if _first(content, POSES) or (_first(content, ROOTS) and _first(content, BODIES)):
        return content
    return next((found for group in GROUPS if (found := find_parameters(content.get(group)))), None)


def read_parameters(content: dict[str, Any], path: Path, rest_pelvis: Float[np.ndarray, "3"]) -> Track:
    """A track from a dictionary that `find_parameters` has found.

    Raises:
        InputError: If a shape fits no body of SMPL's family.
    """
    try:
        poses, root = _first(content, POSES), _first(content, ROOTS)
        if root and (body := _first(content, BODIES)):
            rotations = from_parts(_frames(content[root], 3), _frames(content[body], 63))
        else:
            values = _frames(content[poses], 72)
            is_matrix = values.ndim >= 3 and values.shape[-2:] == (3, 3)
            joints = values.reshape(len(values), -1, 3, 3) if is_matrix else None
            if joints is None:
                rotations = from_axis_angles(values)
            elif joints.shape[1] < 22:
                raise ValueError(f"`{poses}` must hold at least 22 rotations per frame, got {joints.shape[1]}")
            else:
                rotations = smpl_joints(joints, joints.shape[1] == 24)
        transl = np.zeros((len(rotations), 3))
        if name := _first(content, TRANSLATIONS):
            transl = np.asarray(content[name], np.float64).reshape(-1, 3)
            transl = np.broadcast_to(transl, (len(rotations), 3)) if len(transl) == 1 else transl
        if SCALING in content:
            transl = transl / np.asarray(content[SCALING], np.float64).ravel()[0]
        rate = _first(content, RATES)
        fps = None if rate is None else float(np.asarray(content[rate], np.float64).ravel()[0])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as poses of SMPL bodies ({error}); write it again") from error
    if fps is None and "smpl_poses" in content:
        fps = AIST_FPS
    frames = np.arange(len(rotations))
    return Track(rotations, rest_pelvis + transl, frames, f"poses of SMPL {path}", fps)


def _first(content: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if content.get(name) is not None), None)


def _frames(value: Any, single: int) -> np.ndarray:
    """An array with an axis of frames; one frame without it has `single` numbers or more."""
    array = np.asarray(value, np.float64)
    if array.ndim == 1 and array.size >= single:
        array = array[None]
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"expected numbers per frame, got the shape {list(array.shape)}")
    return array
