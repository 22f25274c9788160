"""Parameters and outputs of a body model."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class BodyParams(TensorStructure):
    """Shape and pose of SMPL bodies: `vertices = scale * SMPL(betas, global_orient, body_pose) + transl`.

    Rotations are axis-angle vectors in radians; `transl` is in metres, in the world of the body.
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
        """Stack bodies along a new batch axis."""
        return BodyParams(**{f.name: torch.stack([getattr(i, f.name) for i in items], dim) for f in fields(BodyParams)})

    @staticmethod
    def zeros(*batch: int, num_betas: int = 10, device=None, dtype=None) -> "BodyParams":
        """Parameters of the mean shape in the rest pose at the origin."""
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
    """Vertices and joints of posed bodies, in metres."""

    vertices: Float[Tensor, "*batch V 3"]
    joints: Float[Tensor, "*batch J 3"]
    shaped: Float[Tensor, "*batch V 3"]
    """Vertices in the canonical space: rest pose, with shape."""
    vertex_transforms: Float[Tensor, "*batch V 4 4"]
    """Affine transforms that map `shaped` exactly to `vertices`: pose correctives, scale and translation included."""


@dataclass(frozen=True)
class PosedBody(BodyOutput):
    """Posed bodies with the rotation of each vertex and the scale, as needed to skin Gaussians."""

    rotations: Float[Tensor, "*batch V 3 3"]
    """Rotation from the canonical axes to those at each posed vertex (`vertex_rotations`)."""
    quats: Float[Tensor, "*batch V 4"]
    """`rotations` as unit quaternions (w, x, y, z), w >= 0."""
    scale: Float[Tensor, "*batch"]
