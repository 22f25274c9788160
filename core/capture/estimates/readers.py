"""Result files of body estimators, each read into an `Estimate`. No file can run code while it is read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from core.capture.estimates.estimate import Estimate, chosen_track, from_axis_angles, with_straight_hands
from smpl_renderer.errors import InputError
from smpl_renderer.pickled_trees import read_tree

GVHMR_RATE = 30.0
_TRAM_TRACK = re.compile(r"hps_track_(\d+)\.npy")


def read_gvhmr(path: Path, person: int = 1) -> Estimate:
    """`hmr4d_results.pt` of GVHMR: SMPL-X in the camera, at 30 frames a second, one person."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        params = {key: value.double().numpy() for key, value in content["smpl_params_incam"].items()}
    except Exception as error:  # torch has many kinds for a broken or refused file
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as GVHMR's result ({reason}); write it again") from error
    poses = np.concatenate([params["global_orient"].reshape(-1, 3), params["body_pose"].reshape(-1, 63)], 1)
    return Estimate(np.arange(len(poses)), from_axis_angles(poses), True, f"GVHMR {path}", GVHMR_RATE)


def read_wham(path: Path, person: int = 1, content: Any = None) -> Estimate:
    """`wham_output.pkl`: SMPL in the camera, by person."""
    content = read_tree(path) if content is None else content
    tracks = {key: (len(value["pose"]), value) for key, value in content.items()}
    track = chosen_track(tracks, person, f"WHAM {path}")
    rotations = from_axis_angles(np.asarray(track["pose"]).reshape(-1, 72))
    frames = np.asarray(track.get("frame_ids", np.arange(len(rotations)))).ravel()
    return _sorted(frames, rotations, True, f"WHAM {path}")


def read_prompthmr(path: Path, person: int = 1, content: Any = None) -> Estimate:
    """`results.pkl` of PromptHMR: SMPL-X rotation matrices in the camera, by person."""
    content = read_tree(path) if content is None else content
    tracks = {key: (len(value["frames"]), value) for key, value in content["people"].items()}
    track = chosen_track(tracks, person, f"PromptHMR {path}")
    body = track.get("smplx_cam") or track["smpl_cam"]
    matrices = np.asarray(body["rotmat"], float)
    rotations = with_straight_hands(matrices.reshape(len(matrices), -1, 3, 3), matrices.shape[1] == 24)
    return _sorted(np.asarray(track["frames"]).ravel(), rotations, True, f"PromptHMR {path}")


def read_phalp(path: Path, person: int = 1, content: Any = None) -> Estimate:
    """`results/<video>.pkl` of 4D-Humans: frame -> lists of detections, each with a track id and SMPL matrices."""
    content = read_tree(path) if content is None else content
    tracks: dict[int, list[tuple[int, np.ndarray]]] = {}
    for position, name in enumerate(sorted(content)):
        digits = re.findall(r"\d+", Path(str(name)).stem)
        # PHALP numbers the images that it extracts from 1.
        number = int(digits[-1]) - 1 if digits else position
        frame = content[name]
        for track_id, smpl in zip(frame["tid"], frame["smpl"]):
            root = np.asarray(smpl["global_orient"], float).reshape(1, 3, 3)
            body = np.asarray(smpl["body_pose"], float).reshape(23, 3, 3)
            tracks.setdefault(int(track_id), []).append((number, np.concatenate([root, body])))
    sized = {key: (len(rows), rows) for key, rows in tracks.items()}
    rows = chosen_track(sized, person, f"4D-Humans {path}")
    frames, matrices = zip(*rows)
    return _sorted(np.array(frames), np.stack(matrices), True, f"4D-Humans {path}")


def read_tram(path: Path, person: int = 1) -> Estimate:
    """`hps/hps_track_k.npy` of TRAM (the file, its folder, or the result folder): SMPL matrices in the camera."""
    folder = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else sorted((folder / "hps").glob("*.npy")) or sorted(folder.glob("hps_*.npy"))
    tracks = {}
    for file in files:
        if _TRAM_TRACK.fullmatch(file.name):
            content = read_tree(file)
            tracks[file.name] = (len(content["pred_rotmat"]), content)
    track = chosen_track(tracks, person, f"TRAM {path}")
    matrices = np.asarray(track["pred_rotmat"], float).reshape(-1, 24, 3, 3)
    frames = np.asarray(track.get("frame", np.arange(len(matrices)))).ravel()
    return _sorted(frames, matrices, True, f"TRAM {path}")


def read_easymocap_fits(folder: Path, person: int = 1) -> Estimate:
    """`smpl/*.json` of EasyMocap: one list of people per frame, in the world of its calibration."""
    rows: dict[int, list[tuple[int, np.ndarray]]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            people = content["annots"] if isinstance(content, dict) else content
            for entry in people:
                pose = np.asarray(entry["poses"], float).ravel()
                pose = np.concatenate([np.zeros(3), pose]) if len(pose) in (69, 63) else pose
                root = Rotation.from_rotvec(np.ravel(entry["Rh"])) * Rotation.from_rotvec(pose[:3])
                pose[:3] = root.as_rotvec()
                rows.setdefault(int(entry.get("id", 0)), []).append((int(path.stem), pose))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: cannot be read as EasyMocap's fit ({error!r}); write it again") from error
    if not rows:
        raise InputError(f"{folder}: holds no fits of EasyMocap (000000.json, ...); name its smpl folder")
    sized = {key: (len(value), value) for key, value in rows.items()}
    frames, poses = zip(*chosen_track(sized, person, f"EasyMocap {folder}"))
    return _sorted(np.array(frames), from_axis_angles(np.stack(poses)), False, f"EasyMocap {folder}")


def read_npz(path: Path, person: int = 1) -> Estimate:
    """`.npz` like those of AMASS: `poses` (or `global_orient`, `body_pose`), `mocap_framerate`; in any world."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            if "poses" in names:
                poses = archive["poses"]
            elif {"global_orient", "body_pose"} <= names:
                parts = archive["global_orient"].reshape(-1, 3), archive["body_pose"]
                poses = np.concatenate([parts[0], parts[1].reshape(len(parts[0]), -1)], 1)
            else:
                raise ValueError(f"it holds {', '.join(sorted(names))}, neither poses nor body_pose and global_orient")
            rate_name = next((n for n in ("mocap_framerate", "mocap_frame_rate", "fps") if n in names), None)
            rate = None if rate_name is None else float(archive[rate_name])
        rotations = from_axis_angles(poses.reshape(len(poses), -1))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as poses of SMPL bodies ({error}); write it again") from error
    return Estimate(np.arange(len(rotations)), rotations, False, f"poses {path}", rate)


def read_estimate(path: Path, person: int = 1) -> Estimate:
    """The result of any known estimator, recognised by its files and content.

    Raises:
        InputError: If it is none of them, or the person is not in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; --fits names the result of a body estimator")
    try:
        return _read(path, person)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a result of a known estimator ({error!r}); {_KNOWN}") from error


_KNOWN = (
    "known are GVHMR (hmr4d_results.pt), WHAM (wham_output.pkl), TRAM (hps/), PromptHMR (results.pkl), 4D-Humans "
    "(<video>.pkl), EasyMocap (smpl/) and AMASS-like .npz"
)


def _read(path: Path, person: int) -> Estimate:
    if path.is_dir():
        for name, reader in (("hmr4d_results.pt", read_gvhmr), ("wham_output.pkl", read_wham)):
            if (path / name).is_file():
                return reader(path / name, person)
        if (path / "results.pkl").is_file():
            return _read_pickle(path / "results.pkl", person)
        if (path / "hps").is_dir() or list(path.glob("hps_track_*.npy")):
            return read_tram(path, person)
        smpl = path / "smpl" if (path / "smpl").is_dir() else path
        return read_easymocap_fits(smpl, person)
    if path.suffix == ".pt":
        return read_gvhmr(path, person)
    if path.suffix == ".npz":
        return read_npz(path, person)
    if path.suffix == ".npy":
        return read_tram(path, person)
    if path.suffix == ".pkl":
        return _read_pickle(path, person)
    raise InputError(f"{path}: not a result of a known estimator; {_KNOWN}")


def _read_pickle(path: Path, person: int) -> Estimate:
    content = read_tree(path)
    if isinstance(content, dict) and "people" in content:
        return read_prompthmr(path, person, content)
    first = next(iter(content.values()))
    reader = read_phalp if "smpl" in first else read_wham
    return reader(path, person, content)


def _sorted(frames: np.ndarray, rotations: np.ndarray, in_camera: bool, source: str) -> Estimate:
    order = np.argsort(frames, kind="stable")
    return Estimate(frames[order].astype(int), rotations[order], in_camera, source)
