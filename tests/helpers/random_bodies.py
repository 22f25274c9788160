"""Random parameters of bodies."""

import torch

from smpl_renderer.types import BodyParams


def random_params(*batch: int, joints: int = 24, seed: int = 0, dtype: torch.dtype | None = None) -> BodyParams:
    """Strong poses, and random shapes, places and scales."""
    generator = torch.Generator().manual_seed(seed)
    params = BodyParams(
        betas=torch.randn(*batch, 10, generator=generator),
        global_orient=2 * torch.randn(*batch, 3, generator=generator),
        body_pose=0.7 * torch.randn(*batch, 3 * (joints - 1), generator=generator),
        transl=torch.randn(*batch, 3, generator=generator),
        scale=0.5 + torch.rand(batch, generator=generator),
    )
    return params.to(dtype)
