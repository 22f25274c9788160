"""Motions as joint rotations, and the body's pose correctives in a form that players evaluate quickly."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.motion.motion import Motion, apply_motion
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_quat
from smpl_renderer.types import BodyParams

MAX_SAMPLES = 400
"""Poses from which the basis of the correctives is computed."""


@dataclass(frozen=True)
class Clip:
    """A motion of one body: rotations of the joints relative to their parents, and the poses that they belong to."""

    name: str
    fps: float
    loops: bool
    """True if the first frame follows the last one after 1 / fps seconds."""
    quats: Float[Tensor, "T J 4"]
    """Unit quaternions (w, x, y, z); neighbours in time have a positive scalar product."""
    params: BodyParams
    """The same T poses as parameters of the body; the floor is y = 0."""


def bake(motion: Motion, body: BodyModel, betas: Float[Tensor, " S"]) -> Clip:
    """Apply a motion to a body of scale 1, as `apply_motion` does."""
    params = apply_motion(motion, body, betas)
    pose = torch.cat([params.global_orient, params.body_pose], -1).unflatten(-1, (-1, 3))
    quats = matrix_to_quat(axis_angle_to_matrix(pose))
    flips = torch.sign((quats[1:] * quats[:-1]).sum(-1, keepdim=True))
    flips = torch.where(flips == 0, torch.ones_like(flips), flips)
    quats = torch.cat([quats[:1], quats[1:] * flips.cumprod(0)])
    return Clip(motion.name, motion.fps, motion.loops, quats, params)


@dataclass(frozen=True)
class Correctives:
    """Pose correctives of low rank: vertex v moves by `sum_k c_k basis[v, k]` in the rest pose, c = features @ weights.

    The features are the rotation matrices of all joints but the root minus identity, joint by joint, row by row.
    """

    basis: Float[np.ndarray, "V K 3"]
    weights: Float[np.ndarray, "P K"]
    max_error: float
    """Largest error of a vertex over the sampled poses, in metres."""


def low_rank_correctives(body: BodyModel, clips: list[Clip], tolerance: float, max_rank: int) -> Correctives:
    """The fewest components that reproduce the pose correctives in some motions.

    Args:
        body: The body that moves.
        clips: Motions of it.
        tolerance: Largest error of a vertex, in metres.
        max_rank: Largest number of components, which has precedence.
    """
    features = torch.cat([_pose_features(clip.quats) for clip in clips])
    chosen = torch.linspace(0, len(features) - 1, min(len(features), MAX_SAMPLES)).round().long()
    features = features[chosen].double()
    posedirs = body.posedirs.to("cpu", torch.float64).permute(2, 0, 1).flatten(1)  # [P, 3V]
    moved = features @ posedirs
    # Singular vectors by the small matrix of scalar products: poses are few, coordinates of vertices many.
    squares, left = torch.linalg.eigh(moved @ moved.mT)
    strengths, left = squares.clamp_min(1e-12).sqrt().flip(0), left.flip(1)
    components = (left.mT @ moved) / strengths[:, None]
    for rank in range(1, min(max_rank, len(components)) + 1):
        moved -= torch.outer(left[:, rank - 1] * strengths[rank - 1], components[rank - 1])
        error = float(moved.unflatten(-1, (-1, 3)).norm(dim=-1).max())
        if error <= tolerance:
            break
    basis = components[:rank]
    return Correctives(basis.unflatten(-1, (-1, 3)).transpose(0, 1).numpy(), (posedirs @ basis.T).numpy(), error)


def _pose_features(quats: Float[Tensor, "T J 4"]) -> Float[Tensor, "T P"]:
    w, x, y, z = quats[:, 1:].unbind(-1)
    rows = (
        *(-2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), -2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), -2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).flatten(1)
