"""An avatar's numbers as optimizers want them: without bounds."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.avatar.avatar import Avatar

EPS = 1e-3
"""Opacities and colours start at least this far from 0 and 1, where logits have no gradient. Less than 1/255, which
nothing draws: what is transparent has none here, either."""


@dataclass(frozen=True)
class RawAvatar:
    """Offsets in metres, quaternions of any length, logarithms of sizes, logits of opacities and colours."""

    numbers: dict[str, Float[Tensor, "..."]]
    """By the names of the avatar's fields, in their shapes."""

    @staticmethod
    def of(avatar: Avatar) -> "RawAvatar":
        """Copies, in single precision and without gradients."""
        numbers = {
            "offsets": avatar.offsets,
            "quats": avatar.quats,
            "scales": avatar.scales.log(),
            "opacities": torch.logit(avatar.opacities, EPS),
            "colors": torch.logit(avatar.colors, EPS),
        }
        return RawAvatar({name: x.detach().float().clone() for name, x in numbers.items()})

    def as_(self, avatar: Avatar) -> Avatar:
        """These numbers, with the vertices and the shape of an avatar."""
        raw = self.numbers
        return replace(
            avatar,
            offsets=raw["offsets"],
            quats=F.normalize(raw["quats"], dim=-1),
            scales=raw["scales"].exp(),
            opacities=raw["opacities"].sigmoid(),
            colors=raw["colors"].sigmoid(),
        )
