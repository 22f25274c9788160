"""Joint rotations, the part of body estimates that fits start from. Shape and place are fitted to the images again."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from smpl_renderer.errors import InputError

NUM_JOINTS = 24
NUM_SHARED = 22
"""Pelvis and 21 body joints: SMPL, SMPL-H and SMPL-X agree on these."""


@dataclass(frozen=True)
class Estimate:
    """Poses of one person over the frames of a video."""

    frames: np.ndarray
    """Numbers of the frames [F], from 0, increasing."""
    rotations: Float[np.ndarray, "F 24 3 3"]
    """Relative to the parent joint; the first is the body's orientation in the camera, if `in_camera`."""
    in_camera: bool
    """False: the first rotation is in a world whose relation to the camera is not known."""
    source: str
    rate: float | None = None
    """Frames per second that the numbers count; None: those of the video."""

    def at(self, number: int, time: float | None) -> int | None:
        """Index of the estimate for a frame, by its number or, at another rate, its time; None if none is near."""
        wanted = number if self.rate is None or time is None else round(time * self.rate)
        index = int(np.abs(self.frames - wanted).argmin())
        return index if abs(int(self.frames[index]) - wanted) <= 1 else None


def from_axis_angles(values: Float[np.ndarray, "F K"]) -> Float[np.ndarray, "F 24 3 3"]:
    """Joint rotations from axis-angles of SMPL (72), SMPL-H (156), SMPL-X (165) or of body joints alone (66)."""
    values = np.asarray(values, float)
    values = values.reshape(len(values), -1, 3)
    if values.shape[1] < NUM_SHARED:
        raise ValueError(f"poses must hold at least {NUM_SHARED} joints, got {values.shape[1]}")
    matrices = Rotation.from_rotvec(values[:, :NUM_JOINTS].reshape(-1, 3)).as_matrix()
    return with_straight_hands(matrices.reshape(len(values), -1, 3, 3), values.shape[1] == NUM_JOINTS)


def with_straight_hands(rotations: Float[np.ndarray, "F J 3 3"], is_smpl: bool) -> Float[np.ndarray, "F 24 3 3"]:
    """SMPL's 24 joints from those of a body of its family; the last two are the identity unless it is SMPL."""
    full = np.tile(np.eye(3), (len(rotations), NUM_JOINTS, 1, 1))
    count = NUM_JOINTS if is_smpl else NUM_SHARED
    full[:, :count] = rotations[:, :count]
    return full


def chosen_track(tracks: dict, person: int, source: str) -> object:
    """The `person`-th track of a file, by its number of frames.

    Raises:
        InputError: If there are fewer.
    """
    ordered = sorted(tracks.values(), key=lambda track: -track[0])
    if person > len(ordered):
        raise InputError(f"{source}: holds {len(ordered)} people, not {person}; give another --person")
    return ordered[person - 1][1]
