"""Images of the test people for the README: a sheet of inputs, targets and renderings, and a turntable."""

import io
import logging
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.avatar.avatar import Avatar
from core.inference.session import Session
from core.inference.sheet import Tile, make_sheet
from core.inference.trajectories import turntable
from core.types.frames import Frames
from core.utils.images import save_image, to_bytes
from scripts.results.bench import Bench, InputSubset
from scripts.results.options import ResultsOptions
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

SHEET_PEOPLE = 4
TILE = 192  # pixels of each tile of the sheet
TURNTABLE_PEOPLE = 3
TURNTABLE_SIZE, TURNTABLE_FRAMES, TURNTABLE_MS = 200, 40, 80
GIF_BYTES = 1_500_000


@torch.no_grad()
def write_images(options: ResultsOptions, out: Path) -> None:
    """Write `people.png` and `turntable.gif` of refined avatars of the first test people."""
    bench = Bench(options)
    session = bench.refined
    avatars = bench.avatars(session, InputSubset(), count=max(SHEET_PEOPLE, TURNTABLE_PEOPLE))
    rows = [_strip(bench, session, index, avatar) for index, avatar in enumerate(avatars[:SHEET_PEOPLE])]
    save_image(out / "people.png", make_sheet(rows, TILE))
    poses = [inputs[0] for inputs in bench.inputs(session)]
    turntables = [_turntable(session, avatar, pose) for avatar, pose in zip(avatars[:TURNTABLE_PEOPLE], poses)]
    save_gif(out / "turntable.gif", torch.cat(turntables, -1))
    logger.info("wrote %s and %s", out / "people.png", out / "turntable.gif")


def _strip(bench: Bench, session: Session, index: int, avatar: Avatar) -> list[Tile]:
    """Input views of the first frame; target and rendering in a novel view and in a novel pose."""
    person = bench.people.subjects[index]
    inputs = bench.people.inputs(TILE, "person")[index][0].unpack()
    tiles = [Tile(f"input {view}", image) for view, image in zip(person.plan.input_views, inputs.images)]
    targets = bench.people.targets(TILE, "person")[index]
    for split, frame, view in (("view", 0, 0), ("pose", -1, len(person.plan.target_views) // 2)):
        if split == "pose" and not person.plan.novel_frames:
            continue
        target = targets[frame].unpack()
        drawn = _draw(session, avatar, target)
        tiles += [Tile(f"novel {split}: truth", target.images[view]), Tile(f"novel {split}: ours", drawn[view])]
    return tiles


def _draw(session: Session, avatar: Avatar, target: Frames) -> Float[Tensor, "C 3 H W"]:
    return session.render(avatar[None], target.body[None, None], target.cameras[None, None])[0, 0]


def _turntable(session: Session, avatar: Avatar, frame: Frames) -> Float[Tensor, "T 3 H W"]:
    """Renderings of an avatar in the pose of a frame, from all sides."""
    cameras = turntable(session.body(frame.body).vertices, TURNTABLE_FRAMES, TURNTABLE_SIZE)
    batches = (cameras[first : first + 10] for first in range(0, TURNTABLE_FRAMES, 10))
    return torch.cat(
        [session.render(avatar[None], frame.body[None, None], batch[None, None])[0, 0] for batch in batches]
    )


def save_gif(path: Path, frames: Float[Tensor, "T 3 H W"], max_bytes: int = GIF_BYTES) -> None:
    """Write a looping GIF with the largest number of colours that keeps it within a size.

    Raises:
        InputError: If it is too large with 16 colours.
    """
    images = [Image.fromarray(to_bytes(frame)) for frame in frames]
    for colors in (128, 64, 32, 16):
        # One palette for all images, because colours flicker otherwise.
        palette = _side_by_side(images[:: max(1, len(images) // 8)]).quantize(colors)
        first, *others = (p.quantize(palette=palette, dither=Image.Dither.NONE) for p in images)
        file = io.BytesIO()
        first.save(file, "GIF", save_all=True, append_images=others, duration=TURNTABLE_MS, loop=0, optimize=True)
        if len(file.getvalue()) <= max_bytes:
            with atomic_path(path) as temporary:
                temporary.write_bytes(file.getvalue())
            return
    raise InputError(f"{path}: would have more than {max_bytes} bytes; render fewer or smaller images")


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (sum(p.width for p in images), images[0].height))
    for i, image in enumerate(images):
        sheet.paste(image, (i * image.width, 0))
    return sheet
