"""The avatar: Gaussians of the rest pose, each attached to a vertex of the body, and how they follow its pose."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel
from smpl_renderer.dispatch import can_use_kernels
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.skinning import transform_points
from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams, PosedBody


@dataclass(frozen=True)
class Avatar(TensorStructure):
    """A subject as Gaussians in the canonical space: the body's rest pose, with the subject's shape.

    The canonical centre of a Gaussian is its vertex plus its offset, so it follows the surface when the shape changes.
    """

    offsets: Float[Tensor, "*batch N 3"]
    """Vectors from the vertices to the centres, in metres, along the canonical axes."""
    quats: Float[Tensor, "*batch N 4"]
    """Rotations (w, x, y, z) from local to canonical axes."""
    scales: Float[Tensor, "*batch N 3"]
    """Standard deviations along the local axes, in metres, for a body of scale 1."""
    opacities: Float[Tensor, "*batch N"]
    colors: Float[Tensor, "*batch N 3"]
    vertex_ids: Int[Tensor, "*batch N"]
    """Index of the vertex that each Gaussian is attached to."""
    betas: Float[Tensor, "*batch S"]
    """Shape of the subject."""
    body: str
    """Fingerprint of the body model that the vertices belong to."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Number of Gaussians per avatar (N)."""
        return self.opacities.shape[-1]


TENSOR_FIELDS = tuple(f.name for f in fields(Avatar) if f.name != "body")
"""Names of the fields of `Avatar` that hold tensors."""


def skin_gaussians_reference(avatar: Avatar, posed: PosedBody) -> Gaussians:
    """Define `skin_gaussians` in plain PyTorch, for any device and dtype."""
    vertex_ids = avatar.vertex_ids.unsqueeze(-2)
    centres = at_vertices(posed.shaped, vertex_ids) + avatar.offsets.unsqueeze(-3)
    rotations = at_vertices(posed.quats, vertex_ids)
    shape = rotations.shape[:-1]
    return Gaussians(
        means=transform_points(centres, at_vertices(posed.vertex_transforms, vertex_ids)),
        quats=quat_multiply(rotations, avatar.quats.unsqueeze(-3)),
        scales=avatar.scales.unsqueeze(-3) * posed.scale[..., None, None],
        opacities=avatar.opacities.unsqueeze(-2).expand(shape),
        colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
    )


def skin_gaussians(avatar: Avatar, posed: PosedBody) -> Gaussians:
    """Skin the Gaussians of avatars with posed bodies.

    Centres follow the transform of their vertex. Rotations follow the nearest rotation of that transform and sizes only
    the scale of the body, because a blend of joint transforms is no similarity (a wrist twisted by 3 rad has a
    determinant of 0.005).

    Differentiable in the avatar and the posed body. Runs in Triton on CUDA, for float32 without gradients of the body.

    Args:
        avatar: Avatars with batch axes `*batch`.
        posed: Bodies with batch axes `*batch P`, P poses of each avatar.
    Returns:
        Gaussians of batch axes `*batch P`, in the world of the poses; opacities and colours are expanded, not copied.
    """
    with torch.autocast(avatar.offsets.device.type, enabled=False):
        own = avatar.offsets, avatar.quats, avatar.scales
        constants = posed.vertices, posed.vertex_transforms, posed.quats, posed.scale
        if posed.scale.shape[:-1] != avatar.batch_shape or not can_use_kernels(*own, constants=constants):
            return skin_gaussians_reference(avatar, posed)
        from core.avatar.skinning_kernel import skin_gaussians_fused  # needs Triton

        means, quats, scales = skin_gaussians_fused(*own, avatar.vertex_ids, posed)
        shape = means.shape[:-1]
        return Gaussians(
            means,
            quats,
            scales,
            opacities=avatar.opacities.unsqueeze(-2).expand(shape),
            colors=avatar.colors.unsqueeze(-3).expand(*shape, 3),
        )


def at_vertices(values: Float[Tensor, "..."], vertex_ids: Int[Tensor, "*batch N"]) -> Float[Tensor, "..."]:
    """Gather values `[*batch, V, ...]` of vertices by index, to `[*batch, N, ...]`; batch axes broadcast."""
    axis = vertex_ids.ndim - 1
    index = vertex_ids.reshape(*vertex_ids.shape, *[1] * (values.ndim - vertex_ids.ndim))
    return torch.take_along_dim(values, index, axis)


def pose_avatar(avatar: Avatar, body: BodyModel, params: BodyParams) -> Gaussians:
    """Gaussians of avatars `[*batch]` in poses `[*batch, P]`, in the world of the poses.

    The shape is `params.betas`: that of the fit to reproduce a captured frame, or `avatar.betas` for a new motion.

    Raises:
        InputError: If the avatar belongs to another body model.
    """
    if avatar.body != body.fingerprint:
        raise InputError(
            f"the avatar belongs to body {avatar.body}, not to {body.name} ({body.fingerprint}); "
            "give the body with the avatar's fingerprint"
        )
    return skin_gaussians(avatar, body.pose(params))


def canonical_gaussians(avatar: Avatar, body: BodyModel) -> Gaussians:
    """Gaussians of avatars `[*batch]` in the canonical space."""
    shaped = body.shape_vertices(avatar.betas)
    return Gaussians(
        means=at_vertices(shaped, avatar.vertex_ids) + avatar.offsets,
        quats=avatar.quats,
        scales=avatar.scales,
        opacities=avatar.opacities,
        colors=avatar.colors,
    )
