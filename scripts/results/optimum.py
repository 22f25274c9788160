"""What the representation can do at best: an avatar optimised on the very pictures that it is measured by."""

import torch
from torch.nn import functional as F
from tqdm import tqdm

from core.avatar.avatar import Avatar
from core.avatar.unconstrained import UnconstrainedAvatar
from core.inference.session import Session
from core.losses.ssim import ssim
from core.types.frames import Frames

RATES = {"offsets": 4e-4, "quats": 4e-3, "scales": 1e-2, "opacities": 4e-2, "colors": 4e-2}
"""Adam's, at the start: of metres, of quaternions, of logarithms, and of logits twice."""
LAST_FACTOR = 0.05
"""Of the rates at the end, to which they fall exponentially."""
MOMENTS, VIEWS = 2, 4
"""Of each step."""
SSIM_WEIGHT = 0.02


@torch.enable_grad()
def optimise(avatar: Avatar, session: Session, targets: Frames, steps: int, *, seed: int = 0) -> Avatar:
    """Fit an avatar's offsets, rotations, sizes, opacities and colours to photographs.

    Args:
        avatar: Where to start; no batch axes.
        session: Draws it, as it will be measured.
        targets: Packed moments [F, C] with their fits, on the device of the avatar.
        steps: Of Adam, each on some views of some moments.
    """
    raw = UnconstrainedAvatar.from_avatar(avatar)
    groups = [{"params": [raw.params[name].requires_grad_()], "lr": rate} for name, rate in RATES.items()]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, LAST_FACTOR ** (1 / max(1, steps)))
    drawing = torch.Generator().manual_seed(seed)
    num_moments, num_views = targets.cameras.batch_shape
    for _ in tqdm(range(steps), desc="optimum", unit="step"):
        moments = torch.randperm(num_moments, generator=drawing)[:MOMENTS].tolist()
        views = torch.randperm(num_views, generator=drawing)[:VIEWS].tolist()
        some = targets.select_frames(moments).select_views(views).unpack()
        current = raw.to_avatar(avatar)
        colors = session.render(current[None], some.body[None], some.cameras[None])[0]
        loss = F.mse_loss(colors, some.images) + SSIM_WEIGHT * (1 - ssim(colors, some.images).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return raw.to_avatar(avatar).detach()
