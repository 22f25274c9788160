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

from core.avatar.avatar import Avatar
from core.model.decode import shift_logits
from core.ops.color_blend import OBSERVATION_NUMBERS, blend
from core.ops.observations import VISIBLE, Observations, observe
from core.types.frames import Frames
from smpl_renderer.types import PosedBody

EVIDENCE_NUMBERS = 2


class ColorSampling(nn.Module):
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
        self.attention_mlp = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.own_logit = nn.Linear(context_channels, 1)
        self.embed_evidence = nn.Linear(EVIDENCE_NUMBERS, hidden)
        self.correction_head = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 4))
        nn.init.normal_(self.correction_head[-1].weight, std=0.01)
        nn.init.zeros_(self.correction_head[-1].bias)

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        normals: Float[Tensor, "V 3"],
        inputs: Frames,
        posed: PosedBody,
    ) -> Avatar:
        """The avatar with its colours looked up.

        Args:
            avatar: As the head made it.
            context: The features behind each Gaussian.
            normals, inputs, skin: See `observe`.
        """
        seen = observe(avatar, normals, inputs, posed)
        embedded = self.embed_context(context)
        corrections = self.correction_head(embedded + self.embed_evidence(_evidence(seen))).float()
        own_logits = self.own_logit(context)[..., 0].float()
        return replace(
            avatar,
            colors=blend(seen, avatar.colors, own_logits, embedded, self.embed_observation, self.attention_mlp),
            opacities=shift_logits(avatar.opacities, corrections[..., 0]) * (avatar.opacities > 0),
            scales=avatar.scales * torch.exp(torch.tanh(corrections[..., 1:])),
        )


def _evidence(seen: Observations) -> Float[Tensor, "B N 2"]:
    """How many views leave no room for a Gaussian, and how many see it; views that tell nothing add nothing."""
    counts = torch.stack([seen.outside, seen.numbers[..., VISIBLE, :].sum((1, 2))], -1)
    return torch.log1p(counts)
