"""A session: the network, protocol and device that all subjects of a run share."""

import hashlib
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar, supersampling
from core.checkpoint import Metadata, load_checkpoint, read_training_options
from core.data.human_list import find_subjects
from core.data.protocol import PROTOCOLS, Protocol, select_subjects
from core.data.readers import open_capture
from core.inference.alignment import Aligner, AlignOptions
from core.inference.options import InferenceOptions
from core.inference.refinement import RefineOptions, Refiner
from core.model.hgg import HumanGaussianGraph
from core.motion.motion import Motion
from core.motion.sources import open_motion
from core.render.backends import backend_name, prepare_backend
from core.types.cameras import Cameras
from core.utils.device import keep_freed_memory, pick_device
from core.utils.ranges import check_ranges
from smpl_renderer.body_files import load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

FULL: Protocol = replace(PROTOCOLS["paper"], name="full", subjects=())
"""Views and frames of the paper, for any subject."""
LONG_VIDEO = (512, 120)
SHORT_VIDEO = (256, 48)
"""Side in pixels, and number of frames."""
REFINE_STEPS = {"cuda": RefineOptions.steps, "cpu": 12}


@dataclass(frozen=True)
class Session:
    """A loaded checkpoint and the settings that apply to all subjects."""

    options: InferenceOptions
    model: HumanGaussianGraph
    metadata: Metadata
    device: torch.device
    protocol: Protocol
    input_size: int
    input_crop: str
    trained_size: int | None
    """Side of the images rendered in the network's training, in pixels; None if unknown."""
    video_size: int
    video_frames: int
    refiner: Refiner
    """Refinement of the network's avatars; it has no effect if its options have no steps."""
    aligner: Aligner
    """Correction of fits, cameras and gains, for the subjects that have one (`alignment_steps`)."""
    subjects: list[Path]
    """Folders of the captures."""
    motion: Motion | None = None
    """Motion of the second video; None for poses of the capture."""

    @property
    def body(self) -> BodyModel:
        """The body model of fits and avatars, on `device`."""
        return self.model.output_body

    @property
    def backend(self) -> str:
        return self.options.backend

    @property
    def precision(self) -> str:
        """`float32` or `bf16`."""
        default = "bf16" if self.device.type == "cuda" else "float32"
        return default if self.options.precision == "auto" else self.options.precision

    def autocast(self) -> torch.autocast:
        """Context with the network's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def supersampling(self, size: int) -> int:
        """Supersampling factor of images of `size` pixels, for avatars of this network."""
        return supersampling(size, self.trained_size)

    def render(self, avatar: Avatar, params: BodyParams, cameras: Cameras) -> Float[Tensor, "*batch P C 3 H W"]:
        """Render avatars `[*batch]` of this network in poses `[*batch, P]` from cameras `[*batch, P, C]`, on white.

        Images smaller than those of the network's training are supersampled.
        """
        supersample = self.supersampling(min(cameras.width, cameras.height))
        return render_avatar(avatar, self.body, params, cameras, backend=self.backend, supersample=supersample).colors


def open_session(options: InferenceOptions) -> Session:
    """Check the options and load the checkpoint.

    Raises:
        InputError: If a file, folder, device or backend is not available, or a number is out of range.
    """
    check_ranges(options)
    device = pick_device(options.device)
    prepare_backend(options.backend, device)
    if device.type == "cpu":
        keep_freed_memory()
    protocol = _choose_protocol(options, device)
    entries = {entry.subject: entry.path for entry in find_subjects(options.captures)}
    subjects = [entries[name] for name in select_subjects(protocol, list(entries))]
    body = _choose_body(options, subjects[0])  # compared with that of each capture when its fits are read
    model, metadata = load_checkpoint(options.checkpoint, body, device)
    model.requires_grad_(False)
    model.set_backend(options.backend)
    model.set_nearest_search(options.nearest)
    model.unet.use_attention(options.attention)
    trained = read_training_options(metadata).get("data", {})
    trained_size = trained.get("image_size")
    input_size = options.input_size or trained.get("image_size", protocol.image_size)
    steps = REFINE_STEPS[device.type] if options.refine is None else options.refine
    supersample = supersampling(input_size, trained_size)
    size, frames = LONG_VIDEO if device.type == "cuda" or options.full else SHORT_VIDEO
    return Session(
        options=options,
        model=model,
        metadata=metadata,
        device=device,
        protocol=protocol,
        input_size=input_size,
        input_crop=options.input_crop or trained.get("crop", protocol.crop),
        trained_size=trained_size,
        video_size=options.video_size or size,
        video_frames=options.video_frames or frames,
        refiner=Refiner(model.output_body, RefineOptions(steps=steps), options.backend, supersample),
        aligner=_aligner(options, model.output_body, trained_size),
        subjects=subjects,
        motion=None if options.motion is None else open_motion(options.motion, model.output_body),
    )


def _aligner(options: InferenceOptions, body: BodyModel, trained_size: int | None) -> Aligner:
    settings = AlignOptions(steps=options.align or AlignOptions.steps)
    return Aligner(body, settings, options.backend, supersampling(settings.size, trained_size))


def _choose_body(options: InferenceOptions, first: Path) -> BodyModel:
    """The body of the options, else that of the first capture. The checkpoint is transferred to it if it is another."""
    if options.body is not None:
        return load_body(options.body)
    capture = open_capture(first)
    try:
        return capture.body()
    except InputError as error:
        raise InputError(f"{first}: its body is not found: {error}") from error


def _choose_protocol(options: InferenceOptions, device: torch.device) -> Protocol:
    """The protocol of the options. Without measurements its novel frames are not held out."""
    name = options.protocol
    if name == "auto":
        name = "full" if options.full or device.type == "cuda" else "quick"
    protocol = FULL if name == "full" else PROTOCOLS[name]
    if options.input_views is not None:
        protocol = replace(protocol, input_views=options.input_views)
    if options.novel_frames is not None or not options.evaluate:
        protocol = replace(protocol, novel_frames=())
    return protocol


def session_settings(session: Session) -> dict:
    """Settings of a session for `metrics.json`, except those of the protocol."""
    path = session.options.checkpoint
    return {
        "checkpoint": {
            "name": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "step": session.metadata.get("step", ""),
            "body": session.metadata["body"],
        },
        "body": session.body.fingerprint,
        "input": {"image_size": session.input_size, "crop": session.input_crop},
        "device": torch.cuda.get_device_name() if session.device.type == "cuda" else "cpu",
        "precision": session.precision,
        "refinement": asdict(session.refiner.options) if session.refiner.options.steps else None,
        "completion": session.options.complete,
        "backend": backend_name(session.backend, session.device),
        "supersampling": session.supersampling(session.protocol.image_size),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
