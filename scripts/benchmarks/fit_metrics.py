"""Errors of fitted bodies against the true ones."""

from dataclasses import replace

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from scripts.benchmarks.fit_scenes import FitScene
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting import FitResult
from smpl_renderer.fitting.quality import mask_ious, window_silhouettes
from smpl_renderer.rotations import axis_angle_to_matrix

METRICS = {
    "raw": "mean vertex error, mm",
    "depth": "after one factor on all positions of all frames, about the camera, mm",
    "PA": "after a similarity transform of each frame (Procrustes), mm",
    "elbow": "error of the elbow's rotation, degrees",
    "knee": "error of the knee's rotation, degrees",
    "upper arm": "error of its direction, degrees",
    "forearm": "error of its direction, degrees",
    "leg": "error of thighs' and shanks' directions, degrees",
    "root": "error of the root's rotation, degrees",
    "body IoU": "of the silhouettes of the fitted and the true body",
    "mask IoU": "of the fitted body and the true mask",
    "true IoU": "of the true body and the true mask",
    "gravity": "error of its direction, degrees",
}


@torch.no_grad()
def fit_errors(result: FitResult, scene: FitScene, body: BodyModel) -> dict[str, float | None]:
    """All `METRICS` of a fit, on the CPU."""
    fit, true = result.params, scene.truth
    posed, truth = body(fit), body(true)
    observations = scene.observations
    one_camera = observations.num_cameras == 1
    rotations = _degrees(*(axis_angle_to_matrix(p.body_pose.unflatten(1, (-1, 3))) for p in (fit, true)))
    bodies = [
        window_silhouettes(p, body, observations.Ks, observations.viewmats, scene.true_masks.windows, 128)
        for p in (fit, true)
    ]
    both, either = (bodies[0] & bodies[1]).sum((-1, -2)), (bodies[0] | bodies[1]).sum((-1, -2))
    masked = [mask_ious(p, body, replace(observations, silhouettes=scene.true_masks)).nanmean() for p in (fit, true)]
    values = {
        "raw": 1000 * distance(posed.vertices, truth.vertices),
        "depth": 1000 * scaled_distance(posed.vertices, truth.vertices) if one_camera else None,
        "PA": 1000 * aligned_distance(posed.vertices, truth.vertices),
        "elbow": _mean_of(rotations, "elbow"),
        "knee": _mean_of(rotations, "knee"),
        "upper arm": _bone_error(posed.joints, truth.joints, ("shoulder", "elbow")),
        "forearm": _bone_error(posed.joints, truth.joints, ("elbow", "wrist")),
        "leg": (
            _bone_error(posed.joints, truth.joints, ("hip", "knee"))
            + _bone_error(posed.joints, truth.joints, ("knee", "ankle"))
        )
        / 2,
        "root": _degrees(axis_angle_to_matrix(fit.global_orient), axis_angle_to_matrix(true.global_orient)).mean(),
        "body IoU": (both / either.clamp_min(1)).mean(),
        "mask IoU": masked[0],
        "true IoU": masked[1],
        "gravity": torch.rad2deg((result.up @ scene.up).clamp(-1, 1).arccos()).mean() if one_camera else None,
    }
    return {name: None if value is None else float(value) for name, value in values.items()}


def distance(a: Float[Tensor, "F V 3"], b: Float[Tensor, "F V 3"]) -> Tensor:
    return (a - b).norm(dim=-1).mean()


def scaled_distance(a: Float[Tensor, "F V 3"], b: Float[Tensor, "F V 3"]) -> Tensor:
    """Distance after scaling about the camera, a factor that one camera cannot observe."""
    return distance((a * b).sum() / (a * a).sum() * a, b)


def aligned_distance(a: Float[Tensor, "F V 3"], b: Float[Tensor, "F V 3"]) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    covariance = b.mT @ a
    rotation = roma.special_procrustes(covariance)
    scale = (rotation * covariance).sum((1, 2)) / a.square().sum((1, 2))
    return distance(scale[:, None, None] * (a @ rotation.mT), b)


def _degrees(a: Float[Tensor, "*batch 3 3"], b: Float[Tensor, "*batch 3 3"]) -> Tensor:
    return torch.rad2deg(roma.rotmat_geodesic_distance(a, b))


def _mean_of(rotations: Float[Tensor, "F 23"], joint: str) -> Tensor:
    return rotations[:, [JOINT_NAMES.index(f"{side}_{joint}") - 1 for side in ("left", "right")]].mean()


def _bone_error(a: Float[Tensor, "F J 3"], b: Float[Tensor, "F J 3"], bone: tuple[str, str]) -> Tensor:
    errors = []
    for side in ("left", "right"):
        start, end = (JOINT_NAMES.index(f"{side}_{joint}") for joint in bone)
        cosine = (normalize(a[:, end] - a[:, start], dim=-1) * normalize(b[:, end] - b[:, start], dim=-1)).sum(-1)
        errors.append(torch.rad2deg(cosine.clamp(-1, 1).arccos()))
    return torch.stack(errors).mean()
