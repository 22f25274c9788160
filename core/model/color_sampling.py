"""Image colour sampling: colours of the avatar's Gaussians from the input pixels that show them.

Every Gaussian is posed into every input frame and projected into every input view. Where it is visible, the image's
colour is an observation. A softmax with predicted logits blends all observations with the colour that the head decoded.
Projections outside of the silhouette are evidence against the Gaussian, from which its opacity and scales are
corrected. Observations that are not visible have no influence.

Not in the paper. It gives the avatar patterns that are finer than the splat maps.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.avatar.avatar import Avatar
from core.model.decode import shift_logits
from core.ops.color_blend import EMBEDDED_FEATURES, blend
from core.ops.color_observations import ColorObservations
from core.ops.color_sampling_constants import VISIBLE

EVIDENCE_FEATURES = 2


class ColorSampling(nn.Module):
    """Colours of Gaussians from the pixels that show them, and a correction of those that lie outside of silhouettes.

    Args:
        context_channels: Features of each Gaussian.
        hidden: Width of the layers that predict logits and corrections.
    """

    def __init__(self, context_channels: int, hidden: int = 32):
        super().__init__()
        self.embed_context = nn.Linear(context_channels, hidden)
        self.embed_observation = nn.Linear(EMBEDDED_FEATURES, hidden)
        self.attention_mlp = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.own_logit = nn.Linear(context_channels, 1)
        self.embed_evidence = nn.Linear(EVIDENCE_FEATURES, hidden)
        self.correction_head = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 4))
        nn.init.normal_(self.correction_head[-1].weight, std=0.01)
        nn.init.zeros_(self.correction_head[-1].bias)

    def forward(
        self,
        avatar: Avatar,
        context: Float[Tensor, "B N D"],
        seen: ColorObservations,
    ) -> Avatar:
        """The avatar with new colours, opacities and scales.

        Args:
            avatar: B avatars, as the head decoded them.
            context: Features of each Gaussian.
            seen: Observations of its Gaussians in the input images (`observe`).
        """
        embedded = self.embed_context(context)
        corrections = self.correction_head(embedded + self.embed_evidence(_evidence(seen))).float()
        own_logits = self.own_logit(context)[..., 0].float()
        return replace(
            avatar,
            colors=blend(seen, avatar.colors, own_logits, embedded, self.embed_observation, self.attention_mlp),
            opacities=shift_logits(avatar.opacities, corrections[..., 0]) * (avatar.opacities > 0),
            scales=avatar.scales * torch.exp(torch.tanh(corrections[..., 1:])),
        )


def _evidence(seen: ColorObservations) -> Float[Tensor, "B N 2"]:
    """Logarithms of the number of views in which a Gaussian lies outside of the silhouette, and in which it is visible.

    A view that shows neither adds nothing.
    """
    counts = torch.stack([seen.outside, seen.features[..., VISIBLE, :].sum((1, 2))], -1)
    return torch.log1p(counts)
