"""Fit bodies to what cameras saw of one person."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.energy import Energy, Weights, spread_vertices
from smpl_renderer.fitting.initial import fill_missing, initial_rotations, place_by_landmarks, triangulate
from smpl_renderer.fitting.observations import Observations
from smpl_renderer.fitting.options import FitOptions
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.projection import pixel_sizes
from smpl_renderer.fitting.result import FitResult
from smpl_renderer.fitting.solver import minimise
from smpl_renderer.fitting.targets import Targets, prepare_targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.types import BodyParams

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with the steps done, the steps in all, and the current value of each energy term."""


def fit_bodies(
    observations: Observations,
    body: BodyModel,
    options: FitOptions = FitOptions(),
    on_step: OnStep | None = None,
    initial: BodyParams | None = None,
    weights: Weights = Weights(),
) -> FitResult:
    """Fit one shape and scale, and a pose per frame."""
    targets = prepare_targets(observations)
    with torch.no_grad():
        x = _start(observations, targets, body, options)
    frames = observations.num_frames
    names = ("root", "pose", "transl", "betas", "up", "floor")
    coarse, fine = spread_vertices(body, 600), spread_vertices(body, 1500)
    for ids, steps, rate, silhouettes in ((coarse, 80, 1.5, False), (coarse, 150, 1.0, True), (fine, 120, 0.5, True)):
        sizes = pixel_sizes(x.transl, targets.Ks, targets.viewmats)
        energy = Energy(targets, body, ids, weights, sizes, observations.times)
        x = minimise(x, energy, steps, names, rate=rate, silhouettes=silhouettes)
    params = x.bodies().to_params()
    return FitResult(params, x.unit_up(), x.floor.expand(frames), (), ())


def _start(observations: Observations, targets: Targets, body: BodyModel, options: FitOptions) -> Variables:
    frames = observations.num_frames
    seen = (targets.landmark_weights > 0).any(-1)  # [F, C]
    if observations.num_cameras > 1:
        points, _ = triangulate(targets.landmarks, targets.landmark_weights, targets.Ks, targets.viewmats)
    else:
        R = observations.viewmats[0, :3, :3]
        points = observations.world_landmarks[:, 0] @ R
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


def _ground(model: PointModel, bodies: Pose, observations: Observations, options: FitOptions) -> tuple[Tensor, Tensor]:
    posed = model(bodies)
    if observations.up is not None:
        up = observations.up[None]
    else:
        trunk = posed.joints[:, 12] - posed.joints[:, [7, 8]].mean(1)
        R = observations.viewmats[0, :3, :3]
        trunk = trunk @ R.T * trunk.new_tensor([0.2, 1.0, 1.0]) @ R  # images are rarely rolled
        up = torch.nn.functional.normalize(trunk, dim=-1)
        if not options.moving_camera:
            up = torch.nn.functional.normalize(up.median(0, keepdim=True).values, dim=-1)
    floor = (posed.points @ up[..., None])[..., 0].min(1).values
    if not options.moving_camera:
        floor = floor.median()[None]
    return up, floor
