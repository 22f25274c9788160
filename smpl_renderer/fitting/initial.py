"""Bodies to start a fit from.

Landmarks become points in 3D, the trunk is aligned to them, limbs follow in closed form, and positions by linear least
squares.
"""

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.landmarks import LandmarkTable
from smpl_renderer.fitting.limbs import LIMBS, two_bone_rotations
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.pose_prior import load_pose_prior, part_joints
from smpl_renderer.rotations import axis_angle_to_matrix

TRUNK_MARKS = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
LIMB_MARKS = ("elbow", "wrist", "knee", "ankle")
_MARKS = {"arm": ("shoulder", "elbow", "wrist"), "leg": ("hip", "knee", "ankle")}


def triangulate(
    pixels: Float[Tensor, "F C L 2"],
    weights: Float[Tensor, "F C L"],
    Ks: Float[Tensor, "C 3 3"],
    viewmats: Float[Tensor, "C 4 4"],
    rounds: int = 3,
    sigma: float = 0.02,
) -> tuple[Float[Tensor, "F L 3"], Bool[Tensor, "F L"]]:
    """World points from two or more cameras, by linear least squares on the rays, reweighted against outliers.

    Args:
        pixels, weights: Detections; those of weight 0 do not count.
        Ks, viewmats: Matrices of the cameras.
        rounds: Number of reweightings.
        sigma: Distance from a ray, in metres, at which a detection counts half.
    Returns:
        The points, and where at least two cameras count.
    """
    R, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    rays = normalize(homogeneous @ torch.linalg.inv(Ks).mT @ R, dim=-1)  # in the world
    centres = -(R.mT @ t[..., None])[..., 0]
    across = torch.eye(3).to(rays) - rays[..., :, None] * rays[..., None, :]  # [F, C, L, 3, 3]
    toward = (across @ centres[:, None, :, None])[..., 0]
    used = weights
    for _ in range(rounds):
        A = (used[..., None, None] * across).sum(1) + 1e-6 * torch.eye(3).to(rays)
        points = torch.linalg.solve(A, (used[..., None] * toward).sum(1))
        away = (across @ (points[:, None] - centres[:, None])[..., None])[..., 0].square().sum(-1)
        used = weights / (1 + away / sigma**2)
    return points, (weights > 0.05).sum(1) >= 2


def initial_rotations(
    body: BodyModel, table: LandmarkTable, points: Float[Tensor, "F L 3"]
) -> Float[Tensor, "F J 3 3"]:
    """Joint rotations from landmarks in 3D, of any origin and scale: trunk by Procrustes, limbs by their directions.

    Args:
        body: With SMPL's joints.
        table: The landmarks' layout.
        points: 3D points in world axes.
    """
    frames = len(points)
    rest = PointModel(body, torch.zeros(1, dtype=torch.int64), table)
    rotations = torch.eye(3).to(points).repeat(frames, body.num_joints, 1, 1)
    transl, betas = points.new_zeros(frames, 3), points.new_zeros(body.num_betas)
    at_rest = rest(Pose(rotations, transl, betas, points.new_tensor(1.0)))
    chosen = table.index(*TRUNK_MARKS)
    source, target = at_rest.landmarks[:, chosen], points[:, chosen]
    covariance = (target - target.mean(1, keepdim=True)).mT @ (source - source.mean(1, keepdim=True))
    rotations[:, 0] = roma.special_procrustes(covariance)
    for limb in LIMBS:
        side, kind = limb.name.split()
        first, middle, last = points[:, table.index(*(f"{side}_{stem}" for stem in _MARKS[kind]))].unbind(1)
        bones = two_bone_rotations(limb, at_rest.joints[0], rotations[:, 0], middle - first, last - middle)
        rotations[:, limb.first], rotations[:, limb.middle] = bones
    return rotations


def relaxed_rotations(body: BodyModel, frames: int) -> Float[Tensor, "F J 3 3"]:
    """Joint rotations of a relaxed stance, the most likely pose of each limb; the root is not turned."""
    prior = load_pose_prior().to(body.v_template.device)
    pose = body.v_template.new_zeros(body.num_joints, 3)
    for part, side in (("arm", "left"), ("arm", "right"), ("leg", "left"), ("leg", "right"), ("trunk", "")):
        mixture = getattr(prior, part)
        mean = mixture.means[mixture.log_weights.argmax()].unflatten(0, (-1, 3))
        joints = [joint + 1 for joint in part_joints(part, side)]
        pose[joints] = mean * prior.mirror if side == "right" else mean
    return axis_angle_to_matrix(pose).repeat(frames, 1, 1, 1)


def place_by_landmarks(
    points: Float[Tensor, "F L 3"],
    pixels: Float[Tensor, "F C L 2"],
    weights: Float[Tensor, "F C L"],
    Ks: Float[Tensor, "C 3 3"],
    viewmats: Float[Tensor, "C 4 4"],
) -> Float[Tensor, "F 3"]:
    """Translations that bring points nearest to the rays of their detections: a linear problem.

    A projection u = (f x / z + c) gives two equations per landmark that are linear in the translation.
    """
    rays = (pixels - Ks[:, None, :2, 2]) @ torch.linalg.inv(Ks[:, :2, :2]).mT  # [F, C, L, 2], at depth 1
    R, t = viewmats[:, :3, :3], viewmats[:, :3, 3]
    base = points[:, None] @ R.mT + t[:, None]
    rows = R[None, :, None, :2] - rays[..., None] * R[None, :, None, 2:]  # [F, C, L, 2, 3]
    values = rays * base[..., 2:] - base[..., :2]
    scaled = weights[..., None, None] * rows
    A = (scaled.mT @ rows).sum((1, 2)) + 1e-8 * torch.eye(3).to(points)
    b = (scaled.mT @ values[..., None]).sum((1, 2))
    return torch.linalg.solve(A, b)[..., 0]
