"""Raw channels of a Gaussian: their order and their activations.

Raw values near zero give a sensible Gaussian, because that is what an untrained network predicts.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

RAW_CHANNELS = 14

MAX_SCALE_FACTOR = 12.0
OPACITY_LOGIT = 2.0
"""Logit of the initial opacity, 0.88: opaque enough for a first rendering, and not saturated."""


@dataclass(frozen=True)
class RawGaussians:
    """Raw channels by name. The meaning of `position` depends on the decoder."""

    position: Float[Tensor, "*batch 3"]
    opacity: Float[Tensor, "*batch"]
    scales: Float[Tensor, "*batch 3"]
    quats: Float[Tensor, "*batch 4"]
    colors: Float[Tensor, "*batch 3"]

    @staticmethod
    def split(raw: Float[Tensor, "*batch 14"]) -> "RawGaussians":
        position, opacity, scales, quats, colors = raw.float().split([3, 1, 3, 4, 3], -1)
        return RawGaussians(position, opacity[..., 0], scales, quats, colors)

    @property
    def opacities(self) -> Float[Tensor, "*batch"]:
        return torch.sigmoid(self.opacity + OPACITY_LOGIT)

    @property
    def scale_factors(self) -> Float[Tensor, "*batch 3"]:
        """Factors on the initial scales, within [1 / 12, 12], with a gradient everywhere."""
        bound = math.log(MAX_SCALE_FACTOR)
        return torch.exp(bound * torch.tanh(self.scales / bound))

    @property
    def rotations(self) -> Float[Tensor, "*batch 4"]:
        """Unit quaternions; the identity for raw zeros."""
        w, xyz = self.quats.split([1, 3], -1)
        return normalize(torch.cat([w + 1, xyz], -1), dim=-1)


def shift_logits(values: Float[Tensor, "*shape"], shifts: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Shift values in [0, 1] on the logit scale, so that they stay in that range; exact to 1e-3 for a shift of zero."""
    return torch.sigmoid(torch.logit(values, eps=1e-3) + shifts)
