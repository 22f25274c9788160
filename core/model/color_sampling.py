"""The second look: once the avatar's Gaussians are placed, look up in the input pictures what each of them looks like.

Every Gaussian is posed into every input moment and projected into every input view. Where it is seen, the picture's
colour is an observation, and learned weights blend all observations with the colour that the head proposed. Where it
falls beside the person's silhouette, that speaks against it. An observation that is not visible counts exactly nothing.

Not in the paper. It carries patterns finer than the splat map into the avatar.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.avatar.avatar import Avatar, Skin
from core.model.decode import shift_logits
from core.ops.observations import COSINE, COVERAGE, VISIBLE, Observations, observe
from core.types.frames import Frames
from smpl_renderer.dispatch import use_kernels

COSINE_PREFERENCE = 3.0
"""Before training, views that see the skin face on count exp(3) times as much as those that graze it."""
OBSERVATION_NUMBERS = 13
"""Colour, its differences from the head's and from the consensus, and four that say how far to trust it."""
EVIDENCE_NUMBERS = 2


class SecondLook(nn.Module):
    """Colours of an avatar's Gaussians from the pixels that see them, and a correction of those that no silhouette has
    room for.

    Args:
        context_channels: Features behind each Gaussian.
        hidden: Width of the layers that weigh observations.
    """

    def __init__(self, context_channels: int, hidden: int = 32):
        super().__init__()
        self.embed_context = nn.Linear(context_channels, hidden)
        self.embed_observation = nn.Linear(OBSERVATION_NUMBERS, hidden)
        self.weigh = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.weigh_own = nn.Linear(context_channels, 1)
        self.embed_evidence = nn.Linear(EVIDENCE_NUMBERS, hidden)
        self.correct = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 4))
        nn.init.normal_(self.correct[-1].weight, std=0.01)
        nn.init.zeros_(self.correct[-1].bias)

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        normals: Float[Tensor, "V 3"],
        inputs: Frames,
        skin: Skin,
    ) -> Avatar:
        """The avatar with its colours looked up.

        Args:
            avatar: As the head made it.
            context: The features behind each Gaussian.
            normals, inputs, skin: See `observe`.
        """
        seen = observe(avatar, normals, inputs, skin)
        embedded = self.embed_context(context)
        corrections = self.correct(embedded + self.embed_evidence(_evidence(seen))).float()
        own_logits = self.weigh_own(context)[..., 0].float()
        return replace(
            avatar,
            colors=blend(seen, avatar.colors, own_logits, embedded, self.embed_observation, self.weigh),
            opacities=shift_logits(avatar.opacities, corrections[..., 0]) * (avatar.opacities > 0),
            scales=avatar.scales * torch.exp(torch.tanh(corrections[..., 1:])),
        )


def _evidence(seen: Observations) -> Float[Tensor, "B N 2"]:
    """How many views leave no room for a Gaussian, and how many see it; views that tell nothing add nothing."""
    counts = torch.stack([seen.outside, seen.numbers[..., VISIBLE, :].sum((1, 2))], -1)
    return torch.log1p(counts)


def blend_reference(
    seen: Observations,
    own_colors: Float[Tensor, "B N 3"],
    own_logits: Float[Tensor, "B N"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    weigh: nn.Sequential,
) -> Float[Tensor, "B N 3"]:
    """Define `blend` in plain PyTorch, for any device and dtype."""
    where = persons, frames, views, gaussians = seen.visible.nonzero(as_tuple=True)
    numbers = seen.numbers[persons, frames, views, :, gaussians]  # [E, 8]
    colors, trust = numbers[:, :COVERAGE], numbers[:, COVERAGE:VISIBLE]
    own, common = own_colors[persons, gaussians], seen.consensus[persons, gaussians]
    embedded = embed(torch.cat([colors, colors - own, colors - common, trust], -1)) + context[persons, gaussians]
    logits = weigh(embedded)[..., 0].float() + COSINE_PREFERENCE * numbers[:, COSINE]

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
    weigh: nn.Sequential,
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
            prepared = prepare(seen, own_colors, context, embed, weigh)
            return BlendColors.apply(*prepared, own_logits, own_colors)
    return blend_reference(seen, own_colors, own_logits, context, embed, weigh)


def prepare(
    seen: Observations,
    own_colors: Float[Tensor, "B N 3"],
    context: Float[Tensor, "B N H"],
    embed: nn.Linear,
    weigh: nn.Sequential,
) -> tuple[Tensor, ...]:
    """What the kernels of `blend` take first: the numbers, and weights that apply to them alone.

    In the first layer, the differences of an observation's colour from the head's and from the consensus are that
    colour once more, and something that is the same for all observations of a Gaussian, which joins its context.
    """
    of_color, of_others, of_trust = embed.weight.split([3, 6, OBSERVATION_NUMBERS - 9], 1)
    others = torch.cat([own_colors, seen.consensus], -1)
    base = context.float() + torch.nn.functional.linear(others, -of_others, embed.bias)
    of_numbers = torch.cat([of_color + of_others[:, :3] + of_others[:, 3:], of_trust, 0 * of_color[:, :1]], 1)
    _, middle, _, last = weigh
    return seen.numbers.flatten(1, 2), base, of_numbers.T, middle.weight, middle.bias, last.weight[0], last.bias


def _fits(hidden: int) -> bool:
    """Whether the kernels take layers of this width: a power of two that fills a matrix product, and fits registers."""
    return hidden in (16, 32, 64)
