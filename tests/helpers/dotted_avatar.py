"""A small avatar for tests that need any valid one."""

import torch

from core.avatar.avatar import Avatar
from smpl_renderer.body_model import BodyModel


def dotted_avatar(body: BodyModel, count: int) -> Avatar:
    """White, opaque dots of 1 cm at the first `count` vertices."""
    return Avatar(
        offsets=torch.zeros(count, 3),
        quats=torch.eye(4)[:1].repeat(count, 1),
        scales=torch.full((count, 3), 0.01),
        opacities=torch.ones(count),
        colors=torch.ones(count, 3),
        vertex_ids=torch.arange(count),
        betas=torch.zeros(10),
        body=body.fingerprint,
    )
