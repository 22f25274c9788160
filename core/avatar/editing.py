"""Edits of avatars: parts of the body, colours, fewer Gaussians, and one avatar of several of a person."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from core.avatar.avatar import TENSOR_FIELDS, Avatar, canonical_gaussians, pose_avatar
from core.avatar.rendering import render_gaussians
from core.types.cameras import Cameras
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

_JOINTS = {
    "head": ("neck", "head"),
    "torso": ("spine1", "spine2", "spine3", "left_collar", "right_collar"),
    "hips": ("pelvis",),
    "arm": ("shoulder", "elbow"),
    "hand": ("wrist", "hand"),
    "leg": ("hip", "knee"),
    "foot": ("ankle", "foot"),
}
_SIDED = ("arm", "hand", "leg", "foot")
PARTS: dict[str, tuple[str, ...]] = {
    **{name: _JOINTS[name] for name in ("head", "torso", "hips")},
    **{f"{side}_{name}": tuple(f"{side}_{j}" for j in _JOINTS[name]) for name in _SIDED for side in ("left", "right")},
}
"""Joints of each part of the body."""
NEIGHBORS, BLUR = 16, 0.01
"""Vertices whose weights are averaged at a Gaussian's centre; those nearer than this distance in metres count alike."""
PLURALS = {"arms": "arm", "hands": "hand", "legs": "leg", "feet": "foot"}


def in_parts(avatar: Avatar, body: BodyModel, names: Sequence[str]) -> Bool[Tensor, " N"]:
    """True for the Gaussians in some parts of the body: where joints of these parts have the largest influence.

    The influence is interpolated to the centres of the Gaussians from the vertices around them, which gives smooth
    borders. The vertices that Gaussians are attached to would not do: some are ten centimetres away, so that Gaussians
    of the torso would remain in the place of a hidden head.

    Args:
        avatar: An avatar without batch axes.
        body: Its body.
        names: Names among `PARTS`, or `arms`, `hands`, `legs`, `feet` for both sides.
    Raises:
        InputError: If there is no such part.
    """
    chosen: set[str] = set()
    for name in names:
        sides = [f"{side}_{PLURALS[name]}" for side in ("left", "right")] if name in PLURALS else [name]
        if any(side not in PARTS for side in sides):
            raise InputError(f"no part of the body is called {name!r}; there are {', '.join((*PARTS, *PLURALS))}")
        chosen |= set(sides)
    strongest = _part_weights(avatar, body).argmax(1)
    wanted = torch.tensor([i for i, part in enumerate(PARTS) if part in chosen])
    return torch.isin(strongest, wanted).to(avatar.offsets.device)


def _part_weights(avatar: Avatar, body: BodyModel) -> Float[Tensor, "N parts"]:
    """Sums of the skinning weights of each part's joints, at the centres of Gaussians, on the CPU."""
    joints = [[JOINT_NAMES.index(joint) for joint in part] for part in PARTS.values()]
    lbs_weights = body.lbs_weights.cpu()
    at_vertices = torch.stack([lbs_weights[:, some].sum(1) for some in joints], 1)
    shaped = body.shape_vertices(avatar.betas.to(body.v_template)).detach().cpu()
    centers = canonical_gaussians(avatar, body).means.detach().cpu()
    distances, nearest = cKDTree(shaped.numpy()).query(centers.numpy(), k=min(NEIGHBORS, len(shaped)))
    weights = torch.from_numpy(1 / (distances**2 + BLUR**2)).to(lbs_weights)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("nk,nkp->np", weights, at_vertices[torch.from_numpy(nearest)])


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
