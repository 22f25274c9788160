"""Renderings of an avatar in motion, a few frames at a time, so that thousands of frames need little memory."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.inference.trajectories import ELEVATION, FIELD_OF_VIEW, MARGIN
from core.render import Rendering
from core.types.cameras import Cameras, look_at
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams

CameraPath = Literal["fixed", "follow", "orbit"]
RENDERED_SIZE = 512
"""Pixels at which the shipped network was trained; smaller images are averages of larger ones."""
FRAMES_PER_CALL = 16
"""Frames that are posed and rendered at once: they keep a GPU busy, and take about 150 MB at 512 px."""
MEASURED_FRAMES = 64
"""Frames whose vertices decide how much a camera has to see."""


@torch.no_grad()
def camera_path(
    body: BodyModel,
    poses: BodyParams,
    size: int,
    path: CameraPath = "fixed",
    azimuth: float = 0.0,
    orbit_seconds: float = 8.0,
    fps: float = 30.0,
) -> Cameras:
    """Cameras [T] of square images, one for each pose.

    Args:
        body: The body that moves.
        poses: T poses; y up, metres.
        size: Side of the images in pixels.
        path: `fixed`: one camera that sees the whole motion. `follow`: a camera that moves horizontally with the
            pelvis. `orbit`: like `follow`, and turning around the body.
        azimuth: Direction of the first camera from +z towards +x, in radians.
        orbit_seconds: Duration of one turn of `orbit`.
        fps: Frames per second of the poses.
    """
    count = len(poses.scale)
    chosen = torch.linspace(0, count - 1, min(count, MEASURED_FRAMES)).round().long().to(poses.scale.device)
    outputs = body(poses[chosen])
    pelvis = poses.transl + poses.scale[:, None] * body.rest_joints(body.shape_vertices(poses.betas[0]))[0]
    horizontal = pelvis.new_tensor([1.0, 0.0, 1.0])
    if path == "fixed":
        points = outputs.vertices.reshape(-1, 3)
        target = ((points.amin(0) + points.amax(0)) / 2).expand(count, 3)
    else:
        points = (outputs.vertices - (pelvis[chosen] * horizontal)[:, None]).reshape(-1, 3)
        height = (points[:, 1].amin() + points[:, 1].amax()) / 2
        target = pelvis * horizontal + torch.stack([0 * height, height, 0 * height])
        points = points + target[0] * horizontal
    radius = (points - target[0]).norm(dim=-1).max() * MARGIN
    angles = torch.full((count,), azimuth, device=points.device, dtype=points.dtype)
    if path == "orbit":
        angles = angles + torch.arange(count).to(angles) * (2 * math.pi / (orbit_seconds * fps))
    up = torch.full_like(angles, math.sin(ELEVATION))
    directions = torch.stack([angles.sin() * math.cos(ELEVATION), up, angles.cos() * math.cos(ELEVATION)], -1)
    distance = radius / math.sin(FIELD_OF_VIEW / 2)
    viewmats = look_at(target + distance * directions, target, points.new_tensor([0.0, 1.0, 0.0]))
    focal = size / 2 / math.tan(FIELD_OF_VIEW / 2)
    K = points.new_tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, K.expand(count, 3, 3), size, size)


@torch.no_grad()
def render_motion(
    avatar: Avatar,
    body: BodyModel,
    poses: BodyParams,
    cameras: Cameras,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    supersample: int = 1,
) -> Iterator[Rendering]:
    """Renderings (`colors` [3, H, W], `alphas` [1, H, W]) of an avatar without batch axes, one for each pose.

    Args:
        poses: T poses.
        cameras: T cameras.
        background, backend, supersample: As for `render_avatar`.
    """
    for start in range(0, len(poses.scale), FRAMES_PER_CALL):
        some = slice(start, start + FRAMES_PER_CALL)
        rendering = render_avatar(
            avatar,
            body,
            poses[some],
            cameras[some][:, None],
            background=background,
            backend=backend,
            supersample=supersample,
        )
        for i in range(len(rendering.colors)):
            yield Rendering(rendering.colors[i, 0], rendering.alphas[i, 0])
