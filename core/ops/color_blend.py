"""Blend of observed colours by a softmax over learned logits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.ops.observations import COSINE, COVERAGE, VISIBLE, Observations
from smpl_renderer.dispatch import use_kernels

COSINE_PREFERENCE = 3.0
"""Before training, views that see the skin face on count exp(3) times as much as those that graze it."""


OBSERVATION_NUMBERS = 13
"""Colour, its differences from the head's and from the consensus, and four that say how far to trust it."""


def blend_reference(
    seen: Observations,
    own_colors: Float[Tensor, "B N 3"],
    own_logits: Float[Tensor, "B N"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> Float[Tensor, "B N 3"]:
    """Define `blend` in plain PyTorch, for any device and dtype."""
    where = persons, frames, views, gaussians = seen.visible.nonzero(as_tuple=True)
    numbers = seen.numbers[persons, frames, views, :, gaussians]  # [E, 8]
    colors, trust = numbers[:, :COVERAGE], numbers[:, COVERAGE:VISIBLE]
    own, common = own_colors[persons, gaussians], seen.consensus[persons, gaussians]
    embedded = embed(torch.cat([colors, colors - own, colors - common, trust], -1)) + context[persons, gaussians]
    logits = attention_mlp(embedded)[..., 0].float() + COSINE_PREFERENCE * numbers[:, COSINE]

    unseen = torch.full_like(seen.cosines, -torch.inf)
    table = unseen.index_put(where, logits).flatten(1, 2)  # [B, F*C, N]
    weights = torch.cat([table, own_logits[:, None]], 1).softmax(1)
    candidates = torch.cat([seen.colors.flatten(1, 2), own_colors[:, None]], 1)
    return (weights[..., None] * candidates).sum(1)


def blend(
    seen: Observations,
    own_colors: Float[Tensor, "B N 3"],
    own_logits: Float[Tensor, "B N"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> Float[Tensor, "B N 3"]:
    """Softmax over all observations of a Gaussian and its own colour; differentiable, on CUDA in Triton.

    Args:
        seen: The observations.
        own_colors: What the head proposed.
        own_logits: How much that counts.
        context: Is added to the embedded observations of a Gaussian.
        embed: From an observation's numbers to H channels.
        weigh: From there to a logit: activation, H channels, activation, one number.
    """
    if own_colors.is_cuda and own_colors.dtype == torch.float32 and _fits(embed.out_features) and use_kernels():
        from core.ops.color_blend_kernel import BlendColors

        with torch.autocast(own_colors.device.type, enabled=False):
            prepared = prepare(seen, own_colors, context, embed, attention_mlp)
            return BlendColors.apply(*prepared, own_logits, own_colors)
    return blend_reference(seen, own_colors, own_logits, context, embed, attention_mlp)


def prepare(
    seen: Observations,
    own_colors: Float[Tensor, "B N 3"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> tuple[Tensor, ...]:
    """What the kernels of `blend` take first: the numbers, and weights that apply to them alone.

    In the first layer, the differences of an observation's colour from the head's and from the consensus are that
    colour once more, and something that is the same for all observations of a Gaussian, which joins its context.
    """
    of_color, of_others, of_trust = embed.weight.split([3, 6, OBSERVATION_NUMBERS - 9], 1)
    others = torch.cat([own_colors, seen.consensus], -1)
    base = context.float() + torch.nn.functional.linear(others, -of_others, embed.bias)
    of_numbers = torch.cat([of_color + of_others[:, :3] + of_others[:, 3:], of_trust, 0 * of_color[:, :1]], 1)
    _, middle, _, last = attention_mlp
    return seen.numbers.flatten(1, 2), base, of_numbers.T, middle.weight, middle.bias, last.weight[0], last.bias


def _fits(hidden: int) -> bool:
    """Whether the kernels take layers of this width: a power of two that fills a matrix product, and fits registers."""
    return hidden in (16, 32, 64)
