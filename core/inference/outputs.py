"""What is written for each subject: the avatar, two videos and a sheet."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.avatar.file import save_avatar
from core.avatar.skinning import canonical_gaussians
from core.data.fits import rest_pelvis
from core.data.subject_frame import move_body, posed_pelvis, subject_frame
from core.export.ply import save_ply
from core.inference.sheet import Tile, make_sheet
from core.inference.subject import Subject
from core.inference.trajectories import held_out_keys, interpolate_poses, there_and_back, turntable
from core.utils.images import save_image
from core.utils.video import write_video
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

AVATAR, PLY, TURNTABLE, NOVEL_POSE, SHEET = (
    *("avatar.safetensors", "avatar.ply"),
    *("turntable.mp4", "novel_pose.mp4", "comparison.png"),
)
FILES = (AVATAR, PLY, TURNTABLE, NOVEL_POSE, SHEET)
SHEET_SIZE = 300  # pixels of each of its pictures
FPS = 24
FRAMES_AT_ONCE = 16
"""Of a video: enough to keep a GPU busy, few enough for any memory."""


def check_folder(folder: Path) -> None:
    """Refuse a place for results that holds anything else: it will be replaced as a whole.

    Raises:
        InputError: If it does.
    """
    if not folder.exists():
        return
    others = sorted(p.name for p in folder.iterdir() if p.name not in FILES) if folder.is_dir() else [folder.name]
    if others:
        raise InputError(f"{folder}: holds other things than results ({others[0]}); choose another --workspace")


def write_outputs(subject: Subject, folder: Path) -> None:
    """Write all files of a subject into `folder`, which is replaced as a whole or not at all."""
    check_folder(folder)
    session = subject.session
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_avatar(temporary / AVATAR, subject.avatar)
        save_ply(temporary / PLY, canonical_gaussians(subject.avatar, session.body))
        write_video(temporary / TURNTABLE, _turntable_pictures(subject), FPS)
        write_video(temporary / NOVEL_POSE, _novel_pose_pictures(subject), FPS)
        save_image(temporary / SHEET, comparison_sheet(subject))


def _turntable_pictures(subject: Subject) -> Iterator[Float[Tensor, "3 H W"]]:
    """The first observed pose from all around."""
    session = subject.session
    pose = _with_own_shape(subject.inputs.body[0], subject)
    cameras = turntable(session.body(pose).vertices, session.video_frames, session.video_size)
    for some in _portions(session.video_frames, f"{subject.name}: turntable"):
        yield from subject.render(pose, cameras[some])


def _novel_pose_pictures(subject: Subject) -> Iterator[Float[Tensor, "3 H W"]]:
    """Held-out poses, there and back, seen from where the first input camera stands."""
    session = subject.session
    keys, times = _pose_keys(subject)
    at = there_and_back(times[0].item(), times[-1].item(), session.video_frames).to(times)
    poses = _with_own_shape(interpolate_poses(keys, times, at), subject)
    camera = turntable(session.body(poses).vertices, 1, session.video_size)
    cameras = camera[torch.zeros(session.video_frames, 1, dtype=torch.int64)]
    for some in _portions(session.video_frames, f"{subject.name}: novel poses"):
        yield from session.render(subject.avatar, poses[some], cameras[some])[:, 0]


def _portions(frames: int, title: str) -> Iterator[slice]:
    """Frames that are drawn in one call, with a bar of progress."""
    with tqdm(total=frames, desc=title, unit="frame") as bar:
        for first in range(0, frames, FRAMES_AT_ONCE):
            some = slice(first, min(first + FRAMES_AT_ONCE, frames))
            yield some
            bar.update(some.stop - some.start)


def _pose_keys(subject: Subject) -> tuple[BodyParams, Float[Tensor, " K"]]:
    """Fits [K] of the held-out stretch, each in its subject frame, and their image ids as times."""
    session, plan, capture = subject.session, subject.plan, subject.capture
    fits, times = [], []
    for frame in held_out_keys(plan.novel_frames, plan.observed_frames, sorted(capture.fits)):
        try:
            fits.append(capture.fit(frame, session.body))
            times.append(frame)
        except InputError as error:
            if frame in (*plan.novel_frames, *plan.observed_frames):
                raise
            logger.warning("left out of the novel-pose video: %s", error)  # there are others to move between
    fits = BodyParams.stack(fits)
    front = capture.cameras(plan.input_views[:1]).centers[0]
    pelvis = posed_pelvis(fits, session.body)
    fits = move_body(fits, subject_frame(pelvis, front.expand_as(pelvis)), session.body)
    return fits.to(session.device, torch.float32), torch.tensor(times, dtype=torch.float64, device=session.device)


def _with_own_shape(pose: BodyParams, subject: Subject) -> BodyParams:
    """The pose on the avatar's own body, pelvis at the origin: fits differ a little in shape from moment to moment."""
    betas = subject.avatar.betas.expand_as(pose.betas)
    pelvis = rest_pelvis(subject.session.body, betas).to(pose.transl)
    return replace(pose, betas=betas, transl=-pose.scale[..., None] * pelvis)


def comparison_sheet(subject: Subject) -> Float[Tensor, "3 H W"]:
    """Inputs on top; below, predictions beside the ground truth, for novel views and for novel poses."""
    plan = subject.plan
    first = plan.observed_frames[0]
    shown = plan.input_views[:4]
    inputs = subject.frames([first], shown, SHEET_SIZE, "person")
    rows = [[Tile(f"input: {view}, {first:04d}", image) for view, image in zip(shown, inputs.images[0])]]
    views = [plan.target_views[0], plan.target_views[len(plan.target_views) // 2]] if plan.target_views else []
    for kind, frame_ids in (("novel view", plan.observed_frames), ("novel pose", plan.novel_frames)):
        if frame_ids and views:
            moments = zip((frame_ids[0], frame_ids[-1]), views)
            rows.append([tile for frame, view in moments for tile in _pair(subject, kind, frame, view)])
    return make_sheet(rows, SHEET_SIZE)


def _pair(subject: Subject, kind: str, frame: int, view: str) -> list[Tile]:
    target = subject.frames([frame], [view], SHEET_SIZE, "person")[0]
    where = f"{kind} {view}, {frame:04d}"
    prediction = subject.render(target.body, target.cameras)[0]
    return [Tile(f"{where}: ours", prediction), Tile(f"{where}: truth", target.images[0])]
