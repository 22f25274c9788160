"""Common form of motion files, free of their containers and conventions: rotations and pelvis of one person."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation, Slerp

from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

NUM_JOINTS = 24
NUM_SHARED = 22
"""Pelvis and 21 body joints: SMPL, SMPL-H and SMPL-X agree on these."""
MAX_FRAMES = 200_000
"""28 minutes at 120 frames per second."""
MAX_GAP_SECONDS = 2.0
"""Longest stretch without a detection that is filled without a warning."""

Space = Literal["world", "camera"]


@dataclass(frozen=True)
class Track:
    """T poses of one person in the frame of the file."""

    rotations: Float[np.ndarray, "T 24 3 3"]
    """Rotations relative to the parent joint; the first is the orientation of the body in the file's frame."""
    pelvis: Float[np.ndarray, "T 3"]
    """Position of the pelvis in metres; zeros if the file has none."""
    frames: Int[np.ndarray, " T"]
    """Numbers of the frames, increasing."""
    source: str
    """Kind and path of the file, for messages."""
    fps: float | None = None
    """Frames per second that the numbers count; None if the file does not state it."""
    in_camera: bool = False
    """True if the frame is that of a camera, whose up axis is only roughly that of the world."""
    up: str = "+y"
    """Up axis to use if the poses do not show it."""
    leg_length: float = 0.0
    """Metres from hip over knee to ankle of the skeleton that moved; 0 if unknown."""


class MissingPerson(InputError):
    """A file holds fewer people than the number of the wanted one."""

    def __init__(self, source: str, person: int, count: int):
        super().__init__(f"{source}: holds {count} people, not {person}; give --person 1 to {count}")
        self.count = count


def from_axis_angles(values: Float[np.ndarray, "T K"]) -> Float[np.ndarray, "T 24 3 3"]:
    """Joint rotations from axis-angles of SMPL (72), SMPL-H (156), SMPL-X (165) or of body joints alone (66).

    Raises:
        ValueError: If there are fewer than 22 joints.
    """
    values = np.asarray(values, np.float64)
    values = values.reshape(len(values), -1)
    if values.shape[1] < 3 * NUM_SHARED:
        raise ValueError(f"poses must hold at least {NUM_SHARED} joints ({3 * NUM_SHARED} numbers), got {values.shape}")
    count = NUM_JOINTS if values.shape[1] == 3 * NUM_JOINTS else NUM_SHARED
    return smpl_joints(_from_rotvec(values[:, : 3 * count].reshape(len(values), count, 3)), count == NUM_JOINTS)


def from_parts(root: np.ndarray, body: np.ndarray) -> Float[np.ndarray, "T 24 3 3"]:
    """Joint rotations from a root and a body pose, each as axis-angles or matrices; 21 or 23 body joints.

    Raises:
        ValueError: If the shapes fit neither.
    """
    root = _to_matrices(root, (1,), "global_orient")
    body = _to_matrices(body, (23, 21), "body_pose")
    if len(root) != len(body):
        raise ValueError(f"global_orient has {len(root)} frames, body_pose {len(body)}")
    return smpl_joints(np.concatenate([root, body], 1), body.shape[1] == 23)


def smpl_joints(rotations: Float[np.ndarray, "T J 3 3"], is_smpl: bool) -> Float[np.ndarray, "T 24 3 3"]:
    """SMPL's 24 joints from those of a body of its family; the two hand joints are the identity unless it is SMPL."""
    count = NUM_JOINTS if is_smpl else NUM_SHARED
    full = np.tile(np.eye(3), (len(rotations), NUM_JOINTS, 1, 1))
    full[:, :count] = rotations[:, :count]
    return full


def _to_matrices(values: np.ndarray, counts: tuple[int, ...], name: str) -> Float[np.ndarray, "T n 3 3"]:
    values = np.asarray(values, np.float64)
    for count in counts:
        if values.shape[-3:] == (count, 3, 3) or (count == 1 and values.ndim == 3 and values.shape[-2:] == (3, 3)):
            return values.reshape(-1, count, 3, 3)
        if values.ndim <= 2 and values.shape[-1] == 9 * count:
            return values.reshape(-1, count, 3, 3)
        if values.shape[-1] == 3 * count or values.shape[-2:] == (count, 3):
            return _from_rotvec(values.reshape(-1, count, 3))
    expected = " or ".join(f"[T, {3 * count}]" for count in counts)
    raise ValueError(f"{name} must be {expected} (axis-angle) or rotation matrices, got {list(values.shape)}")


def _from_rotvec(values: Float[np.ndarray, "T n 3"]) -> Float[np.ndarray, "T n 3 3"]:
    return Rotation.from_rotvec(values.reshape(-1, 3)).as_matrix().reshape(*values.shape[:2], 3, 3)


def chosen_track(tracks: Mapping[Any, tuple[int, Any]], person: int | None, source: str) -> Any:
    """The `person`-th track of a file, by its number of frames; the longest by default.

    Args:
        tracks: Number of frames and content by the tool's own name of the track.
    Raises:
        InputError: If there are none, or fewer (`MissingPerson`).
    """
    if not tracks:
        raise InputError(f"{source}: holds no people; choose a clip in which the estimator found a person")
    if person is not None and not 1 <= person <= len(tracks):
        raise MissingPerson(source, person, len(tracks))
    ordered = sorted(tracks.items(), key=lambda item: -item[1][0])
    if person is None and len(tracks) > 1:
        sizes = ", ".join(str(track[0]) for _, track in ordered[:8])
        logger.info("%s: %d people (%s frames); the first is used, see --person", source, len(tracks), sizes)
    return ordered[(person or 1) - 1][1][1]


def sorted_track(track: Track) -> Track:
    """The track with increasing frame numbers; of frames that occur twice the first is kept."""
    frames, first = np.unique(np.asarray(track.frames, np.int64).ravel(), return_index=True)
    return replace(track, frames=frames, rotations=track.rotations[first], pelvis=track.pelvis[first])


def check_track(track: Track, path: Path) -> None:
    """Refuse tracks of contradicting lengths, without frames, of too many frames, or with NaN.

    Raises:
        InputError: If it is one of these.
    """
    count = len(track.rotations)
    if count == 0:
        raise InputError(f"{path}: holds no frames; choose another file")
    if len(track.pelvis) != count or len(track.frames) != count:
        raise InputError(
            f"{path}: rotations, translations and frame numbers must be equally many, got {count}, {len(track.pelvis)} "
            f"and {len(track.frames)}; write the file again"
        )
    span = int(track.frames[-1]) - int(track.frames[0]) + 1
    if max(count, span) > MAX_FRAMES:
        raise InputError(f"{path}: holds {max(count, span)} frames, at most {MAX_FRAMES} are read; cut it into parts")
    for name in ("rotations", "pelvis"):
        bad = ~np.isfinite(getattr(track, name)).reshape(count, -1).all(1)
        if bad.any():
            raise InputError(
                f"{path}: {name} of frame {int(track.frames[bad.argmax()])} are not finite ({int(bad.sum())} such "
                "frames); cut them out or estimate them again"
            )


def fill_gaps(track: Track) -> Track:
    """The track with one pose per frame number: missing ones lie on the arcs between their neighbours."""
    frames = np.asarray(track.frames, np.float64)
    wanted = np.arange(track.frames[0], track.frames[-1] + 1)
    if len(wanted) == len(frames):
        return track
    longest = np.diff(frames).max() - 1
    if longest > MAX_GAP_SECONDS * (track.fps or 30.0):
        logger.warning("%s: %d frames in a row are missing; the pose between is interpolated", track.source, longest)
    return replace(track, **_interpolated(track, frames, wanted.astype(np.float64)), frames=wanted)


def at_even_times(track: Track, times: Iterable[float], fps: float) -> Track:
    """The track at `fps` frames per second, from poses at increasing `times` in seconds."""
    times = np.asarray(list(times), np.float64)
    count = int(np.floor((times[-1] - times[0]) * fps + 1e-6)) + 1
    if count > MAX_FRAMES:
        raise InputError(
            f"{track.source}: lasts {times[-1] - times[0]:g} seconds; at most {MAX_FRAMES} frames are read"
        )
    wanted = np.minimum(times[0] + np.arange(count) / fps, times[-1])
    return replace(track, **_interpolated(track, times, wanted), frames=np.arange(count), fps=fps)


def _interpolated(track: Track, known: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    if len(known) == 1:
        return {name: np.repeat(getattr(track, name), len(wanted), 0) for name in ("rotations", "pelvis")}
    joints = [Slerp(known, Rotation.from_matrix(R))(wanted).as_matrix() for R in track.rotations.swapaxes(0, 1)]
    pelvis = np.stack([np.interp(wanted, known, axis) for axis in track.pelvis.T], 1)
    return {"rotations": np.stack(joints, 1), "pelvis": pelvis}
