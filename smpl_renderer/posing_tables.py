"""Arrays of a body model in the layout that the posing kernels read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


class PosingTables(NamedTuple):
    """Tensors of a body that `pose_bodies_fused` reads, apart from its shape."""

    posedirs: Float[Tensor, "V 3 9*(J-1)"]
    """Pose corrective blend shapes, in metres."""
    ancestors: Int[Tensor, "D+1 J"]
    """Kinematic tree, as from `ancestor_table`."""
    influences: Int[Tensor, "K V"]
    """Joints that influence each vertex, as from `influence_tables`."""
    influence_weights: Float[Tensor, "K V"]
    """Skinning weights of those joints."""


def kernel_arrays(arrays: Mapping[str, np.ndarray], parents: Sequence[int]) -> dict[str, np.ndarray]:
    """Derive what the kernels read beside a body's own arrays (given under SMPL's names).

    Returns:
        `ancestors`, `influences` and `influence_weights` as in `PosingTables`, and the rest joints as a linear function
        of the shape, `joint_template` [3J] and `joint_dirs` [3J, S]; those are computed in float64 and rounded once.
    """
    influences, influence_weights = influence_tables(arrays["weights"])
    regressor = arrays["J_regressor"].astype(np.float64)
    joint_dirs = np.einsum("jv,vks->jks", regressor, arrays["shapedirs"])
    return {
        "ancestors": ancestor_table(parents),
        "influences": influences,
        "influence_weights": influence_weights,
        "joint_template": (regressor @ arrays["v_template"]).astype(np.float32).ravel(),
        "joint_dirs": joint_dirs.reshape(3 * len(regressor), -1).astype(np.float32),
    }


def ancestor_table(parents: Sequence[int]) -> Int[np.ndarray, "D+1 J"]:
    """Path of each joint to the root: row d holds ancestors of degree d, and -1 beyond the root.

    Row 0 holds the joints themselves, the last row only -1.
    """
    rows = [np.arange(len(parents))]
    while (rows[-1] >= 0).any():
        rows.append(np.where(rows[-1] >= 0, np.asarray(parents)[rows[-1]], -1))
    return np.stack(rows).astype(np.int32)


def influence_tables(weights: Float[np.ndarray, "V J"]) -> tuple[Int[np.ndarray, "K V"], Float[np.ndarray, "K V"]]:
    """Joints that influence each vertex, by descending weight, and the weights; K is the largest number per vertex."""
    most = max(int((weights != 0).sum(1).max()), 1)
    joints = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :most]
    chosen = np.take_along_axis(weights, joints, axis=1)
    return np.ascontiguousarray(joints.T, np.int32), np.ascontiguousarray(chosen.T, np.float32)
