"""From what the vertices' queries know to the avatar's Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.avatar.avatar import Avatar
from core.avatar.skinning import at_vertices
from core.model.decode import RAW_CHANNELS, Placement, decode_on_surface, refine
from core.model.surface import place_queries
from core.options import GraphOptions
from core.types.gaussians import Gaussians
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import quat_multiply
from smpl_renderer.skinning import unpose_points
from smpl_renderer.types import PosedBody

MAX_OFFSET = 0.5
"""Metres. Where the skin is nearly collapsed, un-posing throws points far away; this keeps them at hand."""
LEARNED_OFFSET_UNIT = 0.1
"""Metres; optimizers take steps that suit parameters of order one."""


def raw_gaussian_layers(channels: int) -> nn.Sequential:
    """Features to raw numbers near zero, which mean a sensible start."""
    last = nn.Linear(2 * channels, RAW_CHANNELS)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.SiLU(), last)


class VertexHead(nn.Module):
    """Each query of each vertex decodes one Gaussian on the skin: complete even where nobody looked."""

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
        """The avatar, and the features behind each of its Gaussians."""
        features = queries.flatten(1, 2)
        raw = self.layers(features)
        with torch.autocast(raw.device.type, enabled=False):
            learned = LEARNED_OFFSET_UNIT * torch.einsum("nij,nj->ni", self.axes, self.offsets)
            start = Placement(self.start_offsets + learned, self.start_scales, self.axes, self.start_quats)
            vertex_ids = self.vertex_ids.expand(len(queries), -1)
            avatar = decode_on_surface(raw, start, vertex_ids=vertex_ids, betas=betas, body=self.body)
        return avatar, features


class ResidualHead(nn.Module):
    """The paper's head: the Gaussians of one moment, refined by what their vertices know, become the avatar."""

    def __init__(self, options: GraphOptions, feature_channels: int):
        super().__init__()
        channels = options.features
        self.heads = options.heads
        self.embed = nn.Linear(feature_channels, channels)
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.key_value = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels))
        self.out = nn.Linear(channels, channels)
        self.layers = raw_gaussian_layers(channels)

    def forward(
        self, unposed: Avatar, gaussian_features: Float[Tensor, "B N K"], queries: Float[Tensor, "B V Q D"]
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The avatar, and the features behind each of its Gaussians.

        Args:
            unposed: The Gaussians of a moment, from `unpose_gaussians`.
            gaussian_features: What the U-Net knows about them.
            queries: What the vertices know.
        """
        own = self.embed(gaussian_features)
        query = self.query(own).unflatten(-1, (1, self.heads, -1))  # [B, N, 1, heads, D / heads]
        key_value = at_vertices(self.key_value(queries), unposed.vertex_ids)  # [B, N, Q, 2 D]
        key, value = key_value.unflatten(-1, (2, self.heads, -1)).unbind(3)
        # Products and sums: attention to so few, of so many, is slower as a batched matrix product.
        logits = (query * key).sum(-1) * query.shape[-1] ** -0.5
        pooled = (logits.softmax(2)[..., None] * value).sum(2).flatten(2)
        features = own + self.out(pooled)
        return refine(unposed, self.layers(features)), features


def unpose_gaussians(
    gaussians: Gaussians,
    vertex_ids: Tensor,
    posed: PosedBody,
    *,
    betas: Float[Tensor, "B S"],
    body: str,
) -> Avatar:
    """Bring Gaussians `[B, N]` of one moment back to the rest pose; `core.avatar.skinning.skin_gaussians` undoes it.

    Centres go by the inverse of their vertex's transform, rotations by the transpose of the skin's rotation.
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
