"""Noise on fits: a body a little off its pictures, as an optimiser finds it."""

import torch
from torch import Tensor

from core.data.fits import rest_pelvis
from core.data.subject_frame import posed_pelvis
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

ORIENT_SHARE, TRANSL_SHARE, BETAS_SHARE = 0.3, 0.1, 3.0
"""Deviations of the orientation (radians), the pelvis (metres) and the shape, relative to that of the joints: those of
`scripts/make_synthetic.py --fit-noise`."""


def noisy_fits(params: BodyParams, deviation: float, body: BodyModel, generator: torch.Generator) -> BodyParams:
    """Fits of some moments of one person, each a little off in its own way; the shape is off in all alike.

    Args:
        params: Batch axis F. Only bodies move, not the frame that they and the cameras stand in.
        deviation: Standard deviation of each joint's rotation vector, in radians.
        body: The body of the fits.
        generator: What it is drawn from.
    """

    def noise(share: float, *shape: int) -> Tensor:
        return share * deviation * torch.randn(shape, generator=generator, dtype=params.scale.dtype)

    count, joints = len(params.scale), params.body_pose.shape[-1] // 3
    betas = params.betas + noise(BETAS_SHARE, params.betas.shape[-1])
    shift = noise(TRANSL_SHARE, count, 3) - params.scale[:, None] * rest_pelvis(body, betas)
    return BodyParams(
        betas=betas,
        global_orient=_turned(params.global_orient, noise(ORIENT_SHARE, count, 3)),
        body_pose=_turned(params.body_pose.unflatten(-1, (joints, 3)), noise(1.0, count, joints, 3)).flatten(-2),
        transl=posed_pelvis(params, body) + shift,
        scale=params.scale,
    )


def _turned(rotvecs: Tensor, by: Tensor) -> Tensor:
    return matrix_to_axis_angle(axis_angle_to_matrix(by) @ axis_angle_to_matrix(rotvecs))
