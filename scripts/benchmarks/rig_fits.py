"""Fits from some cameras of a real, calibrated rig against the fit from all: what `measure_fits.py --rig` prints."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from core.capture.bodies import turned_bodies
from core.capture.options import PrepareOptions
from core.capture.prepare import prepare_capture
from scripts.benchmarks.fit_metrics import aligned_distance, distance, scaled_distance
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting import FitOptions, FitResult, Observations, fit_bodies
from smpl_renderer.fitting.quality import mask_ious
from smpl_renderer.fitting.weights import Weights
from smpl_renderer.types import BodyParams

RIG_METRICS = {
    "cameras": "numbers of the cameras used, from 1",
    "raw": "mean distance of vertices from the fit of all cameras, mm",
    "depth": "after one factor on all positions of all frames, about the camera, mm",
    "PA": "after a similarity transform of each frame (Procrustes), mm",
    "mask IoU": "of the body and the masks of the cameras used",
    "held-out IoU": "of the body and the masks of the other cameras",
    "s/frame": "seconds of the fit per frame",
}


@dataclass(frozen=True)
class RigScene:
    """Observations of a rig as a capture's preparation makes them, and the fit from all cameras."""

    observations: Observations
    everything: FitResult
    seconds: float
    """Seconds of that fit."""


def read_rig(folder: Path, frames: int, device: str, weights: Weights = Weights()) -> RigScene:
    """Prepare a folder with a video per camera and a calibration, and keep what the fit was given.

    Args:
        folder: Folder of the rig, as `scripts/prepare_capture.py` takes it.
        frames: Number of frames to choose.
        device: Device of the fits.
    """
    scenes: list[RigScene] = []

    def fit(observations: Observations, body: BodyModel, options: FitOptions, *rest) -> FitResult:
        start = time.perf_counter()
        result = fit_bodies(observations, body, options, *rest, weights=weights)
        scenes.append(RigScene(observations, result, time.perf_counter() - start))
        return result

    with TemporaryDirectory() as scratch:
        options = PrepareOptions(frames=frames, device=device)
        prepare_capture(folder, Path(scratch) / "capture", options, fit=fit)
    return scenes[0]


def measure_rig(scene: RigScene, options: FitOptions = FitOptions(), weights: Weights = Weights()) -> Iterator[dict]:
    """Rows of `RIG_METRICS`: each camera alone, then the first two, three, ... cameras, then all."""
    count = scene.observations.num_cameras
    body = load_body(STANDIN_BODY)
    for chosen in [[c] for c in range(count)] + [list(range(n)) for n in range(2, count)]:
        start = time.perf_counter()
        params = fit_from(scene.observations, chosen, body, options, weights)
        yield _row(scene, params, chosen, time.perf_counter() - start, body)
    yield _row(scene, scene.everything.params, list(range(count)), scene.seconds, body)


def fit_from(
    observations: Observations, cameras: list[int], body: BodyModel, options: FitOptions, weights: Weights
) -> BodyParams:
    """Bodies fitted to some of the cameras, in the world of the rig, on the CPU.

    A single camera is treated as one of unknown pose, as in a video: its frame is the world, gravity is estimated.
    """
    seen = some_cameras(observations, cameras)
    device = seen.Ks.device
    if len(cameras) > 1:
        result = fit_bodies(seen, body.to(device), replace(options, same_pose=0.0), weights=weights)
        return result.params.to(torch.device("cpu"))
    viewmat = seen.viewmats[0].double().cpu().numpy()
    seen = replace(seen, viewmats=torch.eye(4, device=device)[None], up=None)
    params = fit_bodies(seen, body.to(device), options, weights=weights).params
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    return turned_bodies(params, body.to(torch.device("cpu")), R.T, -R.T @ t).to(torch.float32)


def some_cameras(observations: Observations, cameras: list[int]) -> Observations:
    """Observations of some of the cameras."""
    picked = {name: getattr(observations, name)[cameras] for name in ("Ks", "viewmats", "image_sizes")}
    for name in ("landmarks", "visibility", "world_landmarks"):
        value = getattr(observations, name)
        picked[name] = None if value is None else value[:, cameras]
    masks = observations.silhouettes
    return replace(observations, **picked, silhouettes=None if masks is None else masks.map(lambda x: x[:, cameras]))


@torch.no_grad()
def _row(scene: RigScene, params: BodyParams, cameras: list[int], seconds: float, body: BodyModel) -> dict:
    cpu = torch.device("cpu")
    observations, body = scene.observations.to(cpu), body.to(cpu)
    a, b = body(params.to(cpu)).vertices, body(scene.everything.params.to(cpu)).vertices
    ious = mask_ious(params.to(cpu), body, observations)
    others = [c for c in range(observations.num_cameras) if c not in cameras]
    depth = None
    if len(cameras) == 1:
        center = torch.linalg.inv(observations.viewmats[cameras[0]])[:3, 3]
        depth = 1000 * float(scaled_distance(a - center, b - center))
    return {
        "cameras": " ".join(str(c + 1) for c in cameras),
        "raw": 1000 * float(distance(a, b)),
        "depth": depth,
        "PA": 1000 * float(aligned_distance(a, b)),
        "mask IoU": float(ious[:, cameras].nanmean()),
        "held-out IoU": float(ious[:, others].nanmean()) if others else None,
        "s/frame": seconds / observations.num_frames,
    }
