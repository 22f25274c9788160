"""The unknowns of a fit."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.fitting.exponential import exponential
from smpl_renderer.fitting.point_model import Pose
from smpl_renderer.rotations import matrix_to_axis_angle
from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Variables(TensorStructure):
    """Bodies of F frames, gravity and the ground. G is 1 for a still camera and F for a moving one."""

    base: Float[Tensor, "F 3 3"]
    """Root rotation about which `root` turns; not optimised."""
    root: Float[Tensor, "F 3"]
    """Rotation vector: the root's rotation is `base @ exp(root)`."""
    pose: Float[Tensor, "F 23 3"]
    """Rotation vectors of the body joints."""
    transl: Float[Tensor, "F 3"]
    betas: Float[Tensor, " S"]
    log_scale: Float[Tensor, ""]
    up: Float[Tensor, "G 3"]
    """Against gravity; any length."""
    floor: Float[Tensor, " G"]
    """Height of the ground along `up`."""

    def bodies(self) -> Pose:
        """The bodies, with rotations as matrices."""
        root, others = exponential(torch.cat([self.root[:, None], self.pose], 1)).tensor_split([1], 1)
        rotations = torch.cat([self.base[:, None] @ root, others], 1)
        return Pose(rotations, self.transl, self.betas, self.log_scale.exp())

    def unit_up(self) -> Float[Tensor, "F 3"]:
        """Unit vector against gravity for each frame."""
        return torch.nn.functional.normalize(self.up, dim=-1).expand(len(self.transl), 3)

    def frames(self, index: Tensor) -> "Variables":
        """Some of the frames, which may repeat."""
        picked = {name: getattr(self, name)[index] for name in ("base", "root", "pose", "transl")}
        if len(self.floor) > 1:
            picked |= {"up": self.up[index], "floor": self.floor[index]}
        return replace(self, **picked)

    def rebased(self) -> "Variables":
        """The same bodies with `root` at zero, away from the rotation vector's singularity."""
        return replace(self, base=self.bodies().rotations[:, 0].detach(), root=torch.zeros_like(self.root))

    @staticmethod
    def start(bodies: Pose, up: Tensor, floor: Tensor) -> "Variables":
        """Variables that stand for these bodies."""
        return Variables(
            base=bodies.rotations[:, 0],
            root=torch.zeros_like(bodies.transl),
            pose=matrix_to_axis_angle(bodies.rotations[:, 1:]),
            transl=bodies.transl,
            betas=bodies.betas,
            log_scale=bodies.scale.log(),
            up=up,
            floor=floor,
        )

    def leaves(self, names: tuple[str, ...]) -> "Variables":
        """Detached copies; those with these names require gradients."""
        copies = {f.name: getattr(self, f.name).detach().clone() for f in fields(self)}
        for name in names:
            copies[name].requires_grad_()
        return Variables(**copies)
