"""Upper bound of the representation: avatars optimised on the target images that measure them."""

import torch
from torch.nn import functional as F
from tqdm import tqdm

from core.avatar.avatar import Avatar
from core.avatar.unconstrained import UnconstrainedAvatar
from core.inference.session import Session
from core.losses.ssim import ssim
from core.types.frames import Frames

RATES = {"offsets": 4e-4, "quats": 4e-3, "scales": 1e-2, "opacities": 4e-2, "colors": 4e-2}
"""Initial learning rates of metres, quaternions, logarithms, and (twice) logits."""
LAST_FACTOR = 0.05
"""Factor on the rates at the end; they fall exponentially."""
FRAMES, VIEWS = 2, 4
"""Frames and views of each step."""
SSIM_WEIGHT = 0.02


@torch.enable_grad()
def optimise(avatar: Avatar, session: Session, targets: Frames, steps: int, *, seed: int = 0) -> Avatar:
    """Fit offsets, rotations, sizes, opacities and colours of an avatar to target images.

    Args:
        avatar: Initial avatar, without batch axes.
        session: Session that renders the avatar as in its measurement.
        targets: Packed frames [F, C] with their fits, on the device of the avatar.
        steps: Number of Adam steps, each on random views of random frames.
        seed: Seed of these draws.
    """
    raw = UnconstrainedAvatar.from_avatar(avatar)
    groups = [{"params": [raw.params[name].requires_grad_()], "lr": rate} for name, rate in RATES.items()]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, LAST_FACTOR ** (1 / max(1, steps)))
    generator = torch.Generator().manual_seed(seed)
    num_frames, num_views = targets.cameras.batch_shape
    for _ in tqdm(range(steps), desc="optimum", unit="step"):
        frames = torch.randperm(num_frames, generator=generator)[:FRAMES].tolist()
        views = torch.randperm(num_views, generator=generator)[:VIEWS].tolist()
        batch = targets.select_frames(frames).select_views(views).unpack()
        current = raw.to_avatar(avatar)
        colors = session.render(current[None], batch.body[None], batch.cameras[None])[0]
        loss = F.mse_loss(colors, batch.images) + SSIM_WEIGHT * (1 - ssim(colors, batch.images).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return raw.to_avatar(avatar).detach()
