"""Output files of each subject: the avatar, two videos and a sheet of comparisons."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.avatar.avatar import canonical_gaussians
from core.avatar.file import save_avatar
from core.data.fits import rest_pelvis
from core.data.input_files import CAPTURE_FOLDER
from core.data.subject_frame import move_body, posed_pelvis, subject_frame
from core.export.html import save_html
from core.export.ply import save_ply
from core.inference.aligned_inputs import ALIGNMENT_FILE, describe_alignment, write_alignment
from core.inference.aligned_overlay import write_aligned_overlay
from core.inference.animation import camera_path
from core.inference.coverage import count_views_seen
from core.inference.result_page import ALIGNED_SHEET, NOVEL_POSE, PLAYER, SHEET, TURNTABLE, write_result_page
from core.inference.session import Session
from core.inference.sheet import Tile, make_sheet
from core.inference.subject import Subject
from core.inference.trajectories import cameras_around, interpolate_poses, loop_times, novel_pose_keys, turntable
from core.motion.builtin import builtin_motion
from core.motion.motion import Motion, apply_motion, resample
from core.utils.images import save_image
from core.utils.video import write_video
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

AVATAR, PLY, PAGE = "avatar.safetensors", "avatar.ply", "index.html"
FILES = (AVATAR, PLY, TURNTABLE, NOVEL_POSE, SHEET, PLAYER, PAGE)
"""Beside them, a capture that was made of one's own images is in `CAPTURE_FOLDER`, and aligned inputs have an
`ALIGNMENT_FILE` and an `ALIGNED_SHEET`."""
PLAYER_MOTIONS = ("dance", "walk", "wave", "idle", "turn", "sit", "squat")
"""Built-in motions of the player, after the one of the options."""
TILE_SIZE = 300
"""Side of the images on the sheet, in pixels."""
SHEET_COLUMNS = 4
"""Images per row of the sheet, at most."""
FPS = 24
FRAMES_PER_CALL = 16
"""Video frames rendered at once: enough to occupy a GPU, few enough for any memory."""
FALLBACK_MOTION = "dance"
"""Built-in motion of the novel-pose video if the capture has too few fits for it."""
MIN_POSES = 4
"""Fits that are not held out for the evaluation, below which they are too few for a video."""


def check_folder(folder: Path) -> None:
    """Refuse an output folder that holds other files than results and a capture, because it is replaced as a whole.

    Raises:
        InputError: If it does.
    """
    if not folder.exists():
        return
    known = (*FILES, ALIGNMENT_FILE, ALIGNED_SHEET, CAPTURE_FOLDER)
    others = sorted(p.name for p in folder.iterdir() if p.name not in known) if folder.is_dir() else [folder.name]
    if others:
        raise InputError(f"{folder}: holds other things than results ({others[0]}); choose another --workspace")


def write_outputs(subject: Subject, folder: Path) -> None:
    """Write all files of a subject into `folder`, which is replaced as a whole or not at all."""
    check_folder(folder)
    session = subject.session
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        views_seen = count_views_seen(subject.avatar, session.body, subject.inputs)
        save_avatar(temporary / AVATAR, subject.avatar, views_seen)
        gaussians = canonical_gaussians(subject.avatar, session.body)
        save_ply(temporary / PLY, gaussians, session.options.ply_degree)
        write_video(temporary / TURNTABLE, turntable_images(subject), FPS)
        write_video(temporary / NOVEL_POSE, novel_pose_images(subject), FPS)
        save_image(temporary / SHEET, comparison_sheet(subject))
        save_html(temporary / PLAYER, subject.avatar, session.body, player_motions(session), subject.name)
        capture = folder / CAPTURE_FOLDER
        has_capture = capture.is_dir()
        moved, aligned = None, subject.aligned
        if aligned is not None:
            used = subject.plan.observed_frames, subject.plan.input_views
            write_alignment(temporary / ALIGNMENT_FILE, aligned, subject.capture, *used, session.body)
            write_aligned_overlay(temporary / ALIGNED_SHEET, aligned, subject.capture, *used, session.body)
            moved = describe_alignment(aligned.report, len(subject.plan.input_views) > 1)
        write_result_page(temporary / PAGE, subject.name, folder, capture if has_capture else None, moved)
        if has_capture:
            capture.rename(temporary / CAPTURE_FOLDER)  # the folder is replaced as a whole


def player_motions(session: Session) -> list[Motion]:
    """Motions of the player; the first plays at the start."""
    own = [] if session.motion is None else [session.motion]
    names = [name for name in PLAYER_MOTIONS if all(name != motion.name for motion in own)]
    return [*own, *(builtin_motion(name, session.body) for name in names)]


def turntable_images(subject: Subject) -> Iterator[Float[Tensor, "3 H W"]]:
    """Renderings of the first observed pose from all around."""
    session = subject.session
    pose = _with_avatar_shape(subject.inputs.body[0], subject)
    cameras = turntable(session.body(pose).vertices, session.video_frames, session.video_size)
    for portion in _portions(session.video_frames, f"{subject.name}: turntable"):
        yield from subject.render(pose, cameras[portion])


def novel_pose_images(subject: Subject) -> Iterator[Float[Tensor, "3 H W"]]:
    """Renderings of a motion, or of a loop of novel poses, from the direction of the first input camera."""
    session = subject.session
    poses, follows = novel_poses(subject)
    if follows:
        cameras = camera_path(session.body, poses, session.video_size, "follow")[:, None]
    else:
        camera = cameras_around(*_sphere_around(session.body, poses), 1, session.video_size)
        cameras = camera[torch.zeros(len(poses.scale), 1, dtype=torch.int64)]
    for portion in _portions(len(poses.scale), f"{subject.name}: novel poses"):
        yield from session.render(subject.avatar, poses[portion], cameras[portion])[:, 0]


@torch.no_grad()
def _sphere_around(body: BodyModel, poses: BodyParams) -> tuple[Float[Tensor, "3"], Float[Tensor, ""]]:
    """Centre and radius of a sphere around bodies in all poses [T], of which a few are posed at once."""
    portions = [poses[first : first + FRAMES_PER_CALL] for first in range(0, len(poses.scale), FRAMES_PER_CALL)]
    ends = []
    for portion in portions:
        points = body(portion).vertices.reshape(-1, 3)
        ends.append(torch.stack([points.amin(0), points.amax(0)]))
    low, high = torch.stack(ends).unbind(1)
    center = (low.amin(0) + high.amax(0)) / 2
    radii = [(body(portion).vertices.reshape(-1, 3) - center).norm(dim=-1).max() for portion in portions]
    return center, torch.stack(radii).max()


def novel_poses(subject: Subject) -> tuple[BodyParams, bool]:
    """Poses [T] of the novel-pose video with the avatar's shape, and whether they are a motion that may travel.

    They are the motion of the options. Without one, they move through the fits of frames that are not among the inputs,
    there and back. A capture with few such fits has a built-in motion.
    """
    session = subject.session
    keys = None if session.motion is not None else _pose_keys(subject)
    if keys is None:
        motion = session.motion or builtin_motion(FALLBACK_MOTION, session.body)
        is_short = motion.loops or session.options.video_frames is not None
        motion = resample(motion, FPS, session.video_frames if is_short else None)
        scale = subject.inputs.body.scale[0].item()
        return apply_motion(motion, session.body, subject.avatar.betas, scale), True
    fits, key_times = keys
    times = loop_times(key_times[0].item(), key_times[-1].item(), session.video_frames).to(key_times)
    return _with_avatar_shape(interpolate_poses(fits, key_times, times), subject), False


def _portions(frames: int, title: str) -> Iterator[slice]:
    """Ranges of frames that are rendered in one call, with a progress bar."""
    with tqdm(total=frames, desc=title, unit="frame") as bar:
        for first in range(0, frames, FRAMES_PER_CALL):
            portion = slice(first, min(first + FRAMES_PER_CALL, frames))
            yield portion
            bar.update(portion.stop - portion.start)


def _pose_keys(subject: Subject) -> tuple[BodyParams, Float[Tensor, " K"]] | None:
    """Fits [K] of the novel-pose video, each in its subject frame, and their image ids as times; None without any."""
    session, plan, capture = subject.session, subject.plan, subject.capture
    fits, times = [], []
    for frame in novel_pose_keys(plan.novel_frames, plan.observed_frames, sorted(capture.fits)):
        try:
            fits.append(capture.fit(frame, session.body))
            times.append(frame)
        except InputError as error:
            if frame in (*plan.novel_frames, *plan.observed_frames):
                raise
            logger.warning("left out of the novel-pose video: %s", error)  # other fits remain
    if len(fits) < (2 if plan.novel_frames else MIN_POSES):
        return None
    fits = BodyParams.stack(fits)
    front = capture.cameras(plan.input_views[:1]).centers[0]
    pelvis = posed_pelvis(fits, session.body)
    fits = move_body(fits, subject_frame(pelvis, front.expand_as(pelvis)), session.body)
    return fits.to(session.device, torch.float32), torch.tensor(times, dtype=torch.float64, device=session.device)


def _with_avatar_shape(pose: BodyParams, subject: Subject) -> BodyParams:
    """The pose on the avatar's own shape, with the pelvis at the origin: fits of a subject differ slightly in shape."""
    betas = subject.avatar.betas.expand_as(pose.betas)
    pelvis = rest_pelvis(subject.session.body, betas).to(pose.transl)
    return replace(pose, betas=betas, transl=-pose.scale[..., None] * pelvis)


def comparison_sheet(subject: Subject) -> Float[Tensor, "3 H W"]:
    """Inputs in the first row; below, predictions beside the ground truth, of novel views and of novel poses.

    Without further cameras, the second row has renderings of the inputs. Novel poses are the held-out frames or,
    without any, other frames that are not among the inputs.
    """
    plan = subject.plan
    first = plan.observed_frames[0]
    inputs = subject.frames([first], plan.input_views[:SHEET_COLUMNS], TILE_SIZE, "person")
    labels = [f"input: {view}, {first:04d}" for view in plan.input_views[:SHEET_COLUMNS]]
    rows = [[Tile(label, image) for label, image in zip(labels, inputs.images[0])]]
    kind, views = ("novel view", plan.target_views) if plan.target_views else ("input view", plan.input_views)
    rows.append(_comparison_row(subject, kind, plan.observed_frames, views))
    views = subject.novel_pose_views
    unobserved = [f for f in subject.capture.complete_frames(views) if f not in plan.observed_frames]
    if novel := plan.novel_frames or unobserved:
        try:
            rows.append(_comparison_row(subject, "novel pose", novel, views))
        except InputError as error:
            if plan.novel_frames:
                raise
            logger.warning("no novel poses on the sheet: %s", error)  # these frames are not needed otherwise
    return make_sheet(rows, TILE_SIZE)


def _comparison_row(subject: Subject, kind: str, frame_ids: list[int], views: list[str]) -> list[Tile]:
    """Two pairs of prediction and ground truth: of the first and the last frame, in two of the cameras."""
    pairs = zip((frame_ids[0], frame_ids[-1]), (views[0], views[len(views) // 2]))
    return [tile for frame, view in dict.fromkeys(pairs) for tile in _pair(subject, kind, frame, view)]


def _pair(subject: Subject, kind: str, frame: int, view: str) -> list[Tile]:
    target = subject.frames([frame], [view], TILE_SIZE, "person")[0]
    where = f"{kind} {view}, {frame:04d}"
    prediction = subject.render(target.body, target.cameras)[0]
    return [Tile(f"{where}: ours", prediction), Tile(f"{where}: truth", target.images[0])]
