"""Make a packed copy of captures, from which training reads faster: python scripts/prepare_data.py --out packed

With --crop and --size it holds the pictures as one training takes them, ready: the fastest. Without, the copy is in
MVHumanNet's layout and serves any crop and size. Train on it with --data.root packed --data.no-verify.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import os

import tyro

from core.data.human_list import find_subjects
from core.data.packing import pack_crops, pack_dataset
from core.utils.cli import run
from smpl_renderer.errors import InputError

logger = logging.getLogger("prepare_data")


def main(
    root: tuple[Path, ...] = (Path("mvhuman_24"),),
    out: Path = Path("packed"),
    crop: Literal["center", "person"] | None = None,
    size: int = 256,
    height: int = 512,
    quality: int = 95,
    every: int = 1,
    body: Path | None = None,
    verify: bool = True,
    workers: int = -1,
) -> None:
    """Write the people of a folder again, with smaller pictures. A run that was interrupted goes on where it was.

    Captures that cannot be used are named at the end (exit status 2), when all others are packed and listed.

    Args:
        root: Folder of captures; where it has a human list, only the list's people, views and poses are packed. The
            people of several folders become one set, in this order: those to hold out come last.
        out: Folder of the copy; it may be one that has pictures, or ready crops of another size.
        crop: Write ready crops: the --data.crop of the training.
        size: Of ready crops, in pixels: the --data.image-size of the training.
        height: Of pictures, in pixels: --data.image-size for --data.crop center, a fifth more for person.
        quality: Of pictures, as JPEG files.
        every: Pack every n-th frame of those that have a fit.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: Leave out cameras that were moved. Synthetic captures have none (--no-verify).
        workers: Processes that pack one person each; 0 uses this one, -1 as many as there are processors.
    """
    if min(height, size, every) < 1 or not 1 <= quality <= 100:
        raise InputError("--height, --size and --every must be at least 1, --quality from 1 to 100")
    subjects = [entry for folder in root for entry in find_subjects(folder)]
    if workers < 0:
        workers = min(os.cpu_count() or 1, len(subjects))
    if crop is None:
        pack_dataset(subjects, out, height, quality, every, body, verify, workers)
    else:
        pack_crops(subjects, out, crop, size, every, body, verify, workers)
    gigabytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e9
    options = "" if crop is None else f" --data.crop {crop} --data.image-size {size}"
    logger.info(
        "%d people in %s, %.1f GB; train with --data.root %s --data.no-verify%s",
        *(len(subjects), out, gigabytes, out, options),
    )


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
