"""3D Gaussians as a value: what the model makes and the rasterizer draws."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Gaussians(TensorStructure):
    """A set of 3D Gaussians, all attributes activated.

    `means` and `scales` (standard deviations along the local axes) are in metres, `quats` (w, x, y, z), of any length
    but zero, turn local axes into the frame of `means`, `opacities` and `colors` lie in [0, 1]. Any leading batch axes.
    """

    means: Float[Tensor, "*batch N 3"]
    quats: Float[Tensor, "*batch N 4"]
    scales: Float[Tensor, "*batch N 3"]
    opacities: Float[Tensor, "*batch N"]
    colors: Float[Tensor, "*batch N 3"]

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Gaussians in each set (N)."""
        return self.opacities.shape[-1]
