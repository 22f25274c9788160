"""Parameters of an avatar without bounds, for optimizers."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.avatar.avatar import Avatar

EPS = 1e-3
"""Minimum distance of initial opacities and colours from 0 and 1, where logits have no gradient. It is below 1/255, the
lowest alpha that is drawn, so transparent Gaussians stay without gradient."""


@dataclass(frozen=True)
class UnconstrainedAvatar:
    """Offsets in metres, quaternions of any length, logarithms of scales, logits of opacities and colours."""

    params: dict[str, Float[Tensor, "..."]]
    """Parameters by the names of the avatar's fields, in their shapes."""

    @staticmethod
    def from_avatar(avatar: Avatar) -> "UnconstrainedAvatar":
        """Copy an avatar's values, in float32 and without gradients."""
        params = {
            "offsets": avatar.offsets,
            "quats": avatar.quats,
            "scales": avatar.scales.log(),
            "opacities": torch.logit(avatar.opacities, EPS),
            "colors": torch.logit(avatar.colors, EPS),
        }
        return UnconstrainedAvatar({name: x.detach().float().clone() for name, x in params.items()})

    def to_avatar(self, avatar: Avatar) -> Avatar:
        """Activate the parameters; vertices, shape and body are those of `avatar`."""
        params = self.params
        return replace(
            avatar,
            offsets=params["offsets"],
            quats=F.normalize(params["quats"], dim=-1),
            scales=params["scales"].exp(),
            opacities=params["opacities"].sigmoid(),
            colors=params["colors"].sigmoid(),
        )
