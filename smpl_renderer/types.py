"""What goes into a body model and what comes out."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class BodyParams(TensorStructure):
    """Shape and pose of SMPL bodies: `vertices = scale * SMPL(betas, global_orient, body_pose) + transl`.

    Angles are axis-angle in radians, `transl` is in metres of the world that the body stands in.
    """

    betas: Float[Tensor, "*batch S"]
    global_orient: Float[Tensor, "*batch 3"]
    body_pose: Float[Tensor, "*batch 69"]
    transl: Float[Tensor, "*batch 3"]
    scale: Float[Tensor, "*batch"]

    @property
    def batch_shape(self) -> torch.Size:
        return self.scale.shape

    @staticmethod
    def stack(items: "list[BodyParams]", dim: int = 0) -> "BodyParams":
        """Join bodies along a new batch axis."""
        return BodyParams(**{f.name: torch.stack([getattr(i, f.name) for i in items], dim) for f in fields(BodyParams)})

    @staticmethod
    def zeros(*batch: int, num_betas: int = 10, device=None, dtype=None) -> "BodyParams":
        """Mean shape in the rest pose at the origin."""
        kwargs = {"device": device, "dtype": dtype}
        return BodyParams(
            betas=torch.zeros(*batch, num_betas, **kwargs),
            global_orient=torch.zeros(*batch, 3, **kwargs),
            body_pose=torch.zeros(*batch, 69, **kwargs),
            transl=torch.zeros(*batch, 3, **kwargs),
            scale=torch.ones(batch, **kwargs),
        )


@dataclass(frozen=True)
class BodyOutput(TensorStructure):
    """A body model's output, all in metres.

    `shaped` are the vertices in the canonical space (rest pose, with shape); `vertex_transforms` maps each of them
    exactly to `vertices` (scale, translation and pose correctives included).
    """

    vertices: Float[Tensor, "*batch V 3"]
    joints: Float[Tensor, "*batch J 3"]
    shaped: Float[Tensor, "*batch V 3"]
    vertex_transforms: Float[Tensor, "*batch V 4 4"]


@dataclass(frozen=True)
class PosedBody(BodyOutput):
    """A posed body with the rotation of each vertex and its scale: what skinning of Gaussians needs."""

    rotations: Float[Tensor, "*batch V 3 3"]
    """From canonical axes to those at each posed vertex."""
    quats: Float[Tensor, "*batch V 4"]
    """The same as unit quaternions (w, x, y, z), w >= 0."""
    scale: Float[Tensor, "*batch"]
