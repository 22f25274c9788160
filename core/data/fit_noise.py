"""Errors of body fits: noise, as left by an optimiser, and bias, as left by a single camera."""

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
DEPTH_SHARE, MAX_BIAS = 0.4, 2.0
"""Standard deviation of the shared error of the depth (metres), and the greatest deviation of a sample, as multiples of
the deviation that is given."""


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
    return _with_errors(
        params,
        body,
        betas=noise(BETAS_SHARE, params.betas.shape[-1]),
        pelvis=noise(TRANSL_SHARE, count, 3),
        orient=noise(ORIENT_SHARE, count, 3),
        joints=noise(1.0, count, joints, 3),
    )


def biased_fits(params: BodyParams, deviation: float, body: BodyModel, generator: torch.Generator) -> BodyParams:
    """Add errors that all F frames of one subject share: of each joint, of the lean, and of the depth.

    A single camera shows neither how far a body leans towards it nor how far away it is, and a fitter errs alike in all
    frames. Half of the subjects get no error; for the others, the size of the errors is uniform up to `MAX_BIAS` times
    `deviation`, hence `deviation` on average.

    Args:
        params: Batch axis F, in subject frames: the first camera is on the side of +z.
        deviation: Standard deviation of each joint's rotation vector, in radians.
        body: The body of the fits.
        generator: Source of the errors.
    """
    amount = deviation * MAX_BIAS * max(0.0, 2 * float(torch.rand((), generator=generator)) - 1)
    joints = params.body_pose.shape[-1] // 3
    rotations = amount * torch.randn(joints, 3, generator=generator, dtype=params.scale.dtype)
    lean, depth = (amount * torch.randn(2, generator=generator, dtype=params.scale.dtype)).tolist()
    return _with_errors(
        params,
        body,
        betas=torch.zeros_like(params.betas[0]),
        pelvis=params.transl.new_tensor([0.0, 0.0, DEPTH_SHARE * depth]),
        orient=params.transl.new_tensor([lean, 0.0, 0.0]),
        joints=rotations,
    )


def _with_errors(
    params: BodyParams, body: BodyModel, *, betas: Tensor, pelvis: Tensor, orient: Tensor, joints: Tensor
) -> BodyParams:
    """Fits with errors of shape, posed pelvis (metres), orientation and joints (rotation vectors)."""
    betas = params.betas + betas
    shift = pelvis - params.scale[:, None] * rest_pelvis(body, betas)
    return BodyParams(
        betas=betas,
        global_orient=_rotated(params.global_orient, orient),
        body_pose=_rotated(params.body_pose.unflatten(-1, (-1, 3)), joints).flatten(-2),
        transl=posed_pelvis(params, body) + shift,
        scale=params.scale,
    )


def _rotated(rotvecs: Tensor, by: Tensor) -> Tensor:
    return matrix_to_axis_angle(axis_angle_to_matrix(by) @ axis_angle_to_matrix(rotvecs))
