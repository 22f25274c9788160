"""Results of estimators of human motion from video: GVHMR, WHAM, TRAM, PromptHMR and 4D-Humans (PHALP).

Where a file has both, `space` chooses between the world and the camera. Their world has y up; their camera x right,
y down, z forward.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from core.motion.files.containers import read_any
from core.motion.files.track import Space, Track, chosen_track, from_axis_angles, from_parts, smpl_joints, sorted_track
from smpl_renderer.errors import InputError

GVHMR_FPS = 30.0
PHALP_FOCAL = 5000 / 256
"""Focal length of PHALP's cameras, in units of the image's longer side."""
CAMERA_UP = "-y"
_TRAM_TRACK = re.compile(r"hps_track_(\d+)\.npy")

Pelvis = Float[np.ndarray, "3"]


def read_gvhmr(content: Any, path: Path, person: int | None, rest_pelvis: Pelvis, space: Space) -> Track:
    """`hmr4d_results.pt`: SMPL-X of one person, at 30 frames per second."""
    chosen_track({0: (1, None)}, person, f"GVHMR {path}")
    in_camera = space == "camera"
    params = content["smpl_params_incam" if in_camera else "smpl_params_global"]
    rotations = from_parts(params["global_orient"], params["body_pose"])
    pelvis = rest_pelvis + np.asarray(params["transl"], np.float64).reshape(-1, 3)
    frames = np.arange(len(rotations))
    return _track(rotations, pelvis, frames, f"GVHMR {path}", in_camera, GVHMR_FPS)


def read_wham(content: Any, path: Path, person: int | None, rest_pelvis: Pelvis, space: Space) -> Track:
    """`wham_output.pkl`: SMPL by person."""
    tracks = {key: (len(value["pose"]), value) for key, value in content.items()}
    track = chosen_track(tracks, person, f"WHAM {path}")
    in_camera = space == "camera" or "pose_world" not in track
    end = "" if in_camera else "_world"
    rotations = from_axis_angles(np.asarray(track[f"pose{end}"]).reshape(-1, 72))
    pelvis = rest_pelvis + np.asarray(track[f"trans{end}"], np.float64).reshape(-1, 3)
    frames = np.asarray(track.get("frame_ids", np.arange(len(rotations)))).ravel()
    return _track(rotations, pelvis, frames, f"WHAM {path}", in_camera)


def read_prompthmr(content: Any, path: Path, person: int | None, rest_pelvis: Pelvis, space: Space) -> Track:
    """`results.pkl` of PromptHMR: SMPL-X or SMPL by person."""
    tracks = {key: (len(value["frames"]), value) for key, value in content["people"].items()}
    track = chosen_track(tracks, person, f"PromptHMR {path}")
    in_world = space == "world" and ("smplx_world" in track or "smpl_world" in track)
    end = "world" if in_world else "cam"
    body = track.get(f"smplx_{end}") or track[f"smpl_{end}"]
    if body.get("rotmat") is not None:
        matrices = np.asarray(body["rotmat"], np.float64)
        matrices = matrices.reshape(len(matrices), -1, 3, 3)
        rotations = smpl_joints(matrices, matrices.shape[1] == 24)
    else:
        rotations = from_axis_angles(np.asarray(body["pose"]))
    pelvis = rest_pelvis + np.asarray(body["trans"], np.float64).reshape(-1, 3)
    return _track(rotations, pelvis, np.asarray(track["frames"]).ravel(), f"PromptHMR {path}", not in_world)


def read_phalp(content: Any, path: Path, person: int | None, rest_pelvis: Pelvis, space: Space) -> Track:
    """`results/<video>.pkl` of 4D-Humans: frame -> lists of detections with a track id, SMPL matrices and a camera.

    Its focal length is about twenty times the image's side, which puts people tens of metres away and makes their depth
    jump by decimetres. Depths are scaled to a focal length of the image's diagonal; the other coordinates do not depend
    on it.
    """
    tracks: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for position, name in enumerate(sorted(content)):
        digits = re.findall(r"\d+", Path(str(name)).stem)
        number = int(digits[-1]) - 1 if digits else position  # images are numbered from 1
        frame = content[name]
        for i, (track_id, smpl) in enumerate(zip(frame["tid"], frame["smpl"])):
            if not isinstance(smpl, dict):
                continue  # a track that is predicted but not seen in this frame
            pose = from_parts(np.asarray(smpl["global_orient"]).reshape(1, 1, 3, 3), _body_matrices(smpl))[0]
            place = np.zeros(3) if "camera" not in frame else _phalp_place(frame, i)
            tracks.setdefault(int(track_id), []).append((number, pose, place))
    sized = {key: (len(rows), rows) for key, rows in tracks.items()}
    frames, rotations, places = zip(*chosen_track(sized, person, f"4D-Humans {path}"))
    return _track(np.stack(rotations), rest_pelvis + np.stack(places), np.array(frames), f"4D-Humans {path}", True)


def _body_matrices(smpl: dict[str, Any]) -> Float[np.ndarray, "1 23 3 3"]:
    return np.asarray(smpl["body_pose"], np.float64).reshape(1, 23, 3, 3)


def _phalp_place(frame: dict[str, Any], index: int) -> Float[np.ndarray, "3"]:
    place = np.array(frame["camera"][index], np.float64).ravel()
    sizes = frame.get("size")
    height, width = np.asarray(sizes[index], np.float64).ravel()[:2] if sizes is not None else (9, 16)
    place[2] *= np.hypot(height, width) / (PHALP_FOCAL * max(height, width))
    return place


def read_tram(path: Path, person: int | None, rest_pelvis: Pelvis, space: Space) -> Track:
    """`hps_track_k.npy` of TRAM, or the folder that holds them; with `camera.npy` beside it, in the world."""
    if path.is_file():
        name, content = path.name, read_any(path)
        chosen_track({0: (1, None)}, person, f"TRAM {path}")
    else:
        files = sorted((path / "hps").glob("*.npy")) or sorted(path.glob("*.npy"))
        tracks = {}
        for file in files:
            if _TRAM_TRACK.fullmatch(file.name):
                content = read_any(file)
                tracks[file.name] = (len(content["pred_rotmat"]), (file.name, content))
        name, content = chosen_track(tracks, person, f"TRAM {path}")
    matrices = np.asarray(content["pred_rotmat"], np.float64).reshape(-1, 24, 3, 3)
    pelvis = rest_pelvis + np.asarray(content["pred_trans"], np.float64).reshape(-1, 3)
    frames = np.asarray(content.get("frame", np.arange(len(matrices))), np.int64).ravel()
    source = f"TRAM {path / name if path.is_dir() else path}"
    cameras = [folder / "camera.npy" for folder in ((path, path.parent) if path.is_dir() else path.parents[:2])]
    camera = next((file for file in cameras if file.is_file()), None) if space == "world" else None
    if camera is not None:
        matrices, pelvis = _to_tram_world(matrices, pelvis, frames, camera)
    return _track(matrices, pelvis, frames, source, camera is None)


def _to_tram_world(matrices: np.ndarray, pelvis: np.ndarray, frames: np.ndarray, camera: Path):
    """Poses moved by the cameras of `camera.npy`: X_world = R X + T."""
    content = read_any(camera)
    R = np.asarray(content["world_cam_R"], np.float64).reshape(-1, 3, 3)
    T = np.asarray(content["world_cam_T"], np.float64).reshape(-1, 3)
    if len(frames) and not 0 <= frames.min() <= frames.max() < min(len(R), len(T)):
        raise InputError(
            f"{camera}: holds {len(R)} cameras, but the track has frames {frames.min()} to {frames.max()}; use the "
            "camera.npy that TRAM wrote for the same video"
        )
    matrices = matrices.copy()
    matrices[:, 0] = R[frames] @ matrices[:, 0]
    return matrices, np.einsum("tij,tj->ti", R[frames], pelvis) + T[frames]


def _track(rotations, pelvis, frames, source: str, in_camera: bool, fps: float | None = None) -> Track:
    up = CAMERA_UP if in_camera else "+y"
    return sorted_track(Track(rotations, pelvis, np.asarray(frames), source, fps, in_camera, up))
