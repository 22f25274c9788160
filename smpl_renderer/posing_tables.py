"""A body's arrays as the kernels read them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def ancestor_table(parents: Sequence[int]) -> Int[np.ndarray, "D+1 J"]:
    """Each joint, its parent, and so on up to the root; then -1, in the last row for all."""
    rows = [np.arange(len(parents))]
    while (rows[-1] >= 0).any():
        rows.append(np.where(rows[-1] >= 0, np.asarray(parents)[rows[-1]], -1))
    return np.stack(rows).astype(np.int32)


def influence_tables(weights: Float[np.ndarray, "V J"]) -> tuple[Int[np.ndarray, "K V"], Float[np.ndarray, "K V"]]:
    """The joints that move each vertex, and their weights; K is the most that any vertex has."""
    most = max(int((weights != 0).sum(1).max()), 1)
    joints = np.argsort(-np.abs(weights), axis=1, kind="stable")[:, :most]
    chosen = np.take_along_axis(weights, joints, axis=1)
    return np.ascontiguousarray(joints.T, np.int32), np.ascontiguousarray(chosen.T, np.float32)
