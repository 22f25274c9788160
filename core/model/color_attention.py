"""Colour attention: colours of Gaussians that no input image shows, from those that are shown anywhere on the body.

Cloth mostly goes around the body, both sleeves are alike, and hair covers the back of the head. Each Gaussian attends
to the patches of the body (`core.model.patches`). Values are the mean colours of a patch's visible Gaussians, so that
colours are copied from the images. Learned are the weights of the patches, the share of the copied colour, and a change
of at most `COLOR_RANGE`.

Not in the paper.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from core.avatar.avatar import Avatar
from core.model.patches import ENCODING_CHANNELS, PatchPooling, SurfacePatches
from core.ops.color_observations import ColorObservations
from core.ops.color_sampling_constants import COSINE

HEADS = 4
WIDTH = 20
"""Learned channels of a head. With colour and evidence they fill `PADDED` channels, a multiple of eight."""
PADDED = 24
SEEN_LOGIT = 5.0
"""Amount by which the logit of the copied colour's share is lower for a Gaussian that is seen well."""
LEAST_EVIDENCE = 1e-3
"""Evidence of a patch that is not seen at all; a clearly seen one has tens."""
COLOR_RANGE = 0.25
"""Bound of the change of a colour beyond the copied one."""


class ColorAttention(nn.Module):
    """Blend the colours of Gaussians with those of patches that are seen.

    Args:
        context_channels: Features of each Gaussian.
        patches: Patches of the body.
        queries: Gaussians per vertex, in the order of the vertices.
        is_last: True if no feedback follows, so that the context output is unused.
        hidden: Width of the MLP from which shares and changes are computed.
    """

    encoding: Tensor

    def __init__(
        self, context_channels: int, patches: SurfacePatches, queries: int, is_last: bool = False, hidden: int = 64
    ):
        super().__init__()
        self.queries = queries
        self.pooling = PatchPooling(patches)
        self.register_buffer("encoding", patches.encoding, persistent=False)
        self.norm = nn.LayerNorm(context_channels)
        self.query = nn.Linear(context_channels, HEADS * WIDTH)
        self.query_position = nn.Linear(ENCODING_CHANNELS, HEADS * WIDTH, bias=False)
        self.key_value = nn.Linear(context_channels + 3, 2 * HEADS * WIDTH)
        self.key_position = nn.Linear(ENCODING_CHANNELS, HEADS * WIDTH, bias=False)
        self.embed_context = nn.Linear(context_channels, hidden)
        self.embed_attended = nn.Linear(HEADS * (WIDTH + 3) + 1, hidden)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.to_shares = nn.Linear(hidden, HEADS + 1)
        self.to_change = nn.Linear(hidden, 3)
        self.to_context = None if is_last else nn.Linear(hidden, context_channels)
        self.key_position.load_state_dict(self.query_position.state_dict())
        for layer in (self.to_shares, self.to_change, self.to_context):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(
        self, avatar: Avatar, context: Float[Tensor, "B N D"], seen: ColorObservations
    ) -> tuple[Avatar, Float[Tensor, "B N D"]]:
        """The avatar with new colours, and the updated context.

        Args:
            avatar: B avatars, whose Gaussians are in the order of the vertices.
            context: Features of each Gaussian.
            seen: Observations of its Gaussians in the input images.
        """
        with torch.autocast(context.device.type, enabled=False):
            evidence = seen.features[..., COSINE, :].sum((1, 2)).float() * avatar.opacities.detach()
            colors, features, totals = self._patches(avatar, context.float(), evidence)
        normed = self.norm(context)
        learned = self.query(normed) + self._per_gaussian(self.query_position(self.encoding))
        keys, values = self.key_value(torch.cat([features, colors], -1)).chunk(2, -1)
        keys = _heads(keys + self.key_position(self.pooling.centers))
        # One more channel adds the evidence of a patch to its logits; sqrt(PADDED) undoes the scale of the attention.
        logits = (PADDED**0.5 * torch.log(totals + LEAST_EVIDENCE))[:, None, :, None].expand(-1, HEADS, -1, 1)
        own = _heads(learned)
        attended = scaled_dot_product_attention(
            _padded(own, torch.ones_like(own[..., :1])),
            _padded(keys, logits.to(keys.dtype)),
            _padded(_heads(values), colors[:, None].expand(-1, HEADS, -1, -1).to(values.dtype)),
        )[..., : WIDTH + 3].transpose(1, 2)
        inputs = torch.cat([attended.flatten(-2), torch.log1p(evidence)[..., None].to(attended.dtype)], -1)
        hidden = self.mlp(self.embed_context(normed) + self.embed_attended(inputs))
        with torch.autocast(context.device.type, enabled=False):
            shares, change = self.to_shares(hidden.float()), self.to_change(hidden.float())
            copied = (shares[..., :HEADS].softmax(-1)[..., None] * attended[..., WIDTH:].float()).sum(-2)
            share = torch.sigmoid(shares[..., HEADS:] - SEEN_LOGIT * torch.tanh(4 * evidence)[..., None])
            unseen = 1 - torch.tanh(4 * evidence)[..., None]
            blended = torch.lerp(avatar.colors, copied, share) + COLOR_RANGE * unseen * torch.tanh(change)
        if self.to_context is not None:
            context = context + self.to_context(hidden)
        return replace(avatar, colors=blended.clamp(0, 1)), context

    def _patches(
        self, avatar: Avatar, context: Float[Tensor, "B N D"], evidence: Float[Tensor, "B N"]
    ) -> tuple[Float[Tensor, "B P 3"], Float[Tensor, "B P D"], Float[Tensor, "B P"]]:
        """Mean colours and features of what is seen of each patch, and the evidence of it."""
        values = torch.cat([avatar.colors, context], -1) * evidence[..., None]
        per_vertex = [x.unflatten(1, (-1, self.queries)).sum(2) for x in (values, evidence)]
        sums, totals = self.pooling.sums(*per_vertex)
        means = sums / totals.clamp_min(LEAST_EVIDENCE)[..., None]
        return means[..., :3], means[..., 3:], totals

    def _per_gaussian(self, values: Float[Tensor, "V D"]) -> Float[Tensor, "N D"]:
        return values.repeat_interleave(self.queries, 0)


def _heads(values: Float[Tensor, "B M D"]) -> Float[Tensor, "B H M W"]:
    return values.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)


def _padded(learned: Float[Tensor, "B H M W"], further: Float[Tensor, "B H M K"]) -> Float[Tensor, "B H M P"]:
    """Learned channels, further ones, and zeros up to `PADDED` channels."""
    joined = torch.cat([learned, further], -1)
    return pad(joined, (0, PADDED - joined.shape[-1]))
