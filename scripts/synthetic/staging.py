"""The scene of a capture (person, fits, cameras, room), and its images and masks as files store them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from scripts.synthetic.camera_effects import expose, matte, sample_noise, sample_responses
from scripts.synthetic.drawing import Scene, draw_views, make_scene
from scripts.synthetic.fits import body_params
from scripts.synthetic.options import CaptureOptions
from scripts.synthetic.people import Person, person_surfaces, sample_person
from scripts.synthetic.rigs import Rig, make_rig
from scripts.synthetic.rooms import Backdrop, draw_room, sample_room
from scripts.synthetic.seeding import random_stream
from scripts.synthetic.surfaces import rest_body
from scripts.synthetic.turn import sample_turn
from scripts.synthetic.waves import constant
from smpl_renderer.body_model import BodyModel
from smpl_renderer.mesh_rasterizer import MeshBackend
from smpl_renderer.types import BodyOutput, BodyParams


@dataclass(frozen=True)
class Staged:
    """A person in front of the cameras: what all images of a capture have in common."""

    scene: Scene
    rig: Rig
    params: BodyParams
    """True fits [F], raw world."""
    posed: BodyOutput
    """Bodies of the true fits [F], on the CPU."""
    backdrops: dict[str, Backdrop] = field(default_factory=dict)
    """The room behind the person by camera name; empty for other backgrounds."""


@torch.no_grad()
def stage(
    index: int,
    options: CaptureOptions,
    body: BodyModel,
    device: str = "cpu",
    mesh_rasterizer: MeshBackend = "torch",
) -> Staged:
    """Generate the scene of a capture.

    Args:
        index: Index of the person within the seed and split.
        options: Options of the capture.
        body: Body model on the CPU.
        device: Device that draws the images.
        mesh_rasterizer: Backend that finds the visible faces.
    """
    person = sample_person(body, options.seed, options.split, index)
    shape = rest_body(body, np.array(person.betas))
    surfaces = person_surfaces(person, shape, options.seed, options.split)
    rig = capture_rig(index, options)
    motion = person.motion
    if options.rig == "phone":
        motion = sample_turn(random_stream(options.seed, options.split, index, "turn"), options.frames)
    params = body_params(body, person, motion, options.frames, rig.front_azimuth)
    scene = make_scene(person, surfaces, torch.device(device), mesh_rasterizer)
    backdrops = _draw_backdrops(person, rig, options, scene.points.device)
    return Staged(scene, rig, params, body(params), backdrops)


def capture_rig(index: int, options: CaptureOptions) -> Rig:
    """The cameras of a person's capture."""
    rng = random_stream(options.seed, options.split, index, "rig")
    return make_rig(options.rig, options.width, options.height, rng, options.cameras)


def _draw_backdrops(person: Person, rig: Rig, options: CaptureOptions, device: torch.device) -> dict[str, Backdrop]:
    if options.background not in ("plain", "clutter"):
        return {}
    rng = random_stream(options.seed, options.split, person.index, "room")
    room = sample_room(rng, options.split, person.light, rig, furnished=options.background == "clutter")
    return draw_room(room, rig, options.samples, device)


@torch.no_grad()
def draw_images(
    staged: Staged, frame: int, options: CaptureOptions
) -> Iterator[tuple[tuple[str, ...], UInt8[np.ndarray, "C H W 3"], UInt8[np.ndarray, "C H W"]]]:
    """Draw one frame in all cameras of the rig.

    Args:
        staged: The scene of a capture with these options.
        frame: Frame id, one of the options'.
        options: Options of the capture.
    Yields:
        Names of some of the cameras, their images, and their masks, as files store them.
    """
    scene, rig = staged.scene, staged.rig
    device, person = scene.points.device, scene.person
    stream = (options.seed, options.split, person.index)
    body = staged.posed[options.frames.index(frame)]
    body = BodyOutput(**{f.name: getattr(body, f.name).to(device) for f in fields(BodyOutput)})
    posed = scene.pose(body)
    cameras = rig.cameras().to(device)
    # A GPU draws all cameras at once; on a CPU, the buffers of a single camera fit into its cache.
    groups = [slice(None)] if device.type == "cuda" else [slice(i, i + 1) for i in range(len(rig.names))]
    for group in groups:
        names = rig.names[group]
        colors, alphas = draw_views(scene, posed, cameras[group], options.samples)
        visible = torch.ones_like(alphas, dtype=torch.bool)
        if staged.backdrops:
            walls = torch.stack([staged.backdrops[name].behind(body.joints) for name in names])
            colors = colors + (1 - alphas[..., None]) * walls
        else:
            # Black farther away from the person, as in MVHumanNet's released images.
            visible = _box(alphas)
            if options.background == "studio":
                wall = _wall(person.light.background, *alphas.shape[1:], device)
                colors = colors + (1 - alphas[..., None]) * wall
        if options.camera_noise or options.soft_masks:
            responses = sample_responses(*stream, names, device)
            noise = sample_noise(*stream, names, frame)
            if options.camera_noise:
                colors = expose(colors, responses, noise.grain)
            if options.soft_masks:
                alphas = matte(alphas, responses, noise)
        yield names, _bytes(colors * visible[..., None]), _bytes(alphas)


def _bytes(values: Tensor) -> np.ndarray:
    return values.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()


def _wall(color: tuple[float, float, float], height: int, width: int, device) -> Float[Tensor, "H W 3"]:
    """The wall of a studio: one colour, darker towards the bottom."""
    shade = torch.linspace(1.05, 0.8, height, device=device)[:, None, None]
    return (shade * constant(color, shade)).clamp(0, 1).expand(-1, width, -1)


def _box(alphas: Float[Tensor, "C H W"]) -> Bool[Tensor, "C H W"]:
    """The bounding rectangle of the person in each image, with a margin."""
    margin = alphas.shape[2] // 16
    rows, columns = alphas.amax(2) > 0, alphas.amax(1) > 0
    return _dilated(rows, margin)[:, :, None] & _dilated(columns, margin)[:, None, :]


def _dilated(marked: Tensor, margin: int) -> Tensor:
    """Everything between the first and the last marked entry of each row, and `margin` entries on both sides."""
    index = torch.arange(marked.shape[1], device=marked.device)
    first = torch.where(marked, index, marked.shape[1]).amin(1, keepdim=True)
    last = torch.where(marked, index, -1).amax(1, keepdim=True)
    return (index >= first - margin) & (index <= last + margin)
