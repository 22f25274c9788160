"""What the videos show: cameras around a person, and a body that moves from fit to fit."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.types.cameras import Cameras, look_at
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

FIELD_OF_VIEW = math.radians(30)
ELEVATION = math.radians(8)
MARGIN = 1.1


def turntable(vertices: Float[Tensor, "*batch V 3"], count: int, size: int) -> Cameras:
    """Cameras [count] on a circle around posed vertices, all of which stay in the square picture.

    The first looks from +z (in the subject frame: from where the first input camera stands), the next from its right.
    """
    points = vertices.reshape(-1, 3)
    center = (points.amin(0) + points.amax(0)) / 2
    radius = (points - center).norm(dim=-1).max() * MARGIN
    distance = radius / math.sin(FIELD_OF_VIEW / 2)
    angles = torch.arange(count, device=points.device, dtype=points.dtype) * (2 * math.pi / count)
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


def interpolate_poses(keys: BodyParams, times: Float[Tensor, " K"], at: Float[Tensor, " T"]) -> BodyParams:
    """Bodies [T] between key bodies [K] at increasing times: joints along great arcs, everything else linearly.

    Moments before the first and after the last key get that key's pose.
    """
    if len(times) < 2:
        return keys[torch.zeros(len(at), dtype=torch.int64, device=times.device)]
    right = torch.searchsorted(times, at, right=True).clamp(1, len(times) - 1)
    left = right - 1
    share = ((at - times[left]) / (times[right] - times[left])).clamp(0, 1)

    def linear(values: Tensor) -> Tensor:
        return torch.lerp(values[left], values[right], share.view(-1, *[1] * (values.ndim - 1)).to(values))

    def arcs(rotations: Float[Tensor, "K n3"]) -> Float[Tensor, "T n3"]:
        start, end = (axis_angle_to_matrix(rotations[i].unflatten(-1, (-1, 3))) for i in (left, right))
        turns = share.to(rotations)[:, None, None] * matrix_to_axis_angle(start.mT @ end)
        return matrix_to_axis_angle(start @ axis_angle_to_matrix(turns)).flatten(-2)

    return BodyParams(
        betas=linear(keys.betas),
        global_orient=arcs(keys.global_orient),
        body_pose=arcs(keys.body_pose),
        transl=linear(keys.transl),
        scale=linear(keys.scale),
    )


def there_and_back(first: float, last: float, count: int) -> Float[Tensor, " T"]:
    """Times of a loop that goes from `first` to `last` and returns, easing at both ends; it closes without a repeat."""
    phase = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
    return first + (last - first) * (1 - phase.cos()) / 2


def held_out_keys(novel: list[int], observed: list[int], available: list[int]) -> list[int]:
    """Frames whose fits drive the novel-pose video: all fits of the stretch that was held out.

    With fewer than two of them the nearest observed frame joins in, so that there is something to move between.
    """
    if not novel:
        return sorted(observed)
    keys = {f for f in available if min(novel) <= f <= max(novel) and f not in observed} | set(novel)
    if len(keys) < 2:
        keys |= {min(observed, key=lambda f: abs(f - novel[0]))}
    return sorted(keys)
