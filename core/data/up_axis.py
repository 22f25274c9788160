"""Up axis of a capture's world: conversion to the raw world (z down), and the axis along which people stand in it."""

import torch
from jaxtyping import Float
from torch import Tensor

UP_AXES = {
    "+x": (1, 0, 0),
    "-x": (-1, 0, 0),
    "+y": (0, 1, 0),
    "-y": (0, -1, 0),
    "+z": (0, 0, 1),
    "-z": (0, 0, -1),
}
RAW_UP = "-z"
MIN_UPRIGHT = 0.5
"""Cosine of the angle to the up axis from which a mean direction counts as upright: 60 degrees."""
HEAD, FEET = 15, (10, 11)
"""Joints of SMPL."""


def raw_from_world(up: str) -> Float[Tensor, "4 4"]:
    """T_raw_world: the rotation that takes a world with this up axis to the raw world, whose up axis is -z; float64."""
    down = -torch.tensor(UP_AXES[up], dtype=torch.float64)
    x = torch.tensor([0.0, 1.0, 0.0] if down[0].abs() > 0.5 else [1.0, 0.0, 0.0], dtype=torch.float64)
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3] = torch.stack([x, torch.linalg.cross(down, x), down])
    return T


def rotated_axis(axis: str, T: Float[Tensor, "4 4"]) -> str:
    """Name of an axis after a rotation that takes axes to axes."""
    return nearest_axis(T[:3, :3] @ T.new_tensor(UP_AXES[axis]))


def body_direction(joints: Float[Tensor, "F J 3"]) -> Float[Tensor, "3"]:
    """Mean direction from the feet to the head over frames; of unit length if all agree."""
    return _mean_direction(joints[:, HEAD] - joints[:, list(FEET)].mean(1))


def camera_direction(viewmats: Float[Tensor, "C 4 4"]) -> Float[Tensor, "3"]:
    """Mean direction of the upper edges of the images; of unit length if all agree."""
    return _mean_direction(-viewmats[:, 1, :3])


def _mean_direction(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "3"]:
    return torch.nn.functional.normalize(vectors, dim=-1).mean(0)


def nearest_axis(direction: Float[Tensor, "3"]) -> str:
    """Axis of `UP_AXES` with the smallest angle to a direction."""
    return max(UP_AXES, key=lambda name: float(direction @ direction.new_tensor(UP_AXES[name])))


def observed_up(up: str, joints: Float[Tensor, "F J 3"], viewmats: Float[Tensor, "C 4 4"]) -> tuple[str, str] | None:
    """Axes that bodies and cameras stand along, if both contradict the up axis of the world; else None.

    A person who lies or stands on the hands, or cameras that are turned, contradict it alone.
    """
    axis = joints.new_tensor(UP_AXES[up])
    directions = body_direction(joints), camera_direction(viewmats.to(joints))
    if any(float(direction @ axis) > MIN_UPRIGHT for direction in directions):
        return None
    return nearest_axis(directions[0]), nearest_axis(directions[1])
