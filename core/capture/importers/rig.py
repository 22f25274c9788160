"""Cameras of a calibration, as all readers return them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from core.data.lens import Lens
from smpl_renderer.errors import InputError

MAX_SIDE = 2**16
"""Largest side of images that a calibration may state, in pixels."""


@dataclass(frozen=True)
class ImportedCamera:
    """One camera: K in pixels with centres at +0.5, world to camera with OpenCV axes, the units of the file."""

    K: Float[np.ndarray, "3 3"]
    T_cam_world: Float[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None
    """Width and height that K is for; None where the file does not state them."""
    lens: Lens | None = None


@dataclass(frozen=True)
class ImportedRig:
    """Cameras of a calibration."""

    cameras: dict[str, ImportedCamera]
    """Cameras by name, or by image path without suffix where `per_image` is set."""
    source: str
    """Kind and path, for notes and messages."""
    up: tuple[float, float, float] | None = None
    """Up axis of the world: a unit vector against gravity, where the format fixes it."""
    metric: bool = True
    """False where lengths have any unit (structure from motion)."""
    per_image: bool = False
    """True if there is one camera per image, not per device."""


def rigid(R: np.ndarray, t: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """A rigid transform as a matrix."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, np.asarray(t, float).ravel()
    return T


def rotation_from_vector(vector: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' formula: the rotation by |vector| about its direction."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.asarray(vector, float).ravel()).as_matrix()


def checked(camera: ImportedCamera, name: str, path: Path) -> ImportedCamera:
    """The camera itself, if it is one.

    Raises:
        InputError: If K is no camera matrix, the rotation none, or the size or the lens out of range.
    """
    R, size = camera.T_cam_world[:3, :3], camera.size
    finite = all(np.isfinite(x).all() for x in (camera.K, camera.T_cam_world))
    if camera.K.shape != (3, 3) or not finite:
        raise InputError(f"{path}: camera {name} has no finite matrices; calibrate again or correct the file")
    if camera.K[0, 0] <= 0 or camera.K[1, 1] <= 0 or abs(camera.K[2] - [0, 0, 1]).max() > 1e-6:
        raise InputError(f"{path}: camera {name} has no valid matrix K; calibrate again or correct the file")
    # A rotation's elements are at most 1; products of larger ones can overflow.
    if abs(R).max() > 2 or abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise InputError(f"{path}: camera {name} has no valid rotation; calibrate again or correct the file")
    if size is not None and not all(0 < side <= MAX_SIDE for side in size):
        raise InputError(f"{path}: camera {name} has images of {size[0]} x {size[1]} pixels; correct the size")
    if camera.lens is not None and not np.isfinite(camera.lens.coefficients).all():
        raise InputError(f"{path}: camera {name} has distortion coefficients that are not finite; correct them")
    return camera


def opencv_lens(coefficients: np.ndarray | list, fisheye: bool = False) -> Lens | None:
    """A lens from OpenCV's coefficients, padded with zeros to a valid number of them; None without distortion."""
    values = np.asarray(coefficients, float).ravel()
    if not np.any(values):
        return None
    count = next((n for n in ((4,) if fisheye else (4, 5, 8, 12, 14)) if n >= len(values)), None)
    if count is None:
        raise ValueError(f"{len(values)} distortion coefficients are not OpenCV's; 4, 5, 8, 12 or 14 are known")
    padded = tuple(np.concatenate([values, np.zeros(count - len(values))]).tolist())
    return Lens("fisheye" if fisheye else "opencv", padded)


def shifted_to_centers(K: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """K for pixel centres at +0.5, from OpenCV's with centres on integers."""
    K = np.array(K, float)
    K[:2, 2] += 0.5
    return K
