"""One person: the capture, what of it is shown to the network, and the avatar that comes out."""

import functools
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
from core.inference.session import Session
from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams


@dataclass(frozen=True)
class Subject:
    """A capture and its avatar."""

    session: Session
    capture: Capture
    plan: ResolvedProtocol
    inputs: Frames
    """[F, C] as the network saw them, on the session's device."""
    avatar: Avatar
    """No batch axes."""

    @property
    def name(self) -> str:
        return self.capture.subject

    def frames(self, frame_ids: list[int], views: list[str], size: int, crop: str) -> Frames:
        """Pictures [F, C] of this capture, in the subject frames that the avatar's poses are in."""
        front = self.plan.input_views[0]
        frames = load_frames(self.capture, self.session.body, frame_ids, views, front, size, crop)
        return frames.to(self.session.device)

    def render(self, params: BodyParams, cameras: Cameras) -> Float[Tensor, "C 3 H W"]:
        """Pictures of the avatar in one pose (no batch axes), from cameras [C], on white."""
        return self.session.render(self.avatar, params[None], cameras[None])[0]


def open_subject(session: Session, path: Path) -> Subject:
    """Read a capture's input pictures and make its avatar.

    Raises:
        InputError: If the capture lacks something or does not fit the checkpoint.
    """
    capture = Capture(path)
    _check_body(capture, session)
    capture.verify(session.body)
    _check_choice(capture, session)
    plan = _as_asked(resolve(session.protocol, capture, session.body), session.options.observed_frames)
    moments = []
    for frame in tqdm(plan.observed_frames, desc=f"{capture.subject}: read inputs", unit="frame"):
        arguments = (plan.input_views, plan.input_views[0], session.input_size, session.input_crop)
        moments.append(load_frames(capture, session.body, [frame], *arguments)[0])
    inputs = Frames.stack(moments).to(session.device)
    with tqdm(total=1 + session.refiner.options.steps, desc=f"{capture.subject}: make avatar", unit="step") as bar:
        avatar = make_avatar(session, inputs, bar.update)
    return Subject(session, capture, plan, inputs, avatar)


def make_avatar(session: Session, inputs: Frames, on_step: Callable[[], object] = lambda: None) -> Avatar:
    """The avatar of one person from the moments [F, C] that the network is shown; refined, unless that is off.

    Args:
        tell: Called after the network and after each step of the refinement.
    """
    with session.autocast():
        avatar = session.model(Frames.stack([inputs])).avatar[0]
    on_step()
    return session.refiner(avatar, inputs, on_step)


def _as_asked(plan: ResolvedProtocol, observed: tuple[int, ...] | None) -> ResolvedProtocol:
    """Show the frames that were asked for by name, all of them and no others; what is shown is no novel pose."""
    if not observed:
        return plan
    novel = [frame for frame in plan.novel_frames if frame not in observed]
    return replace(plan, observed_frames=list(dict.fromkeys(observed)), novel_frames=novel)


def _check_body(capture: Capture, session: Session) -> None:
    """A capture that names no body has SMPL's fits, which the stand-in must not be posed with."""
    if capture.body_fingerprint is None and session.body.fingerprint == _standin_fingerprint():
        raise InputError(
            f"{capture.path}: its fits are SMPL's (it has no body.json), but {session.options.checkpoint} was trained "
            "on the stand-in body; use a checkpoint that was trained on SMPL"
        )


@functools.cache
def _standin_fingerprint() -> str:
    return load_body(STANDIN_BODY).fingerprint


def _check_choice(capture: Capture, session: Session) -> None:
    """Cameras and frames that were asked for by name are there; those of a protocol may be replaced."""
    options = session.options
    views = list(options.input_views or ())
    if views:
        capture.cameras(views)
    frames = capture.complete_frames(views or capture.camera_names[:1])
    for frame in options.observed_frames or ():
        if frame not in frames:
            raise InputError(
                f"{capture.path}: frame {frame:04d} has no fit, or no picture in the input views; "
                f"choose --observed-frames among {', '.join(f'{f:04d}' for f in frames[:12])}"
                + (", ..." if len(frames) > 12 else "")
            )
