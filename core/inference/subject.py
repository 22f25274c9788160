"""A subject: its capture, the frames and cameras that are used of it, and its avatar."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.avatar.avatar import Avatar
from core.data.capture import Capture
from core.data.dataset import load_frames
from core.data.protocol import ResolvedProtocol, resolve
from core.data.readers import open_capture
from core.data.verification import verify
from core.inference.aligned_inputs import AlignedInputs, align_inputs, describe_alignment
from core.inference.options import InferenceOptions
from core.inference.session import Session
from core.model.completion import complete_colors
from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A capture and its avatar."""

    session: Session
    capture: Capture
    plan: ResolvedProtocol
    """Cameras and frames in use. There may be no target views, or no novel frames."""
    inputs: Frames
    """Input frames [F, C] of the network, on the session's device."""
    avatar: Avatar
    """The subject's avatar, without batch axes."""
    aligned: AlignedInputs | None = None
    """The alignment, if there was one: `inputs` and `capture` contain its corrections."""

    @property
    def name(self) -> str:
        return self.capture.subject

    @property
    def novel_pose_views(self) -> list[str]:
        """Cameras in which novel poses are measured: the target views or, without any, the input views."""
        return self.plan.target_views or self.plan.input_views

    def frames(self, frame_ids: list[int], views: list[str], size: int, crop: str) -> Frames:
        """Frames [F, C] of this capture, in the subject frames of the avatar's poses."""
        front = self.plan.input_views[0]
        frames = load_frames(self.capture, self.session.body, frame_ids, views, front, size, crop)
        return frames.to(self.session.device)

    def render(self, params: BodyParams, cameras: Cameras) -> Float[Tensor, "C 3 H W"]:
        """Render the avatar in one pose (no batch axes), from cameras [C], on white."""
        return self.session.render(self.avatar, params[None], cameras[None])[0]


def open_subject(session: Session, path: Path) -> Subject:
    """Read the input frames of a capture and make its avatar.

    Raises:
        InputError: If the capture is incomplete, or does not fit the checkpoint or the options.
    """
    capture = open_capture(path)
    _check_body(capture, session)
    verify(capture, session.body)
    _check_requested(capture, session.options)
    plan = with_requested_frames(resolve(session.protocol, capture, session.body), session.options)
    _log_plan(capture.subject, plan)
    frames = []
    for frame in tqdm(plan.observed_frames, desc=f"{capture.subject}: read inputs", unit="frame"):
        arguments = (plan.input_views, plan.input_views[0], session.input_size, session.input_crop)
        frames.append(load_frames(capture, session.body, [frame], *arguments)[0])
    inputs = Frames.stack(frames).to(session.device)
    aligned = None
    if is_aligned(session.options, path):
        rounds = session.aligner.options.rounds
        used = plan.observed_frames, plan.input_views
        total = rounds * (1 + session.aligner.options.steps)
        with tqdm(total=total, desc=f"{capture.subject}: align inputs", unit="step") as bar:
            aligned = align_inputs(session, inputs, capture, *used, bar.update)
        inputs = aligned.inputs
        logger.info("%s: %s", capture.subject, describe_alignment(aligned.report, len(plan.input_views) > 1))
    with tqdm(total=1 + session.refiner.options.steps, desc=f"{capture.subject}: make avatar", unit="step") as bar:
        avatar = make_avatar(session, inputs, bar.update)
    return Subject(session, capture, plan, inputs, avatar, aligned)


def is_aligned(options: InferenceOptions, path: Path) -> bool:
    """True if the inputs of a capture are aligned: by default only those made of one's own images or video."""
    from core.capture.prepare import STAMP  # needs the packages that read videos

    return (path / STAMP).is_file() if options.align is None else options.align > 0


def make_avatar(session: Session, inputs: Frames, on_step: Callable[[], object] = lambda: None) -> Avatar:
    """Make the avatar of one subject from its input frames [F, C]; completed and refined, unless these are off.

    Args:
        on_step: Called after the network and after each step of the refinement.
    """
    with session.autocast():
        avatar = session.model(Frames.stack([inputs])).avatar[0]
    on_step()
    if session.options.complete:
        avatar = complete_colors(avatar, session.body, inputs, session.backend)
    return session.refiner(avatar, inputs, on_step)


def with_requested_frames(plan: ResolvedProtocol, options: InferenceOptions) -> ResolvedProtocol:
    """Replace the frames of a plan by those that the options name. No frame is both observed and novel.

    Raises:
        InputError: If no frame is left to observe.
    """
    observed = list(dict.fromkeys(options.observed_frames or plan.observed_frames))
    novel = list(dict.fromkeys(options.novel_frames or plan.novel_frames))
    if options.observed_frames is None:
        observed = [frame for frame in observed if frame not in novel]
    else:
        novel = [frame for frame in novel if frame not in observed]
    if not observed:
        raise InputError("--novel-frames names all frames of the capture; leave at least one for the input")
    return replace(plan, observed_frames=observed, novel_frames=novel)


def _log_plan(name: str, plan: ResolvedProtocol) -> None:
    """Log which cameras and frames are used."""
    observed, novel = ([f"{frame:04d}" for frame in frames] for frames in (plan.observed_frames, plan.novel_frames))
    logger.info(
        "%s: input cameras %s; input frames %s; held-out frames %s; further cameras %s",
        *(name, *map(_join, (plan.input_views, observed, novel, plan.target_views))),
    )


def _join(names: list[str]) -> str:
    """Names as a list for messages: the first 12, and the number if there are more."""
    if not names:
        return "none"
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])}, ... ({len(names)} in total)"


def _check_body(capture: Capture, session: Session) -> None:
    """A capture that names no body has fits of SMPL, with which the stand-in must not be posed."""
    if capture.body_fingerprint is None and session.body.fingerprint == _standin_fingerprint():
        raise InputError(
            f"{capture.path}: its fits are of SMPL (it names no body), but this run uses the stand-in body; leave out "
            "--body, or run captures of different bodies one by one"
        )


@functools.cache
def _standin_fingerprint() -> str:
    return load_body(STANDIN_BODY).fingerprint


def _check_requested(capture: Capture, options: InferenceOptions) -> None:
    """Cameras and frames named by options must exist; those of a protocol may be replaced."""
    views = list(options.input_views or ())
    if views:
        capture.cameras(views)
    complete = capture.complete_frames(views or capture.camera_names[:1])
    for option, frames in (("observed", options.observed_frames), ("novel", options.novel_frames)):
        for frame in frames or ():
            if frame not in complete:
                raise InputError(
                    f"{capture.path}: frame {frame:04d} has no fit, or no image in the input views; choose "
                    f"--{option}-frames among {_join([f'{f:04d}' for f in complete])}"
                )
