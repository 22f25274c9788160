"""The avatar: Gaussians of the rest pose, each tied to a vertex of the body, and how they follow the body's pose."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Avatar(TensorStructure):
    """A person as Gaussians in the canonical space: the body's rest pose, with the person's shape.

    A Gaussian's canonical centre is its vertex plus its offset, so that it keeps its place on the skin when the shape
    changes.
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
    """The vertex that each Gaussian is tied to."""
    betas: Float[Tensor, "*batch S"]
    """The person's shape."""
    body: str
    """Fingerprint of the body model that the vertices belong to."""

    @property
    def batch_shape(self) -> torch.Size:
        return self.opacities.shape[:-1]

    @property
    def count(self) -> int:
        """Gaussians of each avatar (N)."""
        return self.opacities.shape[-1]


_TENSORS = tuple(f.name for f in fields(Avatar) if f.name != "body")
