"""The variables that a fit starts from."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting.initial import fill_missing, initial_rotations, place_by_landmarks, triangulate
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.targets import Targets
from smpl_renderer.fitting.variables import Variables


@torch.no_grad()
def start_variables(observations: Observations, targets: Targets, body: BodyModel, options: FitOptions) -> Variables:
    """Bodies from the landmarks, gravity from the trunks, the ground under the feet."""
    frames = observations.num_frames
    seen = (targets.landmark_weights > 0).any(-1)  # [F, C]
    if observations.num_cameras > 1:
        points, _ = triangulate(targets.landmarks, targets.landmark_weights, targets.Ks, targets.viewmats)
    else:
        points = observations.world_landmarks[:, 0] @ observations.viewmats[0, :3, :3]
    points = fill_missing(points, seen.any(1))
    rotations = initial_rotations(body, targets.table, points)
    zero = points.new_zeros(frames, 3)
    bodies = Pose(rotations, zero, points.new_zeros(body.num_betas), points.new_tensor(1.0))
    model = PointModel(body, torch.arange(0, body.num_vertices, 20), targets.table)
    marks = model(bodies).landmarks
    transl = place_by_landmarks(marks, targets.landmarks, targets.landmark_weights, targets.Ks, targets.viewmats)
    bodies = replace(bodies, transl=fill_missing(transl, seen.any(1)))
    up, floor = _ground(model, bodies, observations, options)
    return Variables.start(bodies, up, floor)


def _ground(
    model: PointModel, bodies: Pose, observations: Observations, options: FitOptions
) -> tuple[Float[Tensor, "G 3"], Float[Tensor, " G"]]:
    posed = model(bodies)
    if observations.up is not None:
        up = observations.up[None]
    else:
        neck, left, right = (JOINT_NAMES.index(name) for name in ("neck", "left_ankle", "right_ankle"))
        trunk = posed.joints[:, neck] - posed.joints[:, [left, right]].mean(1)
        R = observations.viewmats[0, :3, :3]
        trunk = trunk @ R.T * trunk.new_tensor([0.2, 1.0, 1.0]) @ R  # images are rarely rolled
        up = torch.nn.functional.normalize(trunk, dim=-1)
        if not options.moving_camera:
            up = torch.nn.functional.normalize(up.median(0, keepdim=True).values, dim=-1)
    floor = (posed.points @ up[..., None])[..., 0].min(1).values
    if not options.moving_camera:
        floor = floor.median()[None]
    return up, floor
