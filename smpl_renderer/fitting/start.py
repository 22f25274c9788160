"""The variables that a fit starts from."""

from dataclasses import replace

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting.initial import (
    LIMB_MARKS,
    TRUNK_MARKS,
    initial_rotations,
    place_by_landmarks,
    relaxed_rotations,
    triangulate,
)
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.surface import spread_vertices
from smpl_renderer.fitting.targets import Targets
from smpl_renderer.fitting.variables import Variables

NECK, LEFT_ANKLE, RIGHT_ANKLE = (JOINT_NAMES.index(name) for name in ("neck", "left_ankle", "right_ankle"))
LIFT_ANGLES = 8
"""Headings that are tried where landmarks have no depth."""


@torch.no_grad()
def start_from_landmarks(
    observations: Observations, targets: Targets, body: BodyModel, options: FitOptions
) -> tuple[Variables, Bool[Tensor, " F"]]:
    """Bodies from the landmarks; also which frames had landmarks with depth.

    Other frames take the pose of those around them, or a relaxed one if there are none.
    """
    points, lifted = _points_3d(observations, targets)
    rotations = relaxed_rotations(body, observations.num_frames)
    rotations[:, 0] = _upright_root(observations)
    if lifted.any():
        rotations[lifted] = initial_rotations(body, targets.table, points[lifted])
        rotations = _interpolate(rotations, lifted)
    return place(rotations, observations, targets, body, options), lifted


@torch.no_grad()
def place(
    rotations: Float[Tensor, "F J 3 3"],
    observations: Observations,
    targets: Targets,
    body: BodyModel,
    options: FitOptions,
    betas: Float[Tensor, " S"] | None = None,
) -> Variables:
    """Variables with these joint rotations, placed by the landmarks, or by the masks where there are none."""
    zero = rotations.new_zeros(len(rotations), 3)
    betas = rotations.new_zeros(body.num_betas) if betas is None else betas
    bodies = Pose(rotations, zero, betas, rotations.new_tensor(options.scale or 1.0))
    model = PointModel(body, spread_vertices(body, 300), targets.table)
    marks, weights = model(bodies).landmarks, targets.landmark_weights
    transl = place_by_landmarks(marks, targets.landmarks, weights, targets.Ks, targets.viewmats)
    placed = (weights > 0).sum((1, 2)) >= 4
    if not placed.all():
        transl = _fill_places(transl, placed, model(bodies).points.mean(1), observations)
    bodies = replace(bodies, transl=transl)
    return start_from_bodies(bodies, observations, model, options)


@torch.no_grad()
def start_from_bodies(bodies: Pose, observations: Observations, model: PointModel, options: FitOptions) -> Variables:
    """Variables with these bodies, gravity from their trunks, and the ground under their feet."""
    posed = model(bodies)
    if observations.up is not None:
        up = observations.up[None].expand(len(posed.points) if options.moving_camera else 1, 3)
    else:
        trunk = posed.joints[:, NECK] - posed.joints[:, [LEFT_ANKLE, RIGHT_ANKLE]].mean(1)
        R = observations.viewmats[0, :3, :3]
        trunk = (trunk @ R.T * trunk.new_tensor([0.2, 1.0, 1.0])) @ R  # images are rarely rolled
        up = normalize(trunk, dim=-1)
        if not options.moving_camera:
            up = normalize(up.median(0, keepdim=True).values, dim=-1)
    floor = posed.points @ up[..., None] if len(up) == 1 else (posed.points * up[:, None]).sum(-1, keepdim=True)
    floor = floor[..., 0].min(1).values
    return Variables.start(bodies, up, floor if options.moving_camera else floor.median()[None])


def turned_starts(x: Variables, observations: Observations, targets: Targets, body: BodyModel, options: FitOptions):
    """The same bodies turned about the vertical to several headings, each placed by the landmarks."""
    starts = []
    for k in range(LIFT_ANGLES):
        turn = roma.rotvec_to_rotmat(x.unit_up() * (2 * torch.pi * k / LIFT_ANGLES))
        rotations = x.bodies().rotations.clone()
        rotations[:, 0] = turn @ rotations[:, 0]
        starts.append(place(rotations, observations, targets, body, options))
    return starts


def _points_3d(observations: Observations, targets: Targets) -> tuple[Float[Tensor, "F L 3"], Bool[Tensor, " F"]]:
    """Landmarks in world axes, of any origin and scale, and in which frames they can be used."""
    weights = targets.landmark_weights
    points = weights.new_zeros(*weights.shape[::2], 3)
    usable = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    if observations.world_landmarks is not None:
        world = observations.world_landmarks
        has_depth = world.isfinite().all(-1) & (world.abs().sum(-1) > 0)
        trust = weights * has_depth
        world = torch.where(trust[..., None] > 0, world, 0.0)
        share = trust[..., None] / trust.sum(2, keepdim=True)[..., None].clamp_min(1e-9)
        centred = (world - (share * world).sum(2, keepdim=True)) @ observations.viewmats[:, :3, :3]
        trust = (trust + 1e-6 * has_depth)[..., None]  # hidden landmarks count where no camera sees them
        points = (trust * centred).sum(1) / trust.sum(1).clamp_min(1e-9)
        usable = (has_depth & (weights > 0)).sum(-1).amax(1) >= 8
    if observations.num_cameras > 1:
        found, valid = triangulate(targets.landmarks, weights, targets.Ks, targets.viewmats)
        names = [*TRUNK_MARKS, *(f"{side}_{stem}" for side in ("left", "right") for stem in LIMB_MARKS)]
        complete = valid[:, targets.table.index(*names)].all(1)
        points = torch.where(complete[:, None, None], found, points)
        usable = usable | complete
    return points, usable


def _upright_root(observations: Observations) -> Float[Tensor, "3 3"]:
    """A body that stands upright and faces the first camera."""
    R = observations.viewmats[0, :3, :3]
    up = -R[1] if observations.up is None else observations.up
    back = normalize(R[2] - (R[2] @ up) * up, dim=0)
    return torch.stack([torch.linalg.cross(up, -back), up, -back], -1)


def _interpolate(rotations: Float[Tensor, "F J 3 3"], known: Bool[Tensor, " F"]) -> Float[Tensor, "F J 3 3"]:
    """Rotations of unknown frames between those of the known ones around them."""
    frames = torch.arange(len(rotations), device=rotations.device, dtype=rotations.dtype)
    at = frames[known]
    after = torch.searchsorted(at, frames).clamp(max=len(at) - 1)
    before = (after - (at[after] > frames).long()).clamp_min(0)
    span = (at[after] - at[before]).clamp_min(1e-6)
    share = ((frames - at[before]) / span).clamp(0, 1)[:, None, None, None]
    pair = rotations[known]
    mixed = roma.special_procrustes((1 - share) * pair[before] + share * pair[after])
    return torch.where(known[:, None, None, None], rotations, mixed)


def _fill_places(
    transl: Float[Tensor, "F 3"],
    placed: Bool[Tensor, " F"],
    centres: Float[Tensor, "F 3"],
    observations: Observations,
) -> Float[Tensor, "F 3"]:
    """Translations of frames without landmarks: on the ray of the mask's centre, as far away as in frames around.

    Raises:
        ValueError: If no frame can be placed.
    """
    if not placed.any():
        raise ValueError("no frame has four landmarks; pass landmarks, or bodies to start from")
    frames = torch.arange(len(transl), device=transl.device)
    nearest = ((frames[:, None] - frames).abs() + 1e6 * ~placed).argmin(1)
    filled = transl[nearest] + centres[nearest] - centres
    masks = observations.silhouettes
    if masks is None:
        return torch.where(placed[:, None], transl, filled)
    # One camera with a mask suffices, as the depth is taken from another frame.
    camera = masks.present.float().argmax(1)
    R, t, K = (x[camera] for x in (observations.viewmats[:, :3, :3], observations.viewmats[:, :3, 3], observations.Ks))
    at = (R @ (filled + centres)[..., None])[..., 0] + t
    window = masks.windows[frames, camera]
    pixel = window[:, :2] + window[:, 2:] / 2
    lateral = (pixel - K[:, :2, 2]) / torch.stack([K[:, 0, 0], K[:, 1, 1]], -1) * at[:, 2:]
    moved = (R.mT @ (torch.cat([lateral, at[:, 2:]], -1) - t)[..., None])[..., 0] - centres
    by_mask = masks.present.any(1) & ~placed
    filled = torch.where(by_mask[:, None], moved, filled)
    return torch.where(placed[:, None], transl, filled)
