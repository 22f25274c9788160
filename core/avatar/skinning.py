"""Skinning: Gaussians of an avatar follow the posed body."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.avatar.avatar import Avatar
from core.types.gaussians import Gaussians
from smpl_renderer import dispatch as kernels
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.skinning import transform_points
from smpl_renderer.types import BodyParams, PosedBody


def skin_gaussians_reference(avatar: Avatar, posed: PosedBody) -> Gaussians:
    """Define `skin_gaussians` in plain PyTorch, for any device and dtype."""
    vertex_ids = avatar.vertex_ids.unsqueeze(-2)
    centres = at_vertices(posed.shaped, vertex_ids) + avatar.offsets.unsqueeze(-3)
    turns = at_vertices(posed.quats, vertex_ids)
    shape = turns.shape[:-1]
    return Gaussians(
        means=transform_points(centres, at_vertices(posed.vertex_transforms, vertex_ids)),
        quats=quat_multiply(turns, avatar.quats.unsqueeze(-3)),
        scales=avatar.scales.unsqueeze(-3) * posed.scale[..., None, None],
        opacities=avatar.opacities.unsqueeze(-2).expand(shape),
        colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
    )


def skin_gaussians(avatar: Avatar, posed: PosedBody) -> Gaussians:
    """Carry avatars along with their skins.

    Centres move by their vertex's transform. Rotations turn by the nearest rotation of it and sizes change by the
    body's scale only, because a blend of bone transforms is no similarity (a wrist twisted by 3 rad collapses the skin
    to 0.005 of its volume).

    Gradients reach the avatar and the skin; float32 on CUDA runs in Triton, unless a gradient is asked of the skin.

    Args:
        avatar: With batch axes `*batch`.
        skin: With batch axes `*batch P`, P poses of each avatar.
    Returns:
        Gaussians of batch axes `*batch P`, in the world of the poses; opacities and colours are expanded, not copied.
    """
    with torch.autocast(avatar.offsets.device.type, enabled=False):
        if not _kernels_take(avatar, posed):
            return skin_gaussians_reference(avatar, posed)
        from core.avatar.skinning_kernel import carry  # needs Triton

        means, quats, scales = carry(avatar.offsets, avatar.quats, avatar.scales, avatar.vertex_ids, posed)
        shape = means.shape[:-1]
        return Gaussians(
            means,
            quats,
            scales,
            opacities=avatar.opacities.unsqueeze(-2).expand(shape),
            colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
        )


def _kernels_take(avatar: Avatar, posed: PosedBody) -> bool:
    own = (avatar.offsets, avatar.quats, avatar.scales)
    return (
        posed.scale.shape[:-1] == avatar.batch_shape
        and kernels.takes(posed.vertices, posed.vertex_transforms, posed.quats, posed.scale)
        and kernels.takes(*(x.detach() for x in own))
    )


def at_vertices(values: Float[Tensor, "..."], vertex_ids: Int[Tensor, "*batch N"]) -> Float[Tensor, "..."]:
    """The values `[*batch, V, ...]` of the named vertices, `[*batch, N, ...]`; batch axes broadcast."""
    axis = vertex_ids.ndim - 1
    index = vertex_ids.reshape(*vertex_ids.shape, *[1] * (values.ndim - vertex_ids.ndim))
    return torch.take_along_dim(values, index, axis)


def pose_avatar(avatar: Avatar, body: BodyModel, params: BodyParams) -> Gaussians:
    """Gaussians of avatars `[*batch]` in poses `[*batch, P]`, in the world of the poses.

    The shape is `params.betas`: that of a fit, when the avatar goes back into the frame of that fit, and `avatar.betas`
    when it moves freely.

    Raises:
        InputError: If the avatar belongs to another body model.
    """
    if avatar.body != body.fingerprint:
        raise InputError(f"the avatar belongs to body {avatar.body}, not to {body.name} ({body.fingerprint})")
    return skin_gaussians(avatar, body.pose(params))


def canonical_gaussians(avatar: Avatar, body: BodyModel) -> Gaussians:
    """Gaussians of avatars `[*batch]` in the rest pose, unmoved."""
    shaped = body.shape_vertices(avatar.betas)
    return Gaussians(
        means=at_vertices(shaped, avatar.vertex_ids) + avatar.offsets,
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=avatar.opacities,
        colors=avatar.colors,
    )
