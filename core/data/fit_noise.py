"""Noise on body fits, as left by an optimiser: small errors of pose, position and shape."""

import torch
from torch import Tensor

from core.data.fits import rest_pelvis
from core.data.subject_frame import posed_pelvis
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

ORIENT_SHARE, TRANSL_SHARE, BETAS_SHARE = 0.3, 0.1, 3.0
"""Standard deviations of the orientation (radians), the pelvis (metres) and the betas, as multiples of that of the
joints (radians). `scripts/make_synthetic.py --fit-noise` uses the same."""


def noisy_fits(params: BodyParams, deviation: float, body: BodyModel, generator: torch.Generator) -> BodyParams:
    """Add noise to the fits of F frames of one subject: independent per frame, except for the shape, which is shared.

    Args:
        params: Batch axis F. Only the bodies change, not their coordinate frames.
        deviation: Standard deviation of each joint's rotation vector, in radians.
        body: The body of the fits.
        generator: Source of the noise.
    """

    def noise(share: float, *shape: int) -> Tensor:
        return share * deviation * torch.randn(shape, generator=generator, dtype=params.scale.dtype)

    count, joints = len(params.scale), params.body_pose.shape[-1] // 3
    betas = params.betas + noise(BETAS_SHARE, params.betas.shape[-1])
    shift = noise(TRANSL_SHARE, count, 3) - params.scale[:, None] * rest_pelvis(body, betas)
    return BodyParams(
        betas=betas,
        global_orient=_rotated(params.global_orient, noise(ORIENT_SHARE, count, 3)),
        body_pose=_rotated(params.body_pose.unflatten(-1, (joints, 3)), noise(1.0, count, joints, 3)).flatten(-2),
        transl=posed_pelvis(params, body) + shift,
        scale=params.scale,
    )


def _rotated(rotvecs: Tensor, by: Tensor) -> Tensor:
    return matrix_to_axis_angle(axis_angle_to_matrix(by) @ axis_angle_to_matrix(rotvecs))
