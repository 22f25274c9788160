"""Contact sheet: one image that shows the people of a set of captures."""

import logging
from pathlib import Path

from PIL import Image

from core.data.images import FORMATS
from scripts.synthetic.layout import image_pairs
from scripts.synthetic.stamp import read_stamp
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger(__name__)

STACKED = 16
"""Strips in a column."""
SUFFIXES = (".png", ".jpg", ".jpeg")


def check_sheet_path(path: Path) -> None:
    """Check the name of a contact sheet, before hours of drawing.

    Raises:
        InputError: If the suffix is not one of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--contact-sheet {path}: must end in {', '.join(SUFFIXES)}")


def write_contact_sheet(
    path: Path, subjects: list[Path], views: int = 4, poses: int = 3, height: int = 160, people: int = 48
) -> None:
    """Write a sheet with a strip of images per person, on white, in columns of up to `STACKED` strips.

    Missing captures are left out; if all are missing, nothing is written.

    Args:
        path: Path of the sheet, `.png` or `.jpg`.
        subjects: Folders of captures.
        views: Number of cameras per person, evenly spread.
        poses: Number of frames per person, evenly spread.
        height: Height of each image in pixels.
        people: Maximum number of people, evenly spread.
    Raises:
        InputError: If `path` has another suffix.
    """
    check_sheet_path(path)
    subjects = [subject for subject in subjects if read_stamp(subject)]
    if not subjects:
        logger.warning("%s: not written, because all of its captures are missing", path)
        return
    strips = [[_tile(*pair, height) for pair in _chosen(s, views, poses)] for s in _spread(subjects, people)]
    width = max(sum(tile.width for tile in strip) for strip in strips)
    rows = min(len(strips), STACKED)
    sheet = Image.new("RGB", (width * -(-len(strips) // rows), height * rows), "white")
    for index, strip in enumerate(strips):
        left = index // rows * width
        for tile in strip:
            sheet.paste(tile, (left, index % rows * height))
            left += tile.width
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _chosen(subject: Path, views: int, poses: int) -> list[tuple[Path, Path]]:
    cameras = _spread(list(image_pairs(subject).values()), views)
    return [pair for pairs in cameras for pair in _spread(pairs, poses)]


def _spread(items: list, count: int) -> list:
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _tile(image: Path, mask_file: Path, height: int) -> Image.Image:
    """The middle of an image on white, without its background."""
    color = Image.open(image, formats=FORMATS).convert("RGB")
    mask = Image.open(mask_file, formats=FORMATS).convert("L").resize(color.size)
    cut_out = Image.composite(color, Image.new("RGB", color.size, "white"), mask)
    margin = cut_out.width // 5
    cut_out = cut_out.crop((margin, 0, cut_out.width - margin, cut_out.height))
    return cut_out.resize((cut_out.width * height // cut_out.height, height), Image.Resampling.LANCZOS)
