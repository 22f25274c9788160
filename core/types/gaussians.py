"""Sets of 3D Gaussians: the output of the network and the input of the rasterizer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Gaussians(TensorStructure):
    """Sets of N Gaussians with activated attributes, and any leading batch axes."""

    means: Float[Tensor, "*batch N 3"]
    """Centres, in metres."""
    quats: Float[Tensor, "*batch N 4"]
    """Rotations (w, x, y, z) from local axes to the frame of `means`; of any length except zero."""
    scales: Float[Tensor, "*batch N 3"]
    """Standard deviations along the local axes, in metres."""
    opacities: Float[Tensor, "*batch N"]
    """Opacities in [0, 1]."""
    colors: Float[Tensor, "*batch N 3"]
    """RGB in [0, 1]."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Number of Gaussians per set (N)."""
        return self.opacities.shape[-1]
