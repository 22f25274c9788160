"""Small options, a ring of cameras and random poses for tests of the model."""

import math

import torch

from core.options import GraphOptions, ModelOptions, UNetOptions
from core.types.cameras import Cameras, look_at
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams

TEST_UNET = UNetOptions(
    input_size=32,
    splat_size=16,
    down_channels=(8, 16, 16),
    down_attention=(False, False, True),
    up_channels=(16, 8),
    up_attention=(True, False),
    layers_per_block=1,
)
TEST_MODEL = ModelOptions(unet=TEST_UNET, graph=GraphOptions(features=8, queries=2, layers=1, heads=2))


def ring_cameras(count: int, size: int, *, distance: float = 2.6) -> Cameras:
    """Cameras around the origin, the first at +z, in whose images a standing subject is complete."""
    azimuths = 2 * math.pi * torch.arange(count) / count
    eyes = distance * torch.stack([azimuths.sin(), torch.zeros(count), azimuths.cos()], -1)
    viewmats = look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.0, 1.0, 0.0]))
    focal = 1.1 * size
    K = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, K.expand(count, 3, 3), size, size)


def random_poses(body: BodyModel, *batch: int, spread: float = 0.1, seed: int = 0) -> BodyParams:
    """Bodies in random poses with the pelvis at the origin, as in the subject frame."""
    generator = torch.Generator().manual_seed(seed)
    rest = BodyParams.zeros(*batch)
    params = BodyParams(
        betas=0.5 * torch.randn(*batch, 10, generator=generator),
        global_orient=spread * torch.randn(*batch, 3, generator=generator),
        body_pose=spread * torch.randn(*batch, 69, generator=generator),
        transl=rest.transl,
        scale=0.9 + 0.2 * torch.rand(batch, generator=generator),
    )
    pelvis = body(params).joints[..., 0, :]
    return BodyParams(params.betas, params.global_orient, params.body_pose, -pelvis, params.scale)
