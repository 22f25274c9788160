"""Pictures of the test people for the README: a sheet of inputs, truth and avatar, and avatars that turn."""

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

PEOPLE = 4
TILE = 192  # pixels of each of the sheet's pictures
TURNING = 3
TURN_SIZE, TURN_FRAMES, TURN_MS = 200, 40, 80
GIF_BYTES = 1_500_000


@torch.no_grad()
def write_pictures(options: ResultsOptions, out: Path) -> None:
    """Write `people.png` and `turntable.gif` of the first test people, refined, into a folder."""
    bench = Bench(options)
    session = bench.refined
    avatars = bench.avatars(session, InputSubset(), persons=max(PEOPLE, TURNING))
    rows = [_strip(bench, session, index, avatar) for index, avatar in enumerate(avatars[:PEOPLE])]
    save_image(out / "people.png", make_sheet(rows, TILE))
    poses = [inputs[0] for inputs in bench.inputs(session)]
    turns = [_turn(session, avatar, pose) for avatar, pose in zip(avatars[:TURNING], poses)]
    save_gif(out / "turntable.gif", torch.cat(turns, -1))
    logger.info("wrote %s and %s", out / "people.png", out / "turntable.gif")


def _strip(bench: Bench, session: Session, index: int, avatar: Avatar) -> list[Tile]:
    """Input views of the first moment; truth and avatar from a new view, in that pose and in a held-out one."""
    person = bench.people.persons[index]
    inputs = bench.people.inputs(TILE, "person")[index][0].unpack()
    tiles = [Tile(f"input {view}", image) for view, image in zip(person.plan.input_views, inputs.images)]
    targets = bench.people.targets(TILE, "person")[index]
    for kind, moment, view in (("view", 0, 0), ("pose", -1, len(person.plan.target_views) // 2)):
        if kind == "pose" and not person.plan.novel_frames:
            continue
        target = targets[moment].unpack()
        drawn = _draw(session, avatar, target)
        tiles += [Tile(f"novel {kind}: truth", target.images[view]), Tile(f"novel {kind}: ours", drawn[view])]
    return tiles


def _draw(session: Session, avatar: Avatar, target: Frames) -> Float[Tensor, "C 3 H W"]:
    return session.render(avatar[None], target.body[None, None], target.cameras[None, None])[0, 0]


def _turn(session: Session, avatar: Avatar, moment: Frames) -> Float[Tensor, "T 3 H W"]:
    """An avatar in one pose, from all around."""
    cameras = turntable(session.body(moment.body).vertices, TURN_FRAMES, TURN_SIZE)
    portions = (cameras[first : first + 10] for first in range(0, TURN_FRAMES, 10))
    return torch.cat(
        [session.render(avatar[None], moment.body[None, None], some[None, None])[0, 0] for some in portions]
    )


def save_gif(path: Path, frames: Float[Tensor, "T 3 H W"], max_bytes: int = GIF_BYTES) -> None:
    """Write a looping GIF with the most colours that keep it within a size.

    Raises:
        InputError: If 16 colours are still too many.
    """
    pictures = [Image.fromarray(to_bytes(frame)) for frame in frames]
    for colors in (128, 64, 32, 16):
        # One palette for all, or the colours would flicker.
        palette = _side_by_side(pictures[:: max(1, len(pictures) // 8)]).quantize(colors)
        first, *others = (p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures)
        file = io.BytesIO()
        first.save(file, "GIF", save_all=True, append_images=others, duration=TURN_MS, loop=0, optimize=True)
        if len(file.getvalue()) <= max_bytes:
            with atomic_path(path) as temporary:
                temporary.write_bytes(file.getvalue())
            return
    raise InputError(f"{path}: would have more than {max_bytes} bytes; draw fewer or smaller pictures")


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (sum(p.width for p in pictures), pictures[0].height))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * picture.width, 0))
    return sheet
