"""Animate an avatar: python scripts/animate.py AVATAR MOTION [--out animation.mp4]

AVATAR is an `avatar.safetensors` that infer.py wrote, MOTION the name of a built-in motion (idle, walk, wave, turn,
dance, sit, squat).
"""

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import torch
import tyro
from tqdm import tqdm

from core.avatar.file import load_avatar
from core.avatar.rendering import supersampling
from core.inference.animation import CameraPath, camera_path, render_motion
from core.motion.builtin import builtin_motion
from core.motion.motion import Motion, apply_motion, in_place, resample
from core.render import Rendering
from core.utils.cli import run
from core.utils.device import DeviceName, pick_device
from core.utils.images import save_rgba
from core.utils.video import write_video
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger("animate")

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
COLORS = {"white": (1.0, 1.0, 1.0), "grey": (0.5, 0.5, 0.5), "black": (0.0, 0.0, 0.0)}
MAX_SIZE, MAX_SECONDS = 4096, 3600.0
RENDERED_SIZE = 512
"""Pixels at which the shipped network was trained; smaller images are averages of larger ones."""


def main(
    avatar: Annotated[Path, tyro.conf.Positional],
    motion: Annotated[str, tyro.conf.Positional] = "walk",
    out: Path = Path("animation.mp4"),
    size: int = 512,
    fps: int = 30,
    seconds: float | None = None,
    camera: CameraPath = "follow",
    azimuth: float = 20.0,
    background: str = "white",
    root: bool = True,
    body: Path | None = None,
    device: DeviceName = "auto",
    backend: str = "auto",
) -> None:
    """Render an avatar in a motion to a video, or to a folder of PNG images.

    Args:
        avatar: An `avatar.safetensors`.
        motion: Name of a built-in motion: idle, walk, wave, turn, dance, sit or squat.
        out: A video (.mp4, .mov, .mkv), or a folder, which gets one PNG per frame.
        size: Side of the square images in pixels.
        fps: Frames per second.
        seconds: Duration; a loop repeats. By default one period, at least four seconds.
        camera: `follow` moves with the pelvis, `orbit` turns around it, `fixed` sees the whole path.
        azimuth: Direction of the camera from the front towards the avatar's left, in degrees.
        background: white, grey, black, #rrggbb, or transparent (for a folder of PNG images).
        root: Move along the path of the motion; --no-root stays in place.
        body: A body model file; by default the avatar's own is found by its fingerprint.
        device: auto, cpu or cuda.
        backend: Rasterizer, as of infer.py.
    """
    _check(size, fps, seconds)
    transparent = background == "transparent"
    color = (1.0, 1.0, 1.0) if transparent else _color(background)
    is_video = out.suffix.lower() in VIDEO_SUFFIXES
    if transparent and is_video:
        raise InputError(f"--background transparent: {out.suffix} has no alpha; give a folder as --out for PNG images")
    chosen = pick_device(device)
    loaded = load_avatar(avatar, chosen)
    model = find_body(loaded.body, body).to(chosen)
    clip = _motion(motion, model, fps, seconds)
    poses = apply_motion(clip if root else in_place(clip), model, loaded.betas)
    cameras = camera_path(model, poses, size, camera, azimuth * torch.pi / 180, fps=fps)
    supersample = supersampling(size, RENDERED_SIZE)
    paint = torch.tensor(color, device=chosen)
    renderings = tqdm(
        render_motion(loaded, model, poses, cameras, background=paint, backend=backend, supersample=supersample),
        total=len(clip),
        desc="animate",
        unit="frame",
    )
    if is_video:
        write_video(out, (rendering.colors for rendering in renderings), fps)
    else:
        _write_folder(out, renderings, transparent)
    logger.info("wrote %d frames of %s to %s", len(clip), motion, out)


def _motion(name: str, body: BodyModel, fps: int, seconds: float | None) -> Motion:
    clip = builtin_motion(name, body)
    if seconds is None:
        seconds = clip.seconds * -(-4.0 // clip.seconds)  # whole periods
    return replace(resample(clip, fps, max(1, round(seconds * fps))), name=name)


def _check(size: int, fps: int, seconds: float | None) -> None:
    if not 16 <= size <= MAX_SIZE:
        raise InputError(f"--size must be between 16 and {MAX_SIZE} pixels, got {size}")
    if not 1 <= fps <= 240:
        raise InputError(f"--fps must be between 1 and 240, got {fps}")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise InputError(f"--seconds must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}")


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
    run(lambda: tyro.cli(main))
