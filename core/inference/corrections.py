"""Small corrections of body fits and cameras, as variables of an optimiser.

Every variable is zero at the start and in units of a rate, so that one step size applies to all. Bodies turn about
their pelvis and their joints; a camera turns about its own centre. The first camera is kept: it fixes the gauge.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.data.fits import rest_pelvis
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams


@dataclass(frozen=True)
class Scales:
    """One number per kind of correction; 0 leaves that kind out."""

    root: float
    """Orientation of the body in a frame, radians."""
    transl: float
    """Position of the pelvis in a frame, metres."""
    pose: float
    """Rotation of a joint in a frame, radians."""
    common_pose: float
    """Rotation of a joint in all frames, radians."""
    betas: float
    """Shape, in all frames."""
    camera_turn: float
    """Rotation of a camera in all frames, radians."""
    camera_shift: float
    """Position of a camera in all frames, metres."""


class Corrections:
    """Corrections of the fits [F] and cameras [C] of one subject.

    Args:
        fits: Fits [F].
        num_cameras: Number of cameras (C); with one, no camera is corrected.
        rates: Largest change of each variable in a step of size 1.
        body: Body of the fits.
    """

    def __init__(self, fits: BodyParams, num_cameras: int, rates: Scales, body: BodyModel):
        self.fits, self.num_cameras, self.body = fits, num_cameras, body
        frames, joints = len(fits.scale), fits.body_pose.shape[-1] // 3
        shapes = {
            "root": (frames, 3),
            "transl": (frames, 3),
            "pose": (frames, joints, 3),
            "common_pose": (joints, 3),
            "betas": fits.betas.shape[-1:],
        }
        if num_cameras > 1:
            shapes |= {"camera_turn": (num_cameras - 1, 3), "camera_shift": (num_cameras - 1, 3)}
        self.rates = {name: rate for name, rate in vars(rates).items() if name in shapes and rate > 0}
        zeros = {"device": fits.scale.device, "dtype": fits.scale.dtype}
        self.params = {name: torch.zeros(shapes[name], **zeros).requires_grad_() for name in self.rates}

    def __getitem__(self, name: str) -> Tensor | float:
        """A correction in radians, metres or units of betas; 0 if that kind is left out."""
        return self.rates[name] * self.params[name] if name in self.params else 0.0

    def bodies(self, index: Int[Tensor, " P"] | None = None) -> BodyParams:
        """Corrected fits [F], or those of some frames [P]."""
        fits, own = self.fits, {name: self[name] for name in ("root", "transl", "pose")}
        if index is not None:
            fits = fits[index]
            own = {name: x[index] if isinstance(x, Tensor) else x for name, x in own.items()}
        orient, pose = fits.global_orient, fits.body_pose
        if isinstance(own["root"], Tensor):
            orient = _turned(own["root"], orient)
        turns = own["pose"] + self["common_pose"]
        if isinstance(turns, Tensor):
            joints = pose.unflatten(-1, (-1, 3))
            pose = _turned(turns.expand_as(joints), joints).flatten(-2)
        betas = fits.betas + self["betas"]
        # The pelvis stays where it is when the shape changes.
        shift = fits.scale[..., None] * (rest_pelvis(self.body, fits.betas) - rest_pelvis(self.body, betas))
        return replace(
            fits, betas=betas, global_orient=orient, body_pose=pose, transl=fits.transl + shift + own["transl"]
        )

    def cameras(self) -> Float[Tensor, "C 4 4"]:
        """Transforms from the given to the corrected axes of each camera: `T_cam_world' = T @ T_cam_world`."""
        turn, shift = self["camera_turn"], self["camera_shift"]
        result = torch.eye(4).to(self.fits.scale).repeat(self.num_cameras, 1, 1)
        if not isinstance(turn, Tensor) and not isinstance(shift, Tensor):
            return result
        others = self.num_cameras - 1
        R = axis_angle_to_matrix(turn) if isinstance(turn, Tensor) else result[1:, :3, :3]
        t = shift if isinstance(shift, Tensor) else result[1:, :3, 3]
        moved = torch.cat([torch.cat([R, t[..., None]], -1), result[1:, 3:].expand(others, 1, 4)], -2)
        return torch.cat([result[:1], moved])

    def squares(self, deviations: Scales) -> Float[Tensor, ""]:
        """Sum of squared corrections in units of their expected deviations."""
        return sum((self[name] / getattr(deviations, name)).square().sum() for name in self.params)


def _turned(by: Float[Tensor, "*batch 3"], rotvecs: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotations followed by others, as axis-angle vectors."""
    return matrix_to_axis_angle(axis_angle_to_matrix(by) @ axis_angle_to_matrix(rotvecs))
