"""Joint regressors and shape space, fitted to many people, and sparse skinning weights."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import nnls

from scripts.standin.skeleton import mirrored_joints
from scripts.standin.surface import symmetrised
from smpl_renderer.body_model import JOINT_NAMES

_INNER_JOINTS = ("pelvis", "left_hip", "right_hip", "spine1", "spine2", "spine3")
"""Joints far from the skin."""

SUM_TO_ONE = 1e2
"""Weight of the equation that the coefficients of a joint sum to one; the other equations are in metres."""
RIDGE = 1e-2
"""Regularisation. Neighbours move almost alike; without it, rounding selects among them, depending on the machine."""

NEGLIGIBLE = 1e-3
"""Smaller coefficients are set to zero."""


def surface_joints(
    skins: Float[np.ndarray, "P V 3"], joints: Float[np.ndarray, "P J 3"], mirror: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "J V"]:
    """Regressor of joints as sparse averages of skin vertices, fitted to people in MakeHuman's rest pose.

    Replaces the rig's own joints, whose cubes decimation removes.
    """
    centre, joint_centres = skins.mean(0), joints.mean(0)
    regressor = np.zeros((joints.shape[1], skins.shape[1]))
    for j, row in enumerate(regressor):
        near = _nearest(centre, joint_centres[j], count=900, radius=0.25)[::3]
        row[near] = _non_negative_average(skins[:, near], joints[:, j])
    return _symmetrised_rows(regressor, mirror)


def decimated_joints(
    skins: Float[np.ndarray, "P V 3"], joints: Float[np.ndarray, "P J 3"], mirror: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "J V"]:
    """`J_regressor` of the final mesh, fitted to people in the rest pose."""
    centre, joint_centres = skins.mean(0), joints.mean(0)
    regressor = np.zeros((joints.shape[1], skins.shape[1]))
    for j, row in enumerate(regressor):
        near = _nearest(centre, joint_centres[j], count=None, radius=0.22 if JOINT_NAMES[j] in _INNER_JOINTS else 0.16)
        # Without vertices whose distance to the joint varies much between people.
        steady = np.linalg.norm(skins[:, near] - joints[:, None, j], axis=2).std(0) < 0.05
        near = near[steady][:700]
        near = near[::2] if len(near) > 350 else near
        row[near] = _non_negative_average(skins[:, near], joints[:, j])
    return _symmetrised_rows(regressor, mirror)


def _nearest(points: np.ndarray, centre: np.ndarray, count: int | None, radius: float) -> Int[np.ndarray, " n"]:
    # Rounded to nanometres: a vertex and its mirror image are equally far, and the stable sort breaks the tie.
    distances = np.linalg.norm(points - centre, axis=1).round(9)
    order = np.argsort(distances, kind="stable")[:count]
    return order[distances[order] < radius]


def _non_negative_average(
    points: Float[np.ndarray, "P n 3"], goals: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " n"]:
    count = points.shape[1]
    equations = [points.transpose(0, 2, 1).reshape(-1, count), np.full((1, count), SUM_TO_ONE), RIDGE * np.eye(count)]
    values = [goals.ravel(), [SUM_TO_ONE], np.zeros(count)]
    coefficients, _ = nnls(np.concatenate(equations), np.concatenate(values))
    return np.where(coefficients < NEGLIGIBLE, 0, coefficients)


def _symmetrised_rows(regressor: Float[np.ndarray, "J V"], mirror: Int[np.ndarray, " V"]) -> Float[np.ndarray, "J V"]:
    regressor = 0.5 * (regressor + regressor[mirrored_joints()][:, mirror])
    return regressor / regressor.sum(1, keepdims=True)


@dataclass(frozen=True)
class ShapeSpace:
    """Mean body and principal components, scaled to unit deviation; mirror symmetric."""

    mean: Float[np.ndarray, "V 3"]
    components: Float[np.ndarray, "V 3 S"]
    explained: float
    """Share of the variance that the components explain."""


def fit_shape_space(
    bodies: Float[np.ndarray, "P V 3"], mirror: Int[np.ndarray, " V"], num_components: int = 10
) -> ShapeSpace:
    """Principal components of symmetrised people."""
    average = bodies.mean(0)
    mean = symmetrised(average, mirror)
    deviations = symmetrised(bodies - average, mirror).reshape(len(bodies), -1)
    # There are far fewer people than coordinates, hence the eigenvectors of the small Gram matrix.
    variances, mixtures = np.linalg.eigh(deviations @ deviations.T)
    variances, mixtures = variances[::-1], mixtures[:, ::-1]
    components = (mixtures[:, :num_components].T @ deviations) / np.sqrt(len(bodies) - 1)
    components = components.reshape(num_components, -1, 3)
    # The sign of a component is arbitrary; positive is taller.
    tallness = (components[:, :, 1] * np.sign(mean[:, 1])).sum(1)
    components *= np.sign(tallness)[:, None, None]
    explained = float(variances[:num_components].sum() / variances.sum())
    return ShapeSpace(mean, components.transpose(1, 2, 0), explained)


def sparse_weights(weights: Float[np.ndarray, "V J"], most: int = 4, least: float = 0.005) -> Float[np.ndarray, "V J"]:
    """The `most` largest weights of each vertex that are at least `least`, scaled to a sum of one."""
    ranks = np.argsort(np.argsort(-weights, axis=1, kind="stable"), axis=1, kind="stable")
    kept = np.where((ranks < most) & (weights >= least), weights, 0.0)
    return kept / kept.sum(1, keepdims=True)
