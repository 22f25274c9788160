"""Trajectories of the videos: cameras around a subject, and poses between fits."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.types.cameras import Cameras, look_at
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

FIELD_OF_VIEW = math.radians(30)
ELEVATION = math.radians(8)
"""Angle of the turntable cameras above the horizontal plane."""
MARGIN = 1.1
"""Radius of the volume in view, relative to that of the vertices."""
MAX_KEYS = 24
"""Maximum number of fits in a novel-pose video without held-out frames."""


def turntable(vertices: Float[Tensor, "*batch V 3"], count: int, size: int) -> Cameras:
    """Cameras [count] on a circle around posed vertices, all of which are inside the square images.

    The first camera looks from +z (in the subject frame: the direction of the first input camera), the next from its
    right.
    """
    points = vertices.reshape(-1, 3)
    center = (points.amin(0) + points.amax(0)) / 2
    return cameras_around(center, (points - center).norm(dim=-1).max(), count, size)


def cameras_around(center: Float[Tensor, "3"], radius: Float[Tensor, ""], count: int, size: int) -> Cameras:
    """Cameras [count] on a circle around a sphere, as `turntable`."""
    radius = radius * MARGIN
    distance = radius / math.sin(FIELD_OF_VIEW / 2)
    angles = torch.arange(count, device=center.device, dtype=center.dtype) * (2 * math.pi / count)
    directions = torch.stack(
        [
            angles.sin() * math.cos(ELEVATION),
            torch.full_like(angles, math.sin(ELEVATION)),
            angles.cos() * math.cos(ELEVATION),
        ],
        dim=-1,
    )
    up = center.new_tensor([0.0, 1.0, 0.0])
    viewmats = look_at(center + distance * directions, center, up)
    focal = size / 2 / math.tan(FIELD_OF_VIEW / 2)
    K = center.new_tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, K.expand(count, 3, 3), size, size)


def interpolate_poses(keys: BodyParams, key_times: Float[Tensor, " K"], times: Float[Tensor, " T"]) -> BodyParams:
    """Bodies [T] at `times` between key bodies [K] at increasing times: joints along great arcs, the rest linearly.

    Times before the first and after the last key have the pose of that key.
    """
    if len(key_times) < 2:
        return keys[torch.zeros(len(times), dtype=torch.int64, device=times.device)]
    right = torch.searchsorted(key_times, times, right=True).clamp(1, len(key_times) - 1)
    left = right - 1
    share = ((times - key_times[left]) / (key_times[right] - key_times[left])).clamp(0, 1)

    def linear(values: Tensor) -> Tensor:
        return torch.lerp(values[left], values[right], share.view(-1, *[1] * (values.ndim - 1)).to(values))

    def along_arcs(rotations: Float[Tensor, "K n3"]) -> Float[Tensor, "T n3"]:
        start, end = (axis_angle_to_matrix(rotations[i].unflatten(-1, (-1, 3))) for i in (left, right))
        partial = share.to(rotations)[:, None, None] * matrix_to_axis_angle(start.mT @ end)
        return matrix_to_axis_angle(start @ axis_angle_to_matrix(partial)).flatten(-2)

    return BodyParams(
        betas=linear(keys.betas),
        global_orient=along_arcs(keys.global_orient),
        body_pose=along_arcs(keys.body_pose),
        transl=linear(keys.transl),
        scale=linear(keys.scale),
    )


def loop_times(first: float, last: float, count: int) -> Float[Tensor, " T"]:
    """Times of a seamless loop from `first` to `last` and back, with zero velocity at both ends."""
    phase = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return first + (last - first) * (1 - phase.cos()) / 2


def novel_pose_keys(novel: list[int], observed: list[int], available: list[int]) -> list[int]:
    """Frames whose fits are the keys of the novel-pose video.

    With held-out frames these are all fits of the held-out interval. If there are fewer than two, the nearest observed
    frame is added, because motion needs two keys. Without held-out frames they are the first `MAX_KEYS` fits of the
    longest run without an observed frame; none if there are fewer than two.
    """
    if novel:
        keys = {f for f in available if min(novel) <= f <= max(novel) and f not in observed} | set(novel)
        if len(keys) < 2:
            keys |= {min(observed, key=lambda f: abs(f - novel[0]))}
        return sorted(keys)
    runs: list[list[int]] = [[]]
    for frame in sorted({*available, *observed}):
        if frame in observed:
            runs.append([])
        else:
            runs[-1].append(frame)
    longest = max(runs, key=len)
    return longest[:MAX_KEYS] if len(longest) > 1 else []
