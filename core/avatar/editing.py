"""Edits of avatars: parts of the body, colours, fewer Gaussians, and one avatar of several of a person."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.avatar.avatar import TENSOR_FIELDS, Avatar, pose_avatar
from core.avatar.rendering import render_gaussians
from core.types.cameras import Cameras
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

_JOINTS = {
    "head": ("neck", "head"),
    "torso": ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar"),
    "arm": ("shoulder", "elbow"),
    "hand": ("wrist", "hand"),
    "leg": ("hip", "knee"),
    "foot": ("ankle", "foot"),
}
_SIDED = ("arm", "hand", "leg", "foot")
PARTS: dict[str, tuple[str, ...]] = {
    **{name: _JOINTS[name] for name in ("head", "torso")},
    **{f"{side}_{name}": tuple(f"{side}_{j}" for j in _JOINTS[name]) for name in _SIDED for side in ("left", "right")},
}
"""Joints of each part of the body."""
PLURALS = {"arms": "arm", "hands": "hand", "legs": "leg", "feet": "foot"}


def in_parts(avatar: Avatar, body: BodyModel, names: Sequence[str]) -> Bool[Tensor, " N"]:
    """True for the Gaussians of some parts of the body: those of vertices that a joint of a part moves most.

    Args:
        names: Names among `PARTS`, or `arms`, `hands`, `legs`, `feet` for both sides.
    Raises:
        InputError: If there is no such part.
    """
    joints: set[int] = set()
    for name in names:
        sides = [f"{side}_{PLURALS[name]}" for side in ("left", "right")] if name in PLURALS else [name]
        if any(side not in PARTS for side in sides):
            raise InputError(f"no part of the body is called {name!r}; there are {', '.join((*PARTS, *PLURALS))}")
        joints |= {JOINT_NAMES.index(joint) for side in sides for joint in PARTS[side]}
    strongest = body.lbs_weights.argmax(1).to(avatar.vertex_ids.device)
    return torch.isin(strongest, torch.tensor(sorted(joints), device=strongest.device))[avatar.vertex_ids]


def selected(avatar: Avatar, mask: Bool[Tensor, " N"]) -> Avatar:
    """The avatar with the chosen Gaussians only.

    Raises:
        InputError: If none is chosen.
    """
    if not mask.any():
        raise InputError("the edit leaves no Gaussian; keep a part of the body that the avatar has")
    own = [name for name in TENSOR_FIELDS if name != "betas"]
    return replace(avatar, **{name: getattr(avatar, name)[mask] for name in own})


def recolored(avatar: Avatar, mask: Bool[Tensor, " N"], color: Float[Tensor, "3"], strength: float = 1.0) -> Avatar:
    """The avatar with some Gaussians in another colour; their brightness relative to their mean stays.

    Args:
        mask: The Gaussians.
        color: Display colour in [0, 1] that their mean becomes.
        strength: Share of the new colour; 0 changes nothing.
    """
    if not mask.any():
        return avatar
    weights = avatar.opacities[mask, None]
    luminance = avatar.colors[mask].mean(-1, keepdim=True)
    mean = (weights * luminance).sum() / weights.sum().clamp_min(1e-9)
    painted = (color.to(avatar.colors) * luminance / mean.clamp_min(1e-3)).clamp(0, 1)
    colors = avatar.colors.clone()
    colors[mask] = torch.lerp(colors[mask], painted, strength)
    return replace(avatar, colors=colors)


@torch.no_grad()
def rendered_weights(avatar: Avatar, body: BodyModel, poses: BodyParams, cameras: Cameras) -> Float[Tensor, " N"]:
    """Sum of each Gaussian's compositing weights over all pixels of renderings: zero for what is hidden.

    Args:
        avatar: Without batch axes, on the CPU: the backend with weights is `numba`.
        body: Its body.
        poses: P poses.
        cameras: Cameras [P, C].
    Raises:
        InputError: If `numba` is not installed.
    """
    gaussians = pose_avatar(avatar, body, poses)
    return render_gaussians(gaussians, cameras, backend="numba", return_weights=True).weights.sum((0, 1))


def pruned(avatar: Avatar, count: int, weights: Float[Tensor, " N"]) -> Avatar:
    """The `count` Gaussians with the largest weights, in their order; all if there are fewer."""
    if count >= avatar.count:
        return avatar
    mask = torch.zeros(avatar.count, dtype=torch.bool, device=weights.device)
    mask[weights.topk(count).indices] = True
    return selected(avatar, mask)


def merged(avatars: Sequence[Avatar]) -> Avatar:
    """One avatar of several of the same person, made by the same network: means, weighted by opacity.

    A Gaussian that one capture shows opaque and another leaves transparent comes from the first. Positions, rotations
    and the logarithms of sizes are averaged in the same way; shapes evenly.

    Raises:
        InputError: If they have other bodies, or other numbers or vertices of Gaussians.
    """
    first = avatars[0]
    if len(avatars) == 1:
        return first
    for other in avatars[1:]:
        if other.body != first.body or not torch.equal(other.vertex_ids, first.vertex_ids):
            raise InputError("only avatars of the same body and the same checkpoint can be merged; make them so again")
    stacked = replace(first, **{name: torch.stack([getattr(a, name) for a in avatars]) for name in TENSOR_FIELDS})
    weights = stacked.opacities.clamp_min(1e-4)
    weights = weights / weights.sum(0)

    def mean(values: Float[Tensor, "A N n"]) -> Float[Tensor, "N n"]:
        return (weights[..., None] * values).sum(0)

    signs = torch.sign((stacked.quats * stacked.quats[:1]).sum(-1, keepdim=True))
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return replace(
        first,
        offsets=mean(stacked.offsets),
        quats=torch.nn.functional.normalize(mean(signs * stacked.quats), dim=-1),
        scales=mean(stacked.scales.log()).exp(),
        opacities=(weights * stacked.opacities).sum(0),
        colors=mean(stacked.colors),
        betas=stacked.betas.mean(0),
    )
