"""A motion, its resampling, and its application to a body.

A motion holds joint rotations and the path of the pelvis, but no shape, so it applies to any body of SMPL's tree.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams

LEG_JOINTS = tuple(JOINT_NAMES.index(name) for name in ("left_hip", "left_knee", "left_ankle"))
MAX_FPS = 1000.0
FRAMES_PER_CALL = 32
"""Frames that are posed at once when a motion is grounded: about 50 MB, however long the motion is."""
MIN_HEADING = 0.3
"""Length of the mean heading below which a motion turns so much that its first frame decides where its front is."""


@dataclass(frozen=True)
class Motion(TensorStructure):
    """T frames of motion: y up, metres, radians; in the rest pose the body faces +z."""

    global_orient: Float[Tensor, "T 3"]
    body_pose: Float[Tensor, "T 69"]
    pelvis: Float[Tensor, "T 3"]
    """Position of the pelvis. For a body whose legs are `leg_length` long, if that is positive."""
    fps: float
    name: str
    loops: bool = False
    """True if the first frame follows the last one after 1 / fps seconds."""
    leg_length: float = 0.0
    """Metres from hip to ankle of the body that moved; 0 if unknown, and the path then applies unscaled."""

    def __post_init__(self) -> None:
        count = len(self.global_orient)
        for name, width in (("global_orient", 3), ("body_pose", 69), ("pelvis", 3)):
            value = getattr(self, name)
            if value.shape != (count, width):
                raise ValueError(f"{name} must be [T, {width}] with T = {count}, got {list(value.shape)}")
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"fps must be in (0, {MAX_FPS:g}], got {self.fps}")

    def __len__(self) -> int:
        return len(self.global_orient)

    @property
    def seconds(self) -> float:
        """Duration; of a loop that of one period."""
        return (len(self) if self.loops else len(self) - 1) / self.fps


def resample(motion: Motion, fps: float, count: int | None = None) -> Motion:
    """The motion at another frame rate: rotations along great arcs, positions linearly.

    Args:
        motion: At least one frame.
        fps: Frames per second of the result.
        count: Number of frames. A loop repeats beyond its period, other motions hold their last frame. By default the
            duration of the motion, and a loop closes exactly: its period becomes the nearest whole number of frames.
    Raises:
        InputError: If `fps` is out of range.
    """
    if not 0 < fps <= MAX_FPS:
        raise InputError(f"a frame rate must be in (0, {MAX_FPS:g}] frames per second, got {fps:g}")
    total, step = len(motion), motion.fps / fps
    if count is None and motion.loops:
        count = max(1, round(motion.seconds * fps))
        step = total / count
    elif count is None:
        count = math.floor(motion.seconds * fps + 1e-6) + 1
    position = torch.arange(count, dtype=torch.float64) * step
    if motion.loops:
        left = position.floor().long() % total
        right = (left + 1) % total
    else:
        position = position.clamp(max=total - 1)
        left = position.floor().long()
        right = (left + 1).clamp(max=total - 1)
    share = (position - position.floor()).to(motion.pelvis)

    def arcs(rotations: Float[Tensor, "T n3"]) -> Float[Tensor, "T n3"]:
        start, end = (axis_angle_to_matrix(rotations[i].unflatten(-1, (-1, 3))) for i in (left, right))
        turned = axis_angle_to_matrix(share[:, None, None] * matrix_to_axis_angle(start.mT @ end))
        return matrix_to_axis_angle(start @ turned).flatten(-2)

    return replace(
        motion,
        global_orient=arcs(motion.global_orient),
        body_pose=arcs(motion.body_pose),
        pelvis=torch.lerp(motion.pelvis[left], motion.pelvis[right], share[:, None]),
        fps=fps,
    )


def in_periods(motion: Motion, fps: float, seconds: float) -> Motion:
    """The motion at another frame rate; a loop is repeated in whole periods to at least some duration."""
    clip = resample(motion, fps)
    return resample(clip, fps, len(clip) * max(1, math.ceil(seconds / clip.seconds))) if motion.loops else clip


def in_place(motion: Motion) -> Motion:
    """The motion with the horizontal path of the pelvis removed; heights stay."""
    keep_height = motion.pelvis.new_tensor([0.0, 1.0, 0.0])
    return replace(motion, pelvis=motion.pelvis * keep_height)


def facing_front(motion: Motion) -> Motion:
    """The motion turned about the vertical axis so that the body faces +z on average, and starting above the origin.

    A motion that turns in all directions faces +z in its first frame.
    """
    headings = axis_angle_to_matrix(motion.global_orient.double())[..., 2] * torch.tensor([1.0, 0.0, 1.0])
    mean = headings.mean(0)
    if mean.norm() < MIN_HEADING:
        mean = headings[0]
    angle = -torch.atan2(mean[0], mean[2])
    R = axis_angle_to_matrix(torch.stack([0 * angle, angle, 0 * angle]))
    start = motion.pelvis[0].double() * torch.tensor([1.0, 0.0, 1.0])
    return replace(
        motion,
        global_orient=matrix_to_axis_angle(R @ axis_angle_to_matrix(motion.global_orient.double())).to(motion.pelvis),
        pelvis=((motion.pelvis.double() - start) @ R.mT).to(motion.pelvis),
    )


def leg_length(body: BodyModel, betas: Float[Tensor, " S"]) -> float:
    """Metres from hip over knee to ankle in the rest pose of a shape."""
    joints = body.rest_joints(body.shape_vertices(betas.to(body.v_template)))[list(LEG_JOINTS)]
    return float((joints[1:] - joints[:-1]).norm(dim=-1).sum())


@torch.no_grad()
def apply_motion(motion: Motion, body: BodyModel, betas: Float[Tensor, " S"], scale: float = 1.0) -> BodyParams:
    """Poses [T] of a body: y up, the floor at y = 0, on the device of the body.

    The path of the pelvis is scaled by the ratio of leg lengths. The whole clip is moved vertically by one amount, so
    that the 5th percentile of the lowest points of all frames touches the floor: feet slide no more than in the source,
    and a jump stays a jump.

    Args:
        motion: The motion.
        body: The body that moves.
        betas: Its shape.
        scale: Its scale.
    """
    device = body.v_template.device
    motion = motion.to(device, body.v_template.dtype)
    betas = betas.to(motion.pelvis)
    ratio = scale
    if motion.leg_length > 0:
        ratio = scale * leg_length(body, betas) / motion.leg_length
    rest_pelvis = body.rest_joints(body.shape_vertices(betas))[0]
    params = BodyParams(
        betas=betas.expand(len(motion), -1),
        global_orient=motion.global_orient,
        body_pose=motion.body_pose,
        transl=ratio * motion.pelvis - scale * rest_pelvis,
        scale=motion.pelvis.new_full((len(motion),), scale),
    )
    lowest = torch.cat([body(some).vertices[..., 1].amin(-1) for some in _portions(params)])
    floor = torch.quantile(lowest, 0.05)
    return replace(params, transl=params.transl - torch.stack([0 * floor, floor, 0 * floor]))


def _portions(params: BodyParams) -> list[BodyParams]:
    return [params[i : i + FRAMES_PER_CALL] for i in range(0, len(params.scale), FRAMES_PER_CALL)]
