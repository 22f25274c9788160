"""A striped avatar with large Gaussians, and its renderings: inputs of which the truth is known."""

import torch

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.model.surface import place_queries
from core.types.cameras import Cameras, look_at
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams

SIZE = 48


def striped_avatar(body: BodyModel) -> Avatar:
    """A large Gaussian at every third vertex, coloured in stripes."""
    start = place_queries(body, 1)
    ids = torch.arange(0, body.num_vertices, 3)
    stripes = 0.5 + 0.4 * torch.sin(20 * body.v_template[ids] + torch.tensor([0.0, 1.0, 2.0]))
    return Avatar(
        offsets=start.offsets[ids],
        quats=start.quats[ids],
        scales=1.5 * start.scales[ids],
        opacities=torch.full((len(ids),), 0.9),
        colors=stripes,
        vertex_ids=ids,
        betas=torch.zeros(10),
        body=body.fingerprint,
    )


def lowered_arms(count: int) -> BodyParams:
    """Poses in which the arms are lowered."""
    params = BodyParams.zeros(count)
    params.body_pose[:, 3 * 15 + 2] = -torch.linspace(0.2, 1.0, count)
    params.body_pose[:, 3 * 16 + 2] = torch.linspace(0.2, 1.0, count)
    return params


def cameras_at(count: int, angles: list[float]) -> Cameras:
    """Cameras at the given azimuths, the same in all frames."""
    azimuths = torch.tensor(angles).deg2rad()
    directions = torch.stack([azimuths.sin(), torch.zeros(len(azimuths)), azimuths.cos()], -1)
    eyes = 3.0 * directions + torch.tensor([0.0, -0.3, 0.0])
    viewmats = look_at(eyes, torch.tensor([0.0, -0.3, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    K = torch.tensor([[1.3 * SIZE, 0.0, SIZE / 2], [0.0, 1.3 * SIZE, SIZE / 2], [0.0, 0.0, 1.0]])
    views = len(angles)
    return Cameras(viewmats.expand(count, views, 4, 4), K.expand(count, views, 3, 3), SIZE, SIZE)


def render_frames(avatar: Avatar, body: BodyModel, count: int, angles: list[float]) -> Frames:
    params, own = lowered_arms(count), cameras_at(count, angles)
    rendering = render_avatar(avatar, body, params, own, backend="torch")
    return Frames(rendering.colors, rendering.alphas, own, params)
