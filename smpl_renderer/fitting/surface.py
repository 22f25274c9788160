"""Vertices that a fit works with: spread over the surface, the soles, and the parts that cloth covers alike."""

import functools

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES, BodyModel

MOST_SPREAD = 1500
"""Vertices that are spread at once: fewer are the first of them."""
FEET = tuple(JOINT_NAMES.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("ankle", "foot"))
SOLE_HEIGHT = 0.025
"""Vertices of the feet at most so far above the lowest one, in the rest pose, are the soles."""
# Parts, and the distance in metres by which masks exceed them: medians over synthetic people without skirts.
_CLOTH_PARTS = (
    (0.010, ("spine1", "spine2", "spine3", "left_collar", "right_collar")),
    (0.010, ("pelvis",)),  # apart from the trunk: skirts hide it, whatever is worn above
    (0.007, ("neck", "head")),
    (0.006, ("left_shoulder", "right_shoulder")),
    (0.004, ("left_elbow", "right_elbow")),
    (0.003, ("left_wrist", "right_wrist", "left_hand", "right_hand")),
    (0.006, ("left_hip", "right_hip")),
    (0.006, ("left_knee", "right_knee")),
    (0.013, ("left_ankle", "right_ankle", "left_foot", "right_foot")),
)
CLEARANCES = tuple(clearance for clearance, _ in _CLOTH_PARTS)
NUM_CLOTH_PARTS = len(_CLOTH_PARTS)


def cloth_parts(body: BodyModel) -> Int[Tensor, " V"]:
    """Part of each vertex that cloth covers alike, as an index into the table above."""
    owner = {name: part for part, (_, names) in enumerate(_CLOTH_PARTS) for name in names}
    table = torch.tensor([owner[name] for name in JOINT_NAMES], device=body.lbs_weights.device)
    return table[body.lbs_weights.argmax(1)]


def sole_vertices(body: BodyModel) -> Int[Tensor, " M"]:
    """Every second vertex of the soles."""
    part = body.lbs_weights.argmax(1)
    feet = torch.isin(part, torch.tensor(FEET, device=part.device))
    height = body.v_template[:, 1]
    return torch.nonzero(feet & (height < height[feet].min() + SOLE_HEIGHT))[::2, 0]


def spread_vertices(body: BodyModel, count: int) -> Int[Tensor, " N"]:
    """Vertices spread evenly over the body."""
    template = body.v_template
    order = _spread_order(template.numpy(force=True).astype(np.float32).tobytes(), max(count, MOST_SPREAD))
    return torch.tensor(order[:count], device=template.device)


def spread_points(points: Float[Tensor, "V 3"], count: int) -> Int[Tensor, " N"]:
    """Indices of points spread evenly: each next one is farthest from those before."""
    return torch.from_numpy(_spread(points.numpy(force=True), count)).to(points.device)


@functools.lru_cache(maxsize=8)
def _spread_order(points: bytes, count: int) -> np.ndarray:
    return _spread(np.frombuffer(points, np.float32).reshape(-1, 3), count)


def _spread(points: np.ndarray, count: int) -> np.ndarray:
    """`spread_points` on the CPU: each of many small steps depends on the one before."""
    chosen = np.zeros(min(count, len(points)), np.int64)
    columns = np.ascontiguousarray(points.T)
    nearest = np.full(len(points), np.inf, points.dtype)
    for i in range(1, len(chosen)):
        x, y, z = columns - columns[:, chosen[i - 1], None]
        np.minimum(nearest, x * x + y * y + z * z, out=nearest)
        chosen[i] = nearest.argmax()
    return chosen


def height_rows(body: BodyModel) -> tuple[Float[Tensor, ""], Float[Tensor, " S"]]:
    """Height of the standing rest pose as a linear function of the shape: its constant and its slopes, in metres."""
    height = body.v_template[:, 1]
    top, bottom = height.argmax(), height.argmin()
    return height[top] - height[bottom], body.shapedirs[top, 1] - body.shapedirs[bottom, 1]
