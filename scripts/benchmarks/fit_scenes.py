"""Synthetic people with known bodies, as cameras and the landmark network see them: what `measure_fits.py` fits to."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.capture.bodies import turned_bodies, with_hands
from core.capture.landmarks import NUM_LANDMARKS
from core.capture.masks import person_mask
from core.capture.mediapipe_reader import MediaPipeReader
from scripts.synthetic.fits import body_params
from scripts.synthetic.motion import Motion
from scripts.synthetic.options import CaptureOptions, default_frames
from scripts.synthetic.people import sample_person
from scripts.synthetic.staging import Staged, draw_images, stage
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import check_file
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting import Observations, Silhouettes
from smpl_renderer.types import BodyParams

KINDS = ("phone", "poses", "rig4", "rig16")
"""One still camera and a subject that turns around, or one in unlike poses; 4 cameras of a ring; 16 of three rings."""
SPLIT = "fits"
MAX_SCENE_BYTES = 2**28
VERSION = 2
"""Version of the cached files."""
UP = (0.0, 0.0, -1.0)
"""Unit vector against gravity in the world of synthetic captures."""


@dataclass(frozen=True)
class FitScene:
    """One subject: what is given to a fit, and the truth."""

    observations: Observations
    """Input of the fit; its masks are those of the landmark network, sharpened, or on request the true ones."""
    true_masks: Silhouettes
    truth: BodyParams
    """True bodies [F] in the world of the observations."""
    up: Float[Tensor, " 3"]
    """True direction against gravity."""


def load_scene(
    kind: str, index: int, body: BodyModel, folder: Path, seed: int, variant: str, true_masks: bool
) -> FitScene:
    """One subject of a kind, drawn and read by the network at first use, from `folder` afterwards.

    Args:
        kind: One of `KINDS`.
        index: Index of the subject.
        body: Body model, on the CPU.
        folder: Folder of cached scenes.
        seed: Seed of all subjects.
        variant: Landmark network, `full` or `heavy`.
        true_masks: Give the fit the true masks instead of the network's.
    """
    path = folder / f"{kind}_{seed}_{index:03d}_{variant}_v{VERSION}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _make(kind, index, body, seed, variant)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    check_file(path, MAX_SCENE_BYTES, "a scene")
    with np.load(path) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    network, true = (_silhouettes(arrays, name) for name in ("network", "true"))
    one_camera = len(arrays["Ks"]) == 1
    observations = Observations(
        Ks=arrays["Ks"],
        viewmats=torch.eye(4)[None] if one_camera else arrays["viewmats"],
        image_sizes=arrays["image_sizes"],
        landmarks=arrays["landmarks"],
        visibility=arrays["visibility"],
        world_landmarks=arrays["world_landmarks"],
        silhouettes=true if true_masks else network,
        times=arrays["times"],
        up=None if one_camera else torch.tensor(UP),
    )
    truth = BodyParams(*(arrays[f"body_{name}"] for name in ("betas", "global_orient", "body_pose", "transl", "scale")))
    up = torch.tensor(UP)
    if one_camera:  # fitted in the camera's frame
        R, t = arrays["viewmats"][0, :3, :3], arrays["viewmats"][0, :3, 3]
        truth = turned_bodies(truth, body, R.numpy(), t.numpy()).to(torch.float32)
        up = R @ up
    return FitScene(observations, true, truth, up)


def _make(kind: str, index: int, body: BodyModel, seed: int, variant: str) -> dict[str, np.ndarray]:
    options = scene_options(kind, seed)
    staged = stage(index, options, body)
    if kind == "poses":
        staged = _in_unlike_poses(staged, index, options, body)
    reader = MediaPipeReader(variant=variant)
    readings = []
    for frame in options.frames:
        row = []
        for _, images, masks in draw_images(staged, frame, options):
            row += [(*_read(reader, image), mask) for image, mask in zip(images, masks)]
        readings.append(row)
    cameras = staged.rig.cameras()
    arrays = {
        "Ks": cameras.Ks.numpy(),
        "viewmats": cameras.viewmats.numpy(),
        "image_sizes": np.tile(np.float32([[cameras.width, cameras.height]]), (len(cameras.Ks), 1)),
        "times": np.float32(options.frames) / 25,
    }
    for k, name in enumerate(("landmarks", "visibility", "world_landmarks")):
        arrays[name] = np.stack([np.stack([cell[k] for cell in row]) for row in readings]).astype(np.float32)
    for k, name in ((3, "network"), (4, "true")):
        masks = Silhouettes.from_masks([[cell[k] for cell in row] for row in readings])
        arrays |= {f"{name}_alphas": (masks.alphas * 255 + 0.5).to(torch.uint8).numpy()}
        arrays |= {f"{name}_{key}": getattr(masks, key).numpy() for key in ("known", "windows", "present")}
    return arrays | {f"body_{name}": value.numpy() for name, value in vars(staged.params).items()}


def scene_options(kind: str, seed: int) -> CaptureOptions:
    """Options of the synthetic captures of a kind."""
    if kind in ("phone", "poses"):
        frames = default_frames(8, "phone") if kind == "phone" else default_frames(10)[:8]
        background = "clutter" if kind == "phone" else "plain"
        return CaptureOptions(seed, SPLIT, rig="phone", frames=frames, width=720, height=1280, background=background)
    if kind == "rig4":
        return CaptureOptions(seed, SPLIT, rig="24", cameras=4, frames=default_frames(10)[:8:2])
    return CaptureOptions(seed, SPLIT, rig="48", cameras=16, frames=default_frames(10)[:2])


@dataclass(frozen=True)
class _Turned:
    """A motion whose frames face one heading after another, so that the camera sees all sides."""

    motion: Motion
    headings: dict[int, float]

    def angles(self, frame_id: int) -> dict[str, float]:
        angles = self.motion.angles(frame_id)
        return angles | {"heading": angles["heading"] + self.headings[frame_id]}

    def position(self, frame_id: int) -> tuple[float, float, float]:
        return self.motion.position(frame_id)


def _in_unlike_poses(staged: Staged, index: int, options: CaptureOptions, body: BodyModel) -> Staged:
    person = sample_person(body, options.seed, options.split, index)
    motion = _Turned(person.motion, {frame: 45.0 * i for i, frame in enumerate(options.frames)})
    params = body_params(body, person, motion, options.frames, staged.rig.front_azimuth)
    with torch.no_grad():
        return replace(staged, params=params, posed=body(params))


def _read(
    reader: MediaPipeReader, image: UInt8[np.ndarray, "H W 3"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Landmarks, their visibility, those in 3D, and the mask, as a capture's preparation makes them."""
    people = reader.people(image)
    if not people:
        return np.zeros((NUM_LANDMARKS, 2)), np.zeros(NUM_LANDMARKS), np.zeros((NUM_LANDMARKS, 3)), None
    mask = person_mask(image, people[0], people[1:])
    landmarks = with_hands(people[0].landmarks)
    return landmarks.points, landmarks.visibility, landmarks.world, mask


def _silhouettes(arrays: dict[str, torch.Tensor], name: str) -> Silhouettes:
    alphas = arrays[f"{name}_alphas"].float() / 255
    return Silhouettes(alphas, *(arrays[f"{name}_{key}"] for key in ("known", "windows", "present")))


@torch.no_grad()
def perturbed(params: BodyParams, body: BodyModel, error: float, seed: int) -> BodyParams:
    """Bodies that are off by a mean vertex error in metres, each frame in its own way; the shape in all alike.

    The noise is as large in all joints, and the root's a third of theirs; it is scaled to the error wanted.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(like: Tensor, size: float) -> Tensor:
        return size * torch.randn(like.shape, generator=generator)

    shape = noise(params.betas[0], 0.5).expand_as(params.betas)
    offsets = BodyParams(
        shape,
        noise(params.global_orient, 0.03),
        noise(params.body_pose, 0.1),
        noise(params.transl, 0.02),
        0 * params.scale,
    )
    low, high = 0.0, 4.0
    for _ in range(20):
        factor = (low + high) / 2
        moved = BodyParams(**{name: value + factor * getattr(offsets, name) for name, value in vars(params).items()})
        if (body(moved).vertices - body(params).vertices).norm(dim=-1).mean() < error:
            low = factor
        else:
            high = factor
    return moved
