"""3D Gaussians as a value: what the model makes and the rasterizer draws."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
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

    def map(self, fn) -> "Gaussians":
        """Apply `fn` to every attribute."""
        return Gaussians(**{f.name: fn(getattr(self, f.name)) for f in fields(self)})

    def to(self, *args, **kwargs) -> "Gaussians":
        return self.map(lambda x: x.to(*args, **kwargs))

    def detach(self) -> "Gaussians":
        return self.map(Tensor.detach)

    def __getitem__(self, index) -> "Gaussians":
        """Index the batch axes (not the axis of Gaussians)."""
        return self.map(lambda x: x[index])

    def take(self, indices: Tensor) -> "Gaussians":
        """Keep, repeat or reorder Gaussians; `indices` is one-dimensional and the same for every set."""
        axis = len(self.batch_shape)
        return self.map(lambda x: x.index_select(axis, indices))
