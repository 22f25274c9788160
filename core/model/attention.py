"""Attention between the views of a moment."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def group_norm(channels: int) -> nn.GroupNorm:
    """LGM's 32 groups where channels are many; narrow layers get groups of at least 8 channels."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)


class MultiViewAttention(nn.Module):
    """Self-attention over the pixels of all views of a moment together, so that views can agree on the geometry.

    Source: Tang et al., LGM (2024), Sec. 3.2.
    """

    def __init__(self, channels: int, skip_scale: float):
        super().__init__()
        self.num_heads = max(1, min(16, channels // 32))
        self.skip_scale = skip_scale
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "BC D H W"], num_views: int) -> Float[Tensor, "BC D H W"]:
        """`x` holds the views of a moment one after the other, `num_views` of them."""
        channels, height, width = x.shape[1:]
        tokens = self.norm(x).unflatten(0, (-1, num_views)).movedim(2, -1).flatten(1, 3)  # [B, C*H*W, D]
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).movedim(1, 3).unbind(1)
        mixed = scaled_dot_product_attention(queries, keys, values)  # [B, heads, C*H*W, D/heads]
        update = self.out(mixed.transpose(1, 2).flatten(2)).view(-1, height, width, channels).movedim(-1, 1)
        return (x + update.to(memory_format=torch.preserve_format)) * self.skip_scale
