"""Captures of synthetic people on disk, in MVHumanNet's layout."""

import json
import pickle
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from scripts.synthetic.camera_effects import expose, matte, sample_looks, sample_noise
from scripts.synthetic.drawing import Scene, draw_views, make_scene
from scripts.synthetic.fits import body_params, perturb_fits, write_fits
from scripts.synthetic.layout import STAMP, fit_file, picture_files, refit_file
from scripts.synthetic.options import GENERATOR_VERSION, CaptureOptions
from scripts.synthetic.people import person_surfaces, sample_person
from scripts.synthetic.rigs import Rig, make_rig
from scripts.synthetic.rooms import Backdrop, draw_room, sample_room
from scripts.synthetic.seeding import random_stream
from scripts.synthetic.surfaces import rest_body
from scripts.synthetic.turn import sample_turn
from scripts.synthetic.waves import constant
from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyOutput, BodyParams

MAX_UNWRITTEN = 64
"""Pictures that may wait for being written: a GPU draws faster than JPEGs are packed, and memory would fill up."""


def _stamp(index: int, options: CaptureOptions, body: BodyModel) -> dict:
    """What `body.json` holds: the body that the fits belong to, and what made the capture."""
    return {
        "fingerprint": body.fingerprint,
        "name": body.name,
        "generator": GENERATOR_VERSION,
        "person": index,
        "options": options.record(),
    }


def read_stamp(folder: Path) -> dict:
    """What made the capture in a folder; nothing if there is none, or no whole one."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_current(folder: Path, index: int, options: CaptureOptions, body: BodyModel) -> bool:
    """Whether a folder holds this very capture, whole."""
    return read_stamp(folder).items() >= _stamp(index, options, body).items()


def fits_beside(folder: Path, options: CaptureOptions, body: BodyModel) -> bool:
    """Whether a folder holds a capture that can be in one set with those of some options, whoever it shows."""
    stamp, expected = read_stamp(folder), _stamp(0, options, body)
    made_with = stamp.get("options", {})
    return all(stamp.get(key) == expected[key] for key in ("fingerprint", "generator")) and all(
        made_with.get(key) == expected["options"][key] for key in ("rig", "cameras", "frames")
    )


@dataclass(frozen=True)
class Staged:
    """A person in front of the cameras."""

    scene: Scene
    rig: Rig
    params: BodyParams
    """The true fits, raw world, batch axis over the capture's frames."""
    posed: BodyOutput
    """Bodies of these, on the CPU."""
    backdrops: dict[str, Backdrop] = field(default_factory=dict)
    """The room behind the subject by camera name; empty for other backgrounds."""


@torch.no_grad()
def stage(index: int, options: CaptureOptions, body: BodyModel, device: str = "cpu") -> Staged:
    """Everything about a capture that is the same for all of its pictures; arguments as in `write_capture`."""
    person = sample_person(body, options.seed, options.split, index)
    shape = rest_body(body, np.array(person.betas))
    surfaces = person_surfaces(person, shape, options.seed, options.split)
    rig = capture_rig(index, options)
    motion = person.motion
    if options.rig == "phone":
        motion = sample_turn(random_stream(options.seed, options.split, index, "turn"), options.frames)
    params = body_params(body, person, motion, options.frames, rig.front_azimuth)
    scene = make_scene(person, surfaces, torch.device(device))
    backdrops = {}
    if options.background in ("plain", "clutter"):
        rng = random_stream(options.seed, options.split, index, "room")
        room = sample_room(rng, options.split, person.light, rig, furnished=options.background == "clutter")
        backdrops = draw_room(room, rig, options.samples, scene.points.device)
    return Staged(scene, rig, params, body(params), backdrops)


def capture_rig(index: int, options: CaptureOptions) -> Rig:
    """The cameras of a person's capture."""
    rng = random_stream(options.seed, options.split, index, "rig")
    return make_rig(options.rig, options.width, options.height, rng, options.cameras)


def write_capture(folder: Path, index: int, options: CaptureOptions, *, body: BodyModel, device: str = "cpu") -> None:
    """Write one person's capture; the folder appears when it is whole.

    Args:
        folder: The subject's folder; its name is the subject's id.
        index: Which person of the seed and split.
        options: How it is made.
        body: On the CPU.
        device: Where pictures are drawn.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a run that was killed while it wrote this person
        shutil.rmtree(left, ignore_errors=True)
    staged = stage(index, options, body, device)
    fits = staged.params
    if options.fit_noise > 0:
        rng = random_stream(options.seed, options.split, index, "fit")
        fits = perturb_fits(fits, options.frames, options.fit_noise, rng)
    with atomic_path(folder) as target, ThreadPoolExecutor(2) as writers:
        target.mkdir()
        _write_cameras(target, staged.rig, long_center=index % 3 == 0)
        jobs = _write_pictures(target, staged, options, writers)
        write_fits(target, body, fits, options.frames, smpl_param=options.smpl_param, points=options.points)
        for job in jobs:
            job.result()
        if options.holes:
            _punch_holes(target, staged.rig, options)
        (target / STAMP).write_text(json.dumps(_stamp(index, options, body), indent=1))


def _write_cameras(folder: Path, rig: Rig, long_center: bool) -> None:
    intrinsics = {"intrinsics": rig.intrinsics.tolist(), "dist": []}
    (folder / "camera_intrinsics.json").write_text(json.dumps(intrinsics, indent=1))
    (folder / "camera_extrinsics.json").write_text(json.dumps(rig.extrinsics(long_center), indent=1))
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(rig.camera_scale, protocol=4))


def _write_pictures(folder: Path, staged: Staged, options, writers) -> list[Future]:
    for name in staged.rig.names:
        for file in picture_files(folder, name, options.frames[0]):
            file.parent.mkdir(parents=True)
    jobs = deque()
    for frame in options.frames:
        for names, colors, alphas in draw_pictures(staged, frame, options):
            for name, color, alpha in zip(names, colors, alphas):
                if len(jobs) == MAX_UNWRITTEN:
                    jobs.popleft().result()
                jobs.append(writers.submit(_write_view, folder, name, frame, color, alpha, options))
    return list(jobs)


@torch.no_grad()
def draw_pictures(
    staged: Staged, frame: int, options: CaptureOptions
) -> Iterator[tuple[tuple[str, ...], UInt8[np.ndarray, "C H W 3"], UInt8[np.ndarray, "C H W"]]]:
    """Draw one moment in all cameras of the rig: names of some of the cameras, pictures and masks, as files hold them.

    Args:
        staged: From `stage`, with these options.
        frame: Image id, one of the options'.
        options: How it is made.
    """
    scene, rig = staged.scene, staged.rig
    device, person = scene.points.device, scene.person
    stream = (options.seed, options.split, person.index)
    posed = staged.posed[options.frames.index(frame)]
    moment = scene.pose(BodyOutput(**{f.name: getattr(posed, f.name).to(device) for f in fields(BodyOutput)}))
    cameras = rig.cameras().to(device)
    # A GPU draws all cameras at once; a CPU one at a time, which stays in its cache.
    groups = [slice(None)] if device.type == "cuda" else [slice(i, i + 1) for i in range(len(rig.names))]
    for group in groups:
        names = rig.names[group]
        colors, alphas = draw_views(scene, moment, cameras[group], options.samples)
        box = _box(alphas)
        if staged.backdrops:
            # The room fills the image.
            walls = torch.stack([staged.backdrops[name].behind(posed.joints) for name in names])
            colors, box = colors + (1 - alphas[..., None]) * walls, torch.ones_like(box)
        elif options.background == "studio":
            colors = colors + (1 - alphas[..., None]) * _wall(person.light.background, *alphas.shape[1:], device)
        if options.camera_noise or options.soft_masks:
            looks = sample_looks(*stream, names, device)
            noise = sample_noise(*stream, names, frame)
            if options.camera_noise:
                colors = expose(colors, looks, noise.grain)
            if options.soft_masks:
                alphas = matte(alphas, looks, noise)
        # Black farther away, as in the released pictures.
        yield names, _bytes(colors * box[..., None]), _bytes(alphas)


def _bytes(values: Tensor) -> np.ndarray:
    return values.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def _wall(color: tuple[float, float, float], height: int, width: int, device) -> Float[Tensor, "H W 3"]:
    """The studio behind a person."""
    shade = torch.linspace(1.05, 0.8, height, device=device)[:, None, None]
    return (shade * constant(color, shade)).clamp(0, 1).expand(-1, width, -1)


def _box(alphas: Float[Tensor, "C H W"]) -> Bool[Tensor, "C H W"]:
    """The rectangle around the person in each picture, with a margin."""
    margin = alphas.shape[2] // 16
    rows, columns = alphas.amax(2) > 0, alphas.amax(1) > 0
    return _dilated(rows, margin)[:, :, None] & _dilated(columns, margin)[:, None, :]


def _dilated(marked: Tensor, margin: int) -> Tensor:
    """Everything between the first and the last marked place of each row, and `margin` more."""
    index = torch.arange(marked.shape[1], device=marked.device)
    first = torch.where(marked, index, marked.shape[1]).amin(1, keepdim=True)
    last = torch.where(marked, index, -1).amax(1, keepdim=True)
    return (index >= first - margin) & (index <= last + margin)


def _write_view(folder: Path, camera: str, frame: int, color, alpha, options: CaptureOptions) -> None:
    picture, mask = picture_files(folder, camera, frame)
    # Colours at full resolution: halved, as is usual, they would cost 3 dB. Progressive files are slow to read.
    how = {"quality": options.quality, "subsampling": 0, "optimize": True, "progressive": options.compact}
    Image.fromarray(color).save(picture, **how)
    Image.fromarray(alpha).save(mask, compress_level=9 if options.compact else 4)


def _punch_holes(folder: Path, rig: Rig, options: CaptureOptions) -> None:
    """Damage a capture as real ones are damaged."""
    for position, frame in enumerate(options.frames):
        if position % 3 == 1:
            fit_file(folder, frame).unlink(missing_ok=True)
        if position % 6 == 4:  # of these, half have no fit at all
            refit_file(folder, frame).unlink()
            refit_file(folder, frame).with_suffix(".ply").unlink(missing_ok=True)
    if len(rig.names) > 1:
        for file in picture_files(folder, rig.names[-1], options.frames[0]):
            shutil.rmtree(file.parent)
    _, path = picture_files(folder, rig.names[0], options.frames[0])
    mask = Image.open(path)
    mask.resize((mask.width * 4 // 3, mask.height * 4 // 3), Image.Resampling.BILINEAR).save(path)
