"""Make a packed copy of captures, from which training reads faster: python scripts/prepare_data.py --out packed

The copy is in MVHumanNet's layout too: train on it with --data.root packed --data.no-verify.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.environment import require

require()

import logging
import os

import tyro

from core.cli import run
from core.data.human_list import find_subjects
from core.data.packing import pack_dataset
from smpl_renderer.errors import InputError

logger = logging.getLogger("prepare_data")


def main(
    root: Path = Path("mvhuman_24"),
    out: Path = Path("packed"),
    height: int = 512,
    quality: int = 95,
    every: int = 1,
    body: Path | None = None,
    workers: int = -1,
) -> None:
    """Write the people of a folder again, with smaller pictures. A run that was interrupted goes on where it was.

    Captures that cannot be used are named at the end (exit status 2), when all others are packed and listed.

    Args:
        root: Folder of captures; where it has a human list, only the list's people, views and poses are packed.
        out: Folder of the copy.
        height: Of the pictures, in pixels: --data.image-size for --data.crop center, half as much again for person.
        quality: Of the JPEG files.
        every: Pack every n-th frame of those that have a fit.
        body: A body model file; by default it is found by the capture's fingerprint.
        workers: Processes that pack one person each; 0 uses this one, -1 as many as there are processors.
    """
    if min(height, every) < 1 or not 1 <= quality <= 100:
        raise InputError("--height and --every must be at least 1, --quality from 1 to 100")
    subjects = find_subjects(root)
    if workers < 0:
        workers = min(os.cpu_count() or 1, len(subjects))
    pack_dataset(subjects, out, height, quality, every, body, workers)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    logger.info(
        "%d people in %s, %.1f GB; train with --data.root %s --data.no-verify", len(subjects), out, size / 1e9, out
    )


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
