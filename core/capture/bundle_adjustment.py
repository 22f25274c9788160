"""Bundle adjustment of cameras that saw the same points: Triggs et al., "Bundle Adjustment" (2000)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation

NOISE = 0.01
"""Standard deviation of a landmark, relative to the person's size in the image."""
FOCAL_PRIOR = 0.1
"""Standard deviation of the logarithm of a guessed focal length."""
MIN_DEPTH = 0.1


@dataclass(frozen=True)
class Sightings:
    """Pixels of N points in C cameras."""

    points: Float[np.ndarray, "N C 2"]
    seen: Bool[np.ndarray, "N C"]
    sizes: Float[np.ndarray, "N C"]
    """Size of the person in pixels; errors are relative to it."""
    focals: Float[np.ndarray, "C"]
    centers: Float[np.ndarray, "C 2"]
    """Principal points."""


@dataclass(frozen=True)
class AdjustedCameras:
    """Result of the adjustment; the first camera keeps its pose."""

    rotations: Float[np.ndarray, "C 3 3"]
    translations: Float[np.ndarray, "C 3"]
    focal_factor: float
    errors: Float[np.ndarray, "M"]
    """Reprojection errors of the M sightings, relative to the person's size."""


def adjust(
    sightings: Sightings,
    rotations: Float[np.ndarray, "C 3 3"],
    translations: Float[np.ndarray, "C 3"],
    points: Float[np.ndarray, "N 3"],
    *,
    free_focal: bool,
) -> AdjustedCameras:
    """Minimise a robust sum of reprojection errors over camera poses, all points and a factor on the focal lengths.

    Args:
        rotations, translations, points: To start from; world to camera. Points that fewer than two cameras see must not
            be among them.
        free_focal: Estimate the factor, around 1; else it is 1.
    """
    first = Rotation.from_matrix(rotations[0]).as_rotvec(), translations[0]
    poses = np.concatenate([Rotation.from_matrix(rotations[1:]).as_rotvec(), translations[1:]], 1)
    num_poses = poses.size
    start = np.concatenate([poses.ravel(), [0.0], points.ravel()])
    point, camera = np.nonzero(sightings.seen)
    scale = NOISE * sightings.sizes[point, camera, None]

    def unpack(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
        poses = np.concatenate([np.concatenate(first)[None], x[:num_poses].reshape(-1, 6)])
        R = Rotation.from_rotvec(poses[:, :3]).as_matrix()
        return R, poses[:, 3:], float(np.exp(x[num_poses])), x[num_poses + 1 :].reshape(-1, 3)

    def residuals(x: np.ndarray) -> np.ndarray:
        R, t, factor, X = unpack(x)
        in_camera = np.einsum("nij,nj->ni", R[camera], X[point]) + t[camera]
        rays = in_camera[:, :2] / np.maximum(in_camera[:, 2:], MIN_DEPTH)
        pixels = rays * factor * sightings.focals[camera, None] + sightings.centers[camera]
        prior = x[num_poses] / (FOCAL_PRIOR if free_focal else 1e-6)
        return np.append(((pixels - sightings.points[point, camera]) / scale).ravel(), prior)

    result = least_squares(
        residuals,
        start,
        jac_sparsity=_sparsity(point, camera, num_poses, len(start)),
        loss="soft_l1",
        f_scale=2.0,
        x_scale="jac",
        max_nfev=60,
    )
    R, t, factor, _ = unpack(result.x)
    errors = NOISE * np.linalg.norm(residuals(result.x)[:-1].reshape(-1, 2), axis=1)
    return AdjustedCameras(R, t, factor, errors)


def _sparsity(point: np.ndarray, camera: np.ndarray, num_poses: int, num_unknowns: int) -> csr_matrix:
    """Sparsity of the Jacobian: each residual depends on a camera's pose, the focal factor, a point."""
    rows, columns = [], []
    index = np.arange(len(point))
    for axis in range(2):
        free = camera > 0
        for k in range(6):
            rows.append(2 * index[free] + axis)
            columns.append(6 * (camera[free] - 1) + k)
        rows.append(2 * index + axis)
        columns.append(np.full(len(index), num_poses))
        for k in range(3):
            rows.append(2 * index + axis)
            columns.append(num_poses + 1 + 3 * point + k)
    rows.append(np.array([2 * len(index)]))
    columns.append(np.array([num_poses]))
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    return csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), (2 * len(index) + 1, num_unknowns))
