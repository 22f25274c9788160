"""Synchronised cameras without a calibration, solved from the landmarks of the person that all of them see.

The 3D landmarks of the pose network, in the axes of each camera, give the rotations between cameras (Kabsch, 1976).
With the 2D landmarks they also give the place of the person in each camera, hence the translations. Bundle adjustment
of all 2D landmarks follows. The scale is that of the network's bodies until `to_metres` sets it.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from core.capture.bundle_adjustment import Sightings, adjust
from core.capture.cameras import CameraSet, StoredCamera, triangulate
from core.capture.landmarks import SEEN, Landmarks
from smpl_renderer.errors import InputError
from smpl_renderer.rotations_numpy import nearest_rotation

USED = [0, *range(11, 17), *range(23, 33)]
"""Landmarks that show the same point of the body from all sides: not the eyes, ears and fingers."""
MIN_COMMON = 6
"""Landmarks that two cameras must see in a frame for its 3D landmarks to be compared."""
OUTLIER = 0.1
"""Metres: 3D landmarks of two cameras that differ by more hardly count."""
MAX_ERROR = 0.035
"""Median reprojection error, relative to the person's size, from which the solution is refused."""
Rows = list[list[Landmarks | None]]
_ADD_CALIBRATION = "add a calibration (--calibration)"


def solve_cameras(cameras: CameraSet, views: Rows, focals_known: bool) -> tuple[CameraSet, str]:
    """Poses of all cameras (the first one's frame is the world), and a note on how well they agree.

    Args:
        views: Landmarks by frame and camera.
        focals_known: Keep the focal lengths; else they are refined around the guess, by one factor for all cameras.
    Raises:
        InputError: If the cameras have too little in common, or the solution does not explain the landmarks.
    """
    rows = [row for row in views if sum(x is not None and x.world is not None for x in row) >= 2]
    if not rows:
        raise InputError(
            "cameras without a calibration are solved from the person's 3D landmarks, but no frame shows the person to "
            f"two cameras; {_ADD_CALIBRATION}"
        )
    rotations = _rotations(rows, len(cameras.cameras))
    started = _placed(cameras.cameras, rotations, _translations(rows, cameras.cameras, rotations))
    solved, factor, error = _adjusted(started, rows, free_focal=not focals_known)
    if not error < MAX_ERROR:
        raise InputError(
            f"the cameras could not be solved from the person's landmarks (they disagree by {100 * error:.0f} % of the "
            "person's height): are the videos synchronised, and do all show the same person? "
            f"Else {_ADD_CALIBRATION}"
        )
    note = f"cameras: solved from the person's landmarks, which agree within {100 * error:.1f} % of the person's height"
    if not focals_known:
        note += f"; focal lengths are {factor:.2f} times the guess"
    return CameraSet(solved, calibrated=True, up=None, metric=False, notes=cameras.notes), note


def _rotations(rows: Rows, count: int) -> list[Float[np.ndarray, "3 3"]]:
    """Rotations from the first camera's axes to each camera's. Cameras are joined along the pairs that agree best."""
    pairs = {}
    for a in range(count):
        for b in range(a + 1, count):
            common = [pair for row in rows if (pair := _common_world(row[a], row[b])) is not None]
            if common:
                pairs[a, b] = _rotation_between(common)
    found = {0: np.eye(3)}
    while len(found) < count:
        reach = [(support, a, b) for (a, b), (_, support) in pairs.items() if (a in found) != (b in found)]
        if not reach:
            raise InputError(f"one camera shares no view of the person with the others; {_ADD_CALIBRATION}")
        _, a, b = max(reach)
        R, _ = pairs[a, b]
        if a in found:
            found[b] = R @ found[a]
        else:
            found[a] = R.T @ found[b]
    return [found[c] for c in range(count)]


def _common_world(a: Landmarks | None, b: Landmarks | None) -> tuple[np.ndarray, np.ndarray] | None:
    """3D landmarks [n, 3] that both cameras see, each about their mean."""
    if a is None or b is None or a.world is None or b.world is None:
        return None
    used = [i for i in USED if min(a.visibility[i], b.visibility[i]) > SEEN]
    if len(used) < MIN_COMMON:
        return None
    return a.world[used] - a.world[used].mean(0), b.world[used] - b.world[used].mean(0)


def _rotation_between(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Float[np.ndarray, "3 3"], float]:
    """Robust rotation q = R p over the frames of two cameras, and its support: the sum of the landmarks' weights."""
    p, q = (np.concatenate(points) for points in zip(*pairs))
    # Exchanged sides in some frames pull the common solution off: that of a single frame may be the better start.
    starts = [_kabsch(p, q, np.ones(len(p))), *(_kabsch(a, b, np.ones(len(a))) for a, b in pairs)]

    def weights(R: np.ndarray) -> np.ndarray:
        return 1 / (1 + (np.square(q - p @ R.T).sum(-1) / OUTLIER**2)) ** 2

    R = max(starts, key=lambda R: weights(R).sum())
    for _ in range(10):
        R = _kabsch(p, q, weights(R))
    return R, float(weights(R).sum())


def _kabsch(p: np.ndarray, q: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """The rotation R that minimises the weighted squares of q - R p."""
    return nearest_rotation((weights[:, None] * q).T @ p)


def _translations(
    rows: Rows, cameras: tuple[StoredCamera, ...], rotations: list[np.ndarray]
) -> list[Float[np.ndarray, "3"]]:
    """Translations of the cameras, from the place of the person in each camera's own frame."""
    places = [[None if x is None or x.world is None else _place(x, c) for x, c in zip(row, cameras)] for row in rows]
    known = {0: np.zeros(3)}
    while len(known) < len(cameras):
        shifts = {}
        for c in set(range(len(cameras))) - set(known):
            shifts[c] = [
                row[c] - rotations[c] @ rotations[other].T @ (row[other] - t)
                for row in places
                for other, t in known.items()
                if row[c] is not None and row[other] is not None
            ]
        # The connection of cameras was checked with their rotations.
        best = max(shifts, key=lambda c: len(shifts[c]))
        known[best] = np.median(shifts[best], 0)
    return [known[c] for c in range(len(cameras))]


def _place(landmarks: Landmarks, camera: StoredCamera) -> Float[np.ndarray, "3"]:
    """The translation that makes the 3D landmarks project to the 2D ones: linear least squares."""
    X, weights = landmarks.world[USED], landmarks.visibility[USED]
    rays = (landmarks.points[USED] - camera.K[:2, 2]) / np.array([camera.K[0, 0], camera.K[1, 1]])
    A = np.zeros((len(USED), 2, 3))
    A[:, 0, 0] = A[:, 1, 1] = 1
    A[..., 2] = -rays
    rhs = rays * X[:, 2:] - X[:, :2]
    A, rhs = A * weights[:, None, None], rhs * weights[:, None]
    return np.linalg.lstsq(A.reshape(-1, 3), rhs.ravel(), rcond=None)[0]


def _placed(
    cameras: tuple[StoredCamera, ...], rotations: Float[np.ndarray, "C 3 3"], translations: Float[np.ndarray, "C 3"]
) -> tuple[StoredCamera, ...]:
    poses = np.tile(np.eye(4), (len(cameras), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, translations
    return tuple(replace(camera, T_cam_world=T) for camera, T in zip(cameras, poses))


def _adjusted(
    cameras: tuple[StoredCamera, ...], rows: Rows, free_focal: bool
) -> tuple[tuple[StoredCamera, ...], float, float]:
    """Cameras after bundle adjustment, the factor on their focal lengths, and the median relative error."""
    X, points, seen, sizes = [], [], [], []
    for row in rows:
        pixels = np.stack([np.zeros((len(USED), 2)) if x is None else x.points[USED] for x in row])
        visible = np.stack([np.zeros(len(USED), bool) if x is None else x.visibility[USED] > SEEN for x in row])
        visible &= visible.sum(0) >= 2
        X.append(triangulate(cameras, pixels, visible.astype(float))[0])
        points.append(pixels.swapaxes(0, 1))
        seen.append(visible.T)
        sizes.append(np.tile([1.0 if x is None else x.size for x in row], (len(USED), 1)))
    X, points, seen, sizes = (np.concatenate(parts) for parts in (X, points, seen, sizes))
    used = seen.any(1) & np.isfinite(X).all(1)
    sightings = Sightings(
        points[used],
        seen[used],
        sizes[used],
        np.array([camera.K[0, 0] for camera in cameras]),
        np.array([camera.K[:2, 2] for camera in cameras]),
    )
    T = np.stack([camera.T_cam_world for camera in cameras])
    result = adjust(sightings, T[:, :3, :3], T[:, :3, 3], X[used], free_focal=free_focal)
    factor = result.focal_factor
    factors = np.array([[factor, factor, 1], [1, factor, 1], [1, 1, 1]])  # principal points stay
    zoomed = tuple(replace(camera, K=camera.K * factors) for camera in cameras)
    return _placed(zoomed, result.rotations, result.translations), factor, float(np.median(result.errors))
