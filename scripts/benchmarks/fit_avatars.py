"""Avatars from body fits, seen by other cameras: what `measure_avatars.py` prints."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.capture.bodies import turned_bodies
from core.data.capture import Capture
from core.data.dataset import load_frames
from core.data.readers import open_capture
from core.inference.aligned_inputs import align_inputs
from core.inference.evaluation import MetricSuite
from core.inference.report import mean_metrics
from core.inference.session import Session
from core.inference.subject import make_avatar
from core.types.cameras import Cameras, look_at
from core.types.frames import Frames
from scripts.benchmarks.fit_scenes import UP, load_scene, scene_options
from scripts.synthetic.capture import write_capture
from scripts.synthetic.drawing import draw_views
from scripts.synthetic.fits import perturb_fits
from scripts.synthetic.options import CaptureOptions, default_frames
from scripts.synthetic.seeding import random_stream
from scripts.synthetic.staging import stage
from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting import FitOptions, fit_bodies
from smpl_renderer.rotations_numpy import rotation_between
from smpl_renderer.types import BodyParams

KINDS = ("phone", "rig4", "noise4")
"""Own fits of one still camera and of 4 calibrated cameras (`fit_scenes.py`); true fits with noise in 4 cameras."""
NOISE = 0.02
"""Deviation of the noise in `noise4`, radians (`scripts/synthetic/fits.perturb_fits`)."""
TARGET_SIZE, TARGET_CAMERAS, TARGET_FRAMES = 256, 4, 4
"""Images of other cameras, between the directions of front, left, back and right."""
DISTANCE, WIDTH = 2.6, 2.3
"""Distance of those cameras from the pelvis, and what they see at that distance, in metres."""


@dataclass(frozen=True)
class AvatarScene:
    """A capture on disk, its true fits, the fits to make the avatar from, and images of other cameras."""

    folder: Path
    truth: BodyParams
    """True fits [F], raw world."""
    fits: BodyParams
    """Fits [F], raw world."""
    up: Float[np.ndarray, "3"]
    """Direction against gravity as the fits have it, raw world."""
    targets: Frames
    """Other cameras [T, C] and their images, raw world, with the true bodies."""
    target_frames: list[int]
    """Positions of the target frames among the F."""


def capture_options(kind: str, seed: int) -> CaptureOptions:
    """Options of the synthetic captures of a kind."""
    if kind == "noise4":
        options = CaptureOptions(seed, "fits", rig="24", cameras=4, frames=default_frames(10)[:8])
    else:
        options = scene_options(kind, seed)
    return replace(options, format="capture")


def load_avatar_scene(kind: str, index: int, body: BodyModel, folder: Path, fit_scenes: Path, seed: int) -> AvatarScene:
    """One subject of a kind, drawn and fitted at first use, from `folder` afterwards.

    Args:
        kind: One of `KINDS`.
        index: Index of the subject.
        body: Body model, on the CPU.
        folder: Folder of captures, targets and fits.
        fit_scenes: Folder of the scenes of `measure_fits.py`, whose fits are made here with true masks.
        seed: Seed of all subjects.
    """
    options = capture_options(kind, seed)
    path = folder / f"{kind}_{seed}_{index:03d}"
    if not path.is_dir():
        write_capture(path, index, options, body=body)
    capture = open_capture(path)
    truth = BodyParams.stack([capture.fit(frame, body) for frame in options.frames]).to(torch.float32)
    targets = _stored(path.with_name(f"{path.name}_targets.npz"), lambda: _draw_targets(index, options, body))
    if kind == "noise4":
        rng = random_stream(seed, options.split, index, "fit")
        fits, up = perturb_fits(truth, options.frames, NOISE, rng), np.array(UP)
    else:
        stored = path.with_name(f"{path.name}_fits.npz")
        arrays = _stored(stored, lambda: _fit(kind, index, body, fit_scenes, seed, capture))
        up = arrays.pop("up").numpy()
        fits = BodyParams(**arrays)
    frames = targets.pop("frames").tolist()
    cameras = Cameras(targets["viewmats"], targets["Ks"], TARGET_SIZE, TARGET_SIZE)
    images, alphas = (targets[name].float() / 255 for name in ("images", "alphas"))
    return AvatarScene(path, truth, fits, up, Frames(images, alphas, cameras, truth[frames]), frames)


def _stored(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Tensor]:
    """Arrays of a file that is made at first use."""
    if not path.is_file():
        arrays = make()
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **{name: np.asarray(x) for name, x in arrays.items()})
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@torch.no_grad()
def _draw_targets(index: int, options: CaptureOptions, body: BodyModel) -> dict[str, Tensor]:
    """Images of some frames in other cameras, on white, without noise."""
    staged = stage(index, options, body)
    front = staged.rig.cameras().centers[0]
    frames = list(range(0, len(options.frames), max(1, len(options.frames) // TARGET_FRAMES)))
    rows = []
    for frame in frames:
        cameras = _other_cameras(staged.posed.joints[frame, 0], front)
        scene = staged.scene
        colors, alphas = draw_views(scene, scene.pose(staged.posed[frame]), cameras, options.samples)
        images = (colors + 1 - alphas[..., None]).movedim(-1, -3)
        eight_bit = [(255 * x).round().to(torch.uint8) for x in (images, alphas[:, None])]
        rows.append((*eight_bit, cameras.viewmats, cameras.Ks))
    names = ("images", "alphas", "viewmats", "Ks")
    return {name: torch.stack([row[k] for row in rows]) for k, name in enumerate(names)} | {
        "frames": torch.tensor(frames)
    }


def _other_cameras(pelvis: Float[Tensor, "3"], front: Float[Tensor, "3"]) -> Cameras:
    direction = front - pelvis
    azimuths = torch.atan2(direction[1], direction[0]) + 2 * math.pi * (torch.arange(TARGET_CAMERAS) + 0.5) / (
        TARGET_CAMERAS
    )
    offsets = torch.stack([DISTANCE * azimuths.cos(), DISTANCE * azimuths.sin(), torch.full_like(azimuths, -0.35)], -1)
    viewmats = look_at(pelvis + offsets, pelvis.expand_as(offsets), torch.tensor(UP))
    half, focal = TARGET_SIZE / 2, TARGET_SIZE * DISTANCE / WIDTH
    K = torch.tensor([[focal, 0.0, half], [0.0, focal, half], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, K.repeat(TARGET_CAMERAS, 1, 1), TARGET_SIZE, TARGET_SIZE)


def _fit(
    kind: str, index: int, body: BodyModel, fit_scenes: Path, seed: int, capture: Capture
) -> dict[str, Tensor | np.ndarray]:
    """Own fits in the raw world, and their direction against gravity."""
    scene = load_scene(kind, index, body, fit_scenes, seed, "full", True)
    result = fit_bodies(scene.observations, body, FitOptions(same_pose=float(kind == "phone")))
    params, up = result.params, result.up.mean(0)
    if kind == "phone":  # fitted in the camera's frame
        viewmat = capture.cameras(capture.camera_names).viewmats[0]
        R, t = viewmat[:3, :3].T, viewmat[:3, 3]
        params = turned_bodies(params, body, R.numpy(), (-R @ t).numpy())
        up = R.to(up) @ up
    return {name: x.detach().float() for name, x in vars(params).items()} | {"up": up.detach()}


@dataclass(frozen=True)
class Made:
    """An avatar, and the fits that its inputs had in the end."""

    avatar: Avatar
    fits: BodyParams
    """In the raw world."""
    seconds: float
    """Duration of the alignment."""
    report: dict[str, float]


def make_from(session: Session, scene: AvatarScene, fits: BodyParams, up: Float[np.ndarray, "3"], align: bool) -> Made:
    """Make an avatar of the scene's images from fits [F], in a world whose up axis is `up`."""
    body = session.body
    capture = open_capture(scene.folder)
    frame_ids, views = sorted(capture.fits), capture.camera_names[:4]
    level = torch.eye(4, dtype=torch.float64)
    level[:3, :3] = torch.from_numpy(rotation_between(np.asarray(up, float), np.array(UP)))
    turned = turned_bodies(fits, body, level[:3, :3].numpy())
    viewmats = {name: capture.camera(name).viewmat @ level.T for name in views}
    capture.correct({frame: turned[i] for i, frame in enumerate(frame_ids)}, viewmats, body.fingerprint)
    arguments = (frame_ids, views, views[0], session.input_size, session.input_crop)
    inputs = load_frames(capture, body, *arguments, check=False).to(session.device)
    seconds, report = 0.0, {}
    if align:
        start = time.perf_counter()
        aligned = align_inputs(session, inputs, capture, frame_ids, views)
        seconds, report, inputs = time.perf_counter() - start, aligned.report, aligned.inputs
    avatar = make_avatar(session, inputs)
    corrected = BodyParams.stack([capture.fit(frame, body) for frame in frame_ids])
    return Made(avatar, turned_bodies(corrected, body, level[:3, :3].T.numpy()).to(torch.float32), seconds, report)


@torch.no_grad()
def score(session: Session, scene: AvatarScene, made: Made, suite: MetricSuite) -> dict[str, dict[str, float | None]]:
    """Metrics of the other cameras' images by the bodies that drive the avatar, and the fits' errors.

    `true`: true fits. `own`: the fits of the inputs; those of one camera after one factor on all positions about it,
    which it does not show.
    """
    body, frames = session.body, scene.target_frames
    own, true = (fits.to(body.v_template) for fits in (made.fits, scene.truth))
    capture = open_capture(scene.folder)
    if len(capture.camera_names) == 1:
        own = with_right_depth(own, true, capture.cameras(capture.camera_names).centers[0], body)
    results = {}
    for name, params in (("true", true), ("own", own)):
        rows = []
        for i, frame in enumerate(frames):
            target = scene.targets[i].to(session.device)
            supersample = session.supersampling(TARGET_SIZE)
            rendering = render_avatar(
                made.avatar,
                body,
                params[frame][None],
                target.cameras[None],
                backend=session.backend,
                supersample=supersample,
            )
            rows += suite(rendering.colors[0], target)
        results[name] = mean_metrics(rows)
    results["fit"] = {"mm": 1000 * (body(own).vertices - body(true).vertices).norm(dim=-1).mean().item()}
    return results


def with_right_depth(fits: BodyParams, truth: BodyParams, center: Float[Tensor, "3"], body: BodyModel) -> BodyParams:
    """Fits [F] of one camera, scaled by one factor about its centre to be nearest to the truth."""
    center = center.to(fits.transl)
    a, b = (body(p).vertices - center for p in (fits, truth))
    factor = (a * b).sum() / (a * a).sum()
    return replace(fits, scale=factor * fits.scale, transl=factor * (fits.transl - center) + center)


def measure_subject(
    session: Session, scene: AvatarScene, suite: MetricSuite
) -> Iterator[tuple[str, Made, dict[str, dict[str, float | None]]]]:
    """The avatar from true fits, from the scene's fits, and from these with alignment, one after another."""
    variants = (
        ("true fits", scene.truth, np.array(UP), False),
        ("fits", scene.fits, scene.up, False),
        ("aligned", scene.fits, scene.up, True),
    )
    for name, fits, up, align in variants:
        made = make_from(session, scene, fits, up, align)
        yield name, made, score(session, scene, made, suite)
