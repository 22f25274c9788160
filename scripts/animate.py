"""Animate an avatar: python scripts/animate.py AVATAR MOTION [--out animation.mp4]

AVATAR is an `avatar.safetensors` that infer.py wrote, MOTION the name of a built-in motion (idle, walk, wave, turn,
dance, sit, squat), or a motion file: BVH, AMASS, SMPL results, GVHMR, WHAM, ... (docs/motion.md).
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
from collections.abc import Iterator
from typing import Annotated, get_args

import torch
import tyro
from tqdm import tqdm

from core.avatar.file import find_avatar_body
from core.avatar.rendering import supersampling
from core.export.quantized import load_any_avatar
from core.inference.animation import RENDERED_SIZE, CameraPath, camera_path, render_motion
from core.inference.camera_file import read_camera_path
from core.motion.motion import MAX_FPS, Motion, apply_motion, in_periods, in_place, resample
from core.motion.sources import open_motion
from core.render import Rendering
from core.utils.cli import run
from core.utils.device import DeviceName, pick_device
from core.utils.images import save_rgba
from core.utils.ranges import Range, checked
from core.utils.video import ALPHA_SUFFIX, write_alpha_video, write_video
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger("animate")

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
OTHER_SUFFIXES = (".apng", ".avi", ".gif", ".jpeg", ".jpg", ".m4v", ".png", ".webp", ".wmv")
"""Suffixes of formats that are not written: a folder of such a name would be a misunderstanding."""
MIN_SECONDS = 4.0
"""Duration to which a loop is repeated by default."""
COLORS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}
MAX_SIZE, MAX_SECONDS = 4096, 3600.0


def main(
    avatar: Annotated[Path, tyro.conf.Positional],
    motion: Annotated[str, tyro.conf.Positional] = "walk",
    out: Path = Path("animation.mp4"),
    size: Annotated[int, Range(16, MAX_SIZE)] = 512,
    fps: Annotated[int, Range(1, 240)] = 30,
    seconds: Annotated[float, Range(0, MAX_SECONDS, includes_low=False)] | None = None,
    camera: str = "follow",
    azimuth: float = 20.0,
    background: str = "white",
    root: bool = True,
    up: str = "auto",
    fps_in: Annotated[float, Range(0, MAX_FPS, includes_low=False)] | None = None,
    person: Annotated[int, Range(1)] | None = None,
    body: Path | None = None,
    device: DeviceName = "auto",
    backend: str = "auto",
) -> None:
    """Render an avatar in a motion to a video, or to a folder of PNG images.

    Args:
        avatar: An `avatar.safetensors`, or an 8-bit one.
        motion: Name of a built-in motion (idle, walk, wave, turn, dance, sit, squat), or a motion file or folder.
        out: A video (.mp4, .mov, .mkv; .webm with alpha), or a folder, which gets one PNG per frame.
        size: Side of the square images in pixels.
        fps: Frames per second.
        seconds: Duration; loops repeat, other motions hold their last pose. By default the whole motion; loops are
            repeated to at least four seconds.
        camera: `follow` moves with the pelvis, `orbit` turns around it, `fixed` sees the whole path. Or a JSON file
            with cameras (docs/motion.md), which also sets the size.
        azimuth: Direction of the camera from the front towards the avatar's left, in degrees.
        background: white, grey, black, #rrggbb, or transparent (for .webm, or a folder of PNG images).
        root: Move along the path of the motion; --no-root stays in place.
        up: Up axis of a motion file (x, y, z, -x, -y, -z); auto: the one along which heads are above feet.
        fps_in: Frames per second of a motion file, in place of what it states.
        person: Number of the person of a motion file, from 1 for the one in the most frames.
        body: A body model file; by default the avatar's own is found by its fingerprint.
        device: auto, cpu or cuda.
        backend: Rasterizer, as of infer.py.
    """
    transparent = background == "transparent"
    color = (1.0, 1.0, 1.0) if transparent else _color(background)
    is_video = out.suffix.lower() in (*VIDEO_SUFFIXES, ALPHA_SUFFIX)
    if out.suffix.lower() in OTHER_SUFFIXES:
        known = ", ".join((*VIDEO_SUFFIXES, ALPHA_SUFFIX))
        raise InputError(
            f"--out {out}: {out.suffix} is not written; give a video ({known}), or a folder for PNG images"
        )
    if transparent and out.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(
            f"--background transparent: {out.suffix} has no alpha; give {ALPHA_SUFFIX}, or a folder as --out"
        )
    chosen = pick_device(device)
    loaded = load_any_avatar(avatar).to(chosen)
    model = find_avatar_body(loaded, body).to(chosen)
    clip = _of_duration(open_motion(motion, model, up, fps_in, person), fps, seconds)
    poses = apply_motion(clip if root else in_place(clip), model, loaded.betas)
    if camera in get_args(CameraPath):
        cameras = camera_path(model, poses, size, camera, azimuth * torch.pi / 180, fps=fps)
    elif Path(camera).is_file():
        cameras = read_camera_path(Path(camera), len(clip)).to(chosen)
    else:
        raise InputError(f"--camera must be {', '.join(get_args(CameraPath))} or a file with cameras, got {camera!r}")
    supersample = supersampling(min(cameras.width, cameras.height), RENDERED_SIZE)
    paint = torch.tensor(color, device=chosen)
    renderings = tqdm(
        render_motion(loaded, model, poses, cameras, background=paint, backend=backend, supersample=supersample),
        total=len(clip),
        desc="animate",
        unit="frame",
    )
    if out.suffix.lower() == ALPHA_SUFFIX:
        write_alpha_video(out, ((r.colors, r.alphas if transparent else 0 * r.alphas + 1) for r in renderings), fps)
    elif is_video:
        write_video(out, (rendering.colors for rendering in renderings), fps)
    else:
        _write_folder(out, renderings, transparent)
    logger.info("wrote %d frames of %s to %s", len(clip), motion, out)


def _of_duration(clip: Motion, fps: int, seconds: float | None) -> Motion:
    """The motion at the frame rate of the video, as long as wanted or as it is."""
    return in_periods(clip, fps, MIN_SECONDS) if seconds is None else resample(clip, fps, max(1, round(seconds * fps)))


def _color(name: str) -> tuple[float, float, float]:
    if name in COLORS:
        return COLORS[name]
    digits = name.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return tuple(value / 255 for value in bytes.fromhex(digits))
    except ValueError:
        expected = f"{', '.join(COLORS)}, transparent or #rrggbb"
        raise InputError(f"--background must be {expected}, got {name!r}") from None


def _write_folder(folder: Path, renderings: Iterator[Rendering], transparent: bool) -> None:
    """One PNG per frame; the folder appears when all are written."""
    if folder.exists():
        raise InputError(f"--out {folder}: exists already; name a new folder, or a video")
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for index, rendering in enumerate(renderings):
            alpha = rendering.alphas if transparent else torch.ones_like(rendering.alphas)
            save_rgba(temporary / f"{index:05d}.png", rendering.colors, alpha)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
