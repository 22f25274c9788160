"""Rotations of NumPy arrays, in float64. Matrices act on column vectors, from the left."""

import numpy as np
from jaxtyping import Float


def rotation_between(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation by the smallest angle that takes the direction of a to that of b.

    For opposite directions, whose axis is not unique, it is one at right angles to a. A vector of length zero has no
    direction; the result is then the identity.
    """
    a, b = (x / max(np.linalg.norm(x), 1e-12) for x in (a, b))
    v, c = np.cross(a, b), float(a @ b)
    if c < -1 + 1e-9:
        axis = np.cross(a, np.eye(3)[np.abs(a).argmin()])
        axis /= np.linalg.norm(axis)
        return 2 * np.outer(axis, axis) - np.eye(3)
    K = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + K + K @ K / (1 + c)


def nearest_rotation(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The nearest rotation. For sum_i w_i q_i p_i^T it minimises sum_i w_i |q_i - R p_i|^2 (Kabsch, 1976)."""
    U, _, Vt = np.linalg.svd(matrix)
    U = U.copy()
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    return U @ Vt
