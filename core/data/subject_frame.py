"""From MVHumanNet's raw world (z down) to the subject frame, the world of the model. The conversion lives here only.

The subject frame belongs to one moment: y up, origin at the posed pelvis, turned about y so that the first input camera
looks from +z. Whatever rig a capture comes from, the model sees it in the same way.
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
    """T_subject_raw: the rigid transform from the raw world to the subject frame.

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
    """Where the root joint is; rotating the body does not move it."""
    return params.transl + params.scale[..., None] * rest_pelvis(body, params.betas)


def move_body(params: BodyParams, T_new_old: Float[Tensor, "*batch 4 4"], body: BodyModel) -> BodyParams:
    """The same posed body in another frame, given the rigid transform into that frame."""
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
    """Move the fits [F] and the cameras [F, C] of F moments from the raw world to each moment's subject frame."""
    pelvis = posed_pelvis(params, body)
    T_subject_raw = subject_frame(pelvis, first_center.expand_as(pelvis))
    T_raw_subject = torch.linalg.inv(T_subject_raw)[:, None]
    return move_body(params, T_subject_raw, body), cameras.in_frame(T_raw_subject)
