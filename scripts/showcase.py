"""Make a small animated picture: python scripts/showcase.py CAPTURE... [--workspace workspace/inference] [--out FILE]

For each capture, the input images of one frame on the left and its avatar, in motion and from all around, on the
right. The avatars are those that `infer.py CAPTURE` wrote.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import io
import logging
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.avatar.file import load_avatar
from core.avatar.rendering import supersampling
from core.data.capture import Capture
from core.data.dataset import load_frames
from core.data.protocol import resolve
from core.data.readers import open_capture
from core.inference.animation import camera_path, render_motion
from core.inference.session import FULL
from core.motion.motion import apply_motion, in_periods
from core.motion.sources import open_motion
from core.utils.cli import run
from core.utils.images import to_bytes
from core.utils.ranges import Range, checked
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger("showcase")

MIN_SECONDS = 4.0
"""Duration to which a loop is repeated."""
RENDERED_SIZE = 512
"""Pixels at which the shipped network was trained; smaller images are averages of larger ones."""


@torch.no_grad()
def main(
    captures: Annotated[tuple[Path, ...], tyro.conf.Positional],
    workspace: Path = Path("workspace/inference"),
    out: Path = Path("showcase.webp"),
    motion: str = "dance",
    size: Annotated[int, Range(32, 1024)] = 320,
    fps: Annotated[int, Range(1, 50)] = 20,
    turns: Annotated[int, Range(0, 8)] = 1,
    quality: Annotated[int, Range(1, 100)] = 75,
) -> None:
    """Write an animated WebP that repeats without a seam.

    Args:
        captures: Folders of captures.
        workspace: Folder with the results of infer.py, one folder per subject.
        out: Output file (.webp).
        motion: Name of a built-in motion, or a motion file (docs/motion.md).
        size: Height of the picture in pixels.
        fps: Frames per second.
        turns: Turns of the camera around the avatar.
        quality: Quality of the compression.
    """
    if not captures:
        raise InputError("no capture is named; give the folder of one")
    if out.suffix.lower() != ".webp":
        raise InputError(f"--out must end in .webp, got {out}")
    clips = [_subject(open_capture(path), workspace, motion, size, fps, turns) for path in captures]
    count = max(map(len, clips))
    rows = [torch.cat([clip[t % len(clip)] for clip in clips], -1) for t in range(count)]
    first, *others = (Image.fromarray(to_bytes(row)) for row in rows)
    file = io.BytesIO()
    settings = {"duration": round(1000 / fps), "loop": 0, "quality": quality, "method": 6}
    first.save(file, "WEBP", save_all=True, append_images=others, **settings)
    with atomic_path(out) as temporary:
        temporary.write_bytes(file.getvalue())
    logger.info("wrote %d frames to %s (%.2f MB)", count, out, len(file.getvalue()) / 1e6)


def _subject(
    capture: Capture, workspace: Path, motion: str, size: int, fps: int, turns: int
) -> list[Float[Tensor, "3 H W"]]:
    """Frames of one subject: input images beside the avatar."""
    avatar = load_avatar(workspace / capture.subject / "avatar.safetensors", torch.device("cpu"))
    body = capture.body()
    clip = in_periods(open_motion(motion, body), fps, MIN_SECONDS)
    poses = apply_motion(clip, body, avatar.betas)
    orbit = {"orbit_seconds": len(clip) / fps / max(turns, 1), "fps": fps}
    cameras = camera_path(body, poses, size, "orbit" if turns else "follow", **orbit)
    renderings = render_motion(avatar, body, poses, cameras, supersample=supersampling(size, RENDERED_SIZE))
    still = _inputs(capture, body, size)
    progress = tqdm(renderings, total=len(clip), desc=capture.subject, unit="frame")
    return [torch.cat([still, rendering.colors], -1) for rendering in progress]


def _inputs(capture: Capture, body: BodyModel, size: int) -> Float[Tensor, "3 H W"]:
    """At most four input images of the first frame, two in a row; as high as the picture."""
    plan = resolve(FULL, capture, body)
    views = plan.input_views[:4]
    tile = size // 2 if len(views) > 1 else size
    frames = load_frames(capture, body, plan.observed_frames[:1], views, views[0], tile, "person")
    images = list(frames.images[0])
    if len(images) == 1:
        return images[0]
    images += [torch.ones_like(images[0])] * (len(images) % 2)
    columns = [torch.cat(images[i : i + 2], -2) for i in range(0, len(images), 2)]
    still = torch.cat(columns, -1)
    return torch.nn.functional.pad(still, (0, 0, 0, size - still.shape[-2]), value=1.0)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
