"""Edit an avatar: python scripts/edit.py AVATAR... --out edited.safetensors [--keep head] [--recolor legs #334488] ...

Several avatars of one person are merged first. Then parts are kept or hidden, recoloured, and Gaussians pruned.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import math
from typing import Annotated

import torch
import tyro

from core.avatar.avatar import Avatar
from core.avatar.editing import in_parts, merged, pruned, recolored, rendered_weights, selected
from core.avatar.file import find_avatar_body, load_views_seen, save_avatar
from core.avatar.rendering import render_avatar
from core.export.quantized import load_any_avatar
from core.inference.animation import camera_path
from core.inference.trajectories import turntable
from core.motion.builtin import builtin_motion
from core.motion.motion import apply_motion
from core.utils.cli import run
from core.utils.ranges import Count, Share, checked
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError

logger = logging.getLogger("edit")

MEASURED = (("idle", 0, 0.4), ("walk", 8, 2.2), ("wave", 10, -1.3))
"""Motion, frame and direction of the renderings by which the loss of pruning is measured."""
MEASURED_SIZE = 512
RANKED = (("dance", 20), ("squat", 20))
"""Motion and frame of the renderings whose weights decide what is pruned: other poses than those of `MEASURED`."""
RANKED_CAMERAS, RANKED_SIZE = 8, 256


def main(
    avatars: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path = Path("edited.safetensors"),
    keep: tuple[str, ...] = (),
    hide: tuple[str, ...] = (),
    recolor: tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]] = (),
    strength: Share = 1.0,
    prune: Count | None = None,
    body: Path | None = None,
) -> None:
    """Write an edited avatar.

    Args:
        avatars: An `avatar.safetensors`, or several of one person, which are merged.
        out: Output file.
        keep: Parts of the body to keep: head, torso, hips, arms, hands, legs, feet, or left_arm, right_foot, ...
        hide: Parts to leave out.
        recolor: A part, or several joined by +, and the colour #rrggbb that their mean becomes; may be repeated.
        strength: Share of the new colours.
        prune: Number of Gaussians to keep; the loss is measured and logged.
        body: A body model file; by default the avatar's own is found by its fingerprint.
    """
    if not avatars:
        raise InputError("no avatar is named; give an avatar.safetensors")
    avatar = merged([load_any_avatar(path) for path in avatars])
    model = find_avatar_body(avatar, body)
    if keep:
        avatar = selected(avatar, in_parts(avatar, model, keep))
    if hide:
        avatar = selected(avatar, ~in_parts(avatar, model, hide))
    for parts, color in recolor:
        avatar = recolored(avatar, in_parts(avatar, model, parts.split("+")), _color(color), strength)
    if prune is not None and prune < avatar.count:
        small = pruned(avatar, prune, importance(avatar, model))
        logger.info(
            "%d of %d Gaussians: renderings equal to %.1f dB", small.count, avatar.count, psnr(avatar, small, model)
        )
        avatar = small
    seen = [load_views_seen(path, model.num_vertices) for path in avatars]
    is_known = all(views is not None for views in seen)
    save_avatar(out, avatar, torch.stack(seen).sum(0).clamp(max=255).to(torch.uint8) if is_known else None)
    logger.info("wrote %s (%d Gaussians)", out, avatar.count)


def importance(avatar: Avatar, body: BodyModel) -> torch.Tensor:
    """Weight [N] of each Gaussian in renderings all around the avatar, in poses that open what arms and legs hide."""
    weights = torch.zeros(avatar.count)
    for name, frame in RANKED:
        poses = apply_motion(builtin_motion(name, body), body, avatar.betas)[frame : frame + 1]
        ring = turntable(body(poses).vertices, RANKED_CAMERAS, RANKED_SIZE)
        weights += rendered_weights(avatar, body, poses, ring[None])
    return weights


@torch.no_grad()
def psnr(a: Avatar, b: Avatar, body: BodyModel) -> float:
    """PSNR between renderings of two avatars in three poses."""
    errors = []
    for name, frame, azimuth in MEASURED:
        poses = apply_motion(builtin_motion(name, body), body, a.betas)[frame : frame + 1]
        cameras = camera_path(body, poses, MEASURED_SIZE, "follow", azimuth)[:, None]
        x, y = (render_avatar(avatar, body, poses, cameras).colors.clamp(0, 1) for avatar in (a, b))
        errors.append((x - y).square().mean().item())
    return -10 * math.log10(max(sum(errors) / len(errors), 1e-12))


def _color(text: str) -> torch.Tensor:
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return torch.tensor([value / 255 for value in bytes.fromhex(digits)])
    except ValueError:
        raise InputError(f"--recolor takes colours as #rrggbb, got {text!r}") from None


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
