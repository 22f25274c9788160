"""Blend of observed colours by a softmax over predicted logits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from core.ops.color_observations import ColorObservations
from core.ops.color_sampling_constants import COSINE, COSINE_PREFERENCE, COVERAGE, VISIBLE
from smpl_renderer.dispatch import can_use_kernels

EMBEDDED_FEATURES = 13
"""Features of an observation as they are embedded: its colour, the differences of that from the Gaussian's own colour
and from the consensus, and the four measures of its reliability."""
KERNEL_WIDTHS = (16, 32, 64)
"""Widths of the hidden layers for which there are kernels: powers of two that fill a matrix product and fit the
registers."""


def blend_reference(
    seen: ColorObservations,
    own_colors: Float[Tensor, "B N 3"],
    own_logits: Float[Tensor, "B N"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> Float[Tensor, "B N 3"]:
    """Define `blend` in plain PyTorch, for any device and dtype."""
    where = subjects, frames, views, gaussians = seen.visible.nonzero(as_tuple=True)
    features = seen.features[subjects, frames, views, :, gaussians]  # [E, 8]
    colors, measures = features[:, :COVERAGE], features[:, COVERAGE:VISIBLE]
    own, consensus = own_colors[subjects, gaussians], seen.consensus[subjects, gaussians]
    embedded = embed(torch.cat([colors, colors - own, colors - consensus, measures], -1))
    hidden = embedded + context[subjects, gaussians]
    logits = attention_mlp(hidden)[..., 0].float() + COSINE_PREFERENCE * features[:, COSINE]

    invisible = torch.full_like(seen.features[..., COSINE, :], -torch.inf)
    table = invisible.index_put(where, logits).flatten(1, 2)  # [B, F*C, N]
    weights = torch.cat([table, own_logits[:, None]], 1).softmax(1)
    candidates = torch.cat([seen.colors.flatten(1, 2), own_colors[:, None]], 1)
    return (weights[..., None] * candidates).sum(1)


def blend(
    seen: ColorObservations,
    own_colors: Float[Tensor, "B N 3"],
    own_logits: Float[Tensor, "B N"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> Float[Tensor, "B N 3"]:
    """Softmax-weighted mean of a Gaussian's observed colours and its own colour; float32 on CUDA runs in Triton.

    Differentiable in everything but the observations.

    Args:
        seen: The observations.
        own_colors: Colours that the head decoded.
        own_logits: Logits of these colours.
        context: Added to the embedded observations of each Gaussian.
        embed: Linear map from an observation's features to H channels.
        attention_mlp: From H channels to a logit: activation, linear map to H channels, activation, linear map to 1.
    """
    if can_use_kernels(own_colors) and embed.out_features in KERNEL_WIDTHS:
        from core.ops.color_blend_kernel import BlendColors

        with torch.autocast(own_colors.device.type, enabled=False):
            inputs = kernel_inputs(seen, own_colors, context, embed, attention_mlp)
            return BlendColors.apply(*inputs, own_logits, own_colors)
    return blend_reference(seen, own_colors, own_logits, context, embed, attention_mlp)


def kernel_inputs(
    seen: ColorObservations,
    own_colors: Float[Tensor, "B N 3"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    attention_mlp: nn.Sequential,
) -> tuple[Tensor, ...]:
    """First inputs of `BlendColors`: the features, and weights that apply to these alone.

    In the first layer, the differences of an observation's colour from the own colour and from the consensus are split.
    Their first term is that colour again; the second term is the same for all observations of a Gaussian, and is added
    to its context.
    """
    of_color, of_differences, of_measures = embed.weight.split([3, 6, EMBEDDED_FEATURES - 9], 1)
    subtracted = torch.cat([own_colors, seen.consensus], -1)
    base = context.float() + linear(subtracted, -of_differences, embed.bias)
    of_all_colors = of_color + of_differences[:, :3] + of_differences[:, 3:]
    of_features = torch.cat([of_all_colors, of_measures, 0 * of_color[:, :1]], 1)
    _, middle, _, last = attention_mlp
    return seen.features.flatten(1, 2), base, of_features.T, middle.weight, middle.bias, last.weight[0], last.bias
