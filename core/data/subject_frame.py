"""Transform from the raw world (z down) to the subject frame, the world of the model. No other module uses both.

Each frame of a capture has its own subject frame: y up, origin at the posed pelvis, rotated about y so that the first
input camera looks from +z. This makes the model's input independent of the rig.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.fits import rest_pelvis
from core.types.cameras import Cameras
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams


def subject_frame(
    pelvis: Float[Tensor, "*batch 3"], first_center: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Rigid transform T_subject_raw from the raw world to the subject frame.

    Args:
        pelvis: Posed pelvis in the raw world, in metres.
        first_center: Centre of the first input camera in the raw world.
    """
    direction = first_center - pelvis
    z = torch.stack([direction[..., 0], direction[..., 1], torch.zeros_like(direction[..., 2])], -1)
    z = torch.nn.functional.normalize(z, dim=-1)
    y = torch.tensor([0.0, 0.0, -1.0], dtype=z.dtype, device=z.device).expand_as(z)
    R = torch.stack([torch.linalg.cross(y, z), y, z], -2)
    T = torch.eye(4, dtype=z.dtype, device=z.device).repeat(*z.shape[:-1], 1, 1)
    T[..., :3, :3] = R
    T[..., :3, 3] = -torch.einsum("...ij,...j->...i", R, pelvis)
    return T


def posed_pelvis(params: BodyParams, body: BodyModel) -> Float[Tensor, "*batch 3"]:
    """Position of the root joint; it does not depend on the pose."""
    return params.transl + params.scale[..., None] * rest_pelvis(body, params.betas)


def move_body(params: BodyParams, T_new_old: Float[Tensor, "*batch 4 4"], body: BodyModel) -> BodyParams:
    """Express a posed body in another coordinate frame, given the rigid transform into that frame."""
    R, shift = T_new_old[..., :3, :3], T_new_old[..., :3, 3]
    scaled_rest = params.scale[..., None] * rest_pelvis(body, params.betas)
    return BodyParams(
        betas=params.betas,
        global_orient=matrix_to_axis_angle(R @ axis_angle_to_matrix(params.global_orient)),
        body_pose=params.body_pose,
        transl=torch.einsum("...ij,...j->...i", R, params.transl + scaled_rest) + shift - scaled_rest,
        scale=params.scale,
    )


def to_subject_frame(
    params: BodyParams, cameras: Cameras, first_center: Float[Tensor, "3"], body: BodyModel
) -> tuple[BodyParams, Cameras]:
    """Transform fits [F] and cameras [F, C] from the raw world to the subject frame of each of the F frames."""
    pelvis = posed_pelvis(params, body)
    T_subject_raw = subject_frame(pelvis, first_center.expand_as(pelvis))
    T_raw_subject = torch.linalg.inv(T_subject_raw)[:, None]
    return move_body(params, T_subject_raw, body), cameras.in_frame(T_raw_subject)
