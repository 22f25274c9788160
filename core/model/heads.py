"""Heads: from the features of the vertices' queries to the avatar's Gaussians."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.avatar.avatar import Avatar, at_vertices
from core.model.decode import RAW_CHANNELS, RawGaussians, shift_logits
from core.model.frame_gaussians import FrameGaussians
from core.model.surface import Placement, place_queries
from core.options import GraphOptions
from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.skinning import unpose_points
from smpl_renderer.types import PosedBody

OFFSET_RANGE = 0.25
"""Bound of the move of a query's Gaussian along each axis, in metres. Skirts hang that far from the thighs."""
OFFSET_UNIT = 0.1
"""Move of a query's Gaussian for a raw value of 1, in metres, where that is small compared with the range."""
LEARNED_OFFSET_UNIT = 0.1
"""Unit of the learned offsets, in metres: the optimizer's step size suits parameters of order one."""
REFINE_RANGE = 0.05
"""Bound of the residual head's move of a Gaussian along each axis, in metres."""
MAX_OFFSET = 0.5
"""Bound of an unposed Gaussian's distance from its vertex, in metres. Unposing is nearly singular where the posed
surface is nearly collapsed."""


class VertexHead(nn.Module):
    """Decode one Gaussian on the body's surface from each query of each vertex, so that unseen parts are complete."""

    start_offsets: Tensor
    start_scales: Tensor
    start_quats: Tensor
    axes: Tensor
    vertex_ids: Tensor

    def __init__(self, options: GraphOptions, body: BodyModel):
        super().__init__()
        start = place_queries(body, options.queries)
        self.body = body.fingerprint
        self.layers = raw_gaussian_layers(options.features)
        self.offsets = nn.Parameter(torch.zeros_like(start.offsets))
        vertex_ids = torch.arange(body.num_vertices).repeat_interleave(options.queries)
        self.register_buffer("start_offsets", start.offsets, persistent=False)
        self.register_buffer("start_scales", start.scales, persistent=False)
        self.register_buffer("start_quats", start.quats, persistent=False)
        self.register_buffer("axes", start.axes, persistent=False)
        self.register_buffer("vertex_ids", vertex_ids, persistent=False)

    def forward(
        self, queries: Float[Tensor, "B V Q D"], betas: Float[Tensor, "B S"]
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The avatar, and the features of each of its Gaussians.

        Args:
            queries: Features of the queries.
            betas: Shapes of the avatars.
        """
        features = queries.flatten(1, 2)
        raw = self.layers(features)
        with torch.autocast(raw.device.type, enabled=False):
            learned = LEARNED_OFFSET_UNIT * torch.einsum("nij,nj->ni", self.axes, self.offsets)
            start = Placement(self.start_offsets + learned, self.start_scales, self.axes, self.start_quats)
            vertex_ids = self.vertex_ids.expand(len(queries), -1)
            avatar = decode_on_surface(raw, start, vertex_ids=vertex_ids, betas=betas, body=self.body)
        return avatar, features


class ResidualHead(nn.Module):
    """The paper's head: unpose the Gaussians of the first frame, and refine them by their vertices' queries."""

    def __init__(self, options: GraphOptions, feature_channels: int, body: BodyModel):
        super().__init__()
        channels = options.features
        self.body = body.fingerprint
        self.heads = options.heads
        self.embed = nn.Linear(feature_channels, channels)
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.key_value = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels))
        self.out = nn.Linear(channels, channels)
        self.layers = raw_gaussian_layers(channels)

    def forward(
        self, queries: Float[Tensor, "B V Q D"], betas: Float[Tensor, "B S"], frame: FrameGaussians, posed: PosedBody
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The avatar, and the features of each of its Gaussians.

        Args:
            queries: Features of the queries.
            betas: Shapes of the avatars.
            frame: Gaussians of the frames.
            posed: Posed bodies of the frames.
        """
        unposed = unpose_gaussians(
            frame.gaussians[:, 0], frame.vertex_ids[:, 0], posed[:, 0], betas=betas, body=self.body
        )
        own = self.embed(frame.features[:, 0])
        query = self.query(own).unflatten(-1, (1, self.heads, -1))  # [B, N, 1, heads, D / heads]
        key_value = at_vertices(self.key_value(queries), unposed.vertex_ids)  # [B, N, Q, 2 D]
        key, value = key_value.unflatten(-1, (2, self.heads, -1)).unbind(3)
        # Products and sums: a batched matrix product is slower for many Gaussians with few keys each.
        logits = (query * key).sum(-1) * query.shape[-1] ** -0.5
        pooled = (logits.softmax(2)[..., None] * value).sum(2).flatten(2)
        features = own + self.out(pooled)
        return decode_residual(unposed, self.layers(features)), features


def raw_gaussian_layers(channels: int) -> nn.Sequential:
    """Layers from features to raw channels near zero, which give a sensible start."""
    last = nn.Linear(2 * channels, RAW_CHANNELS)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.SiLU(), last)


def decode_on_surface(raw: Float[Tensor, "*batch N 14"], start: Placement, **identity) -> Avatar:
    """Gaussians on the body's surface. Positions and rotations are relative to the surface's axes.

    Args:
        raw: Raw channels of each Gaussian.
        start: Placement of raw zeros.
        identity: The avatar's `vertex_ids`, `betas` and `body`.
    """
    channels = RawGaussians.split(raw)
    moves = OFFSET_RANGE * torch.tanh(channels.position * (OFFSET_UNIT / OFFSET_RANGE))
    return Avatar(
        offsets=start.offsets + torch.einsum("nij,...nj->...ni", start.axes, moves),
        quats=quat_multiply(start.quats, channels.rotations),
        scales=start.scales * channels.scale_factors,
        opacities=channels.opacities,
        colors=torch.sigmoid(channels.colors),
        **identity,
    )


def decode_residual(avatar: Avatar, raw: Float[Tensor, "*batch N 14"]) -> Avatar:
    """Change the Gaussians of an avatar. Raw zeros do not change them, and transparent ones stay transparent."""
    channels = RawGaussians.split(raw)
    return Avatar(
        offsets=avatar.offsets + REFINE_RANGE * torch.tanh(channels.position),
        quats=quat_multiply(avatar.quats, channels.rotations),
        scales=avatar.scales * channels.scale_factors,
        opacities=shift_logits(avatar.opacities, channels.opacity) * (avatar.opacities > 0),
        colors=shift_logits(avatar.colors, channels.colors),
        vertex_ids=avatar.vertex_ids,
        betas=avatar.betas,
        body=avatar.body,
    )


def unpose_gaussians(
    gaussians: Gaussians,
    vertex_ids: Int[Tensor, "B N"],
    posed: PosedBody,
    *,
    betas: Float[Tensor, "B S"],
    body: str,
) -> Avatar:
    """Transform Gaussians `[B, N]` of one frame to the rest pose; `core.avatar.avatar.skin_gaussians` is the inverse.

    Centres are transformed by the inverse of their vertex's transform, rotations by the transpose of its rotation.
    """
    with torch.autocast(gaussians.means.device.type, enabled=False):
        transforms = at_vertices(posed.vertex_transforms, vertex_ids)
        offsets = unpose_points(gaussians.means, transforms) - at_vertices(posed.shaped, vertex_ids)
        distances = offsets.norm(dim=-1, keepdim=True)
        w, xyz = at_vertices(posed.quats, vertex_ids).split([1, 3], -1)
        return Avatar(
            offsets=offsets * (MAX_OFFSET / distances.clamp_min(MAX_OFFSET)),
            quats=quat_multiply(torch.cat([w, -xyz], -1), gaussians.quats),
            scales=gaussians.scales / posed.scale[:, None, None],
            opacities=gaussians.opacities,
            colors=gaussians.colors,
            vertex_ids=vertex_ids,
            betas=betas,
            body=body,
        )
