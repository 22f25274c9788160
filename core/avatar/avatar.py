"""The avatar as a value: Gaussians of the rest pose, each attached to a vertex of the body."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Avatar(TensorStructure):
    """A subject as Gaussians in the canonical space: the body's rest pose, with the subject's shape.

    The canonical centre of a Gaussian is its vertex plus its offset, so it follows the surface when the shape changes.
    """

    offsets: Float[Tensor, "*batch N 3"]
    """From the vertex to the centre, in metres, along the canonical axes."""
    quats: Float[Tensor, "*batch N 4"]
    """Rotations (w, x, y, z) from local to canonical axes."""
    scales: Float[Tensor, "*batch N 3"]
    """Standard deviations along the local axes, in metres, for a body of scale 1."""
    opacities: Float[Tensor, "*batch N"]
    colors: Float[Tensor, "*batch N 3"]
    vertex_ids: Int[Tensor, "*batch N"]
    """Index of the vertex that each Gaussian is attached to."""
    betas: Float[Tensor, "*batch S"]
    """Shape of the subject."""
    body: str
    """Fingerprint of the body model that the vertices belong to."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Number of Gaussians per avatar (N)."""
        return self.opacities.shape[-1]


TENSOR_FIELDS = tuple(f.name for f in fields(Avatar) if f.name != "body")
"""Names of the fields of `Avatar` that hold tensors."""
