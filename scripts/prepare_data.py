"""Make a packed copy of captures, which training reads faster: python scripts/prepare_data.py --out packed

With --crop and --size it holds the images as one training uses them, cropped and uncompressed, which is the fastest.
Without, it holds captures with smaller images (capture.json), for any crop and size. Train on it with
--data.root packed --data.no-verify.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import os
from typing import Literal

import tyro

from core.data.human_list import find_subjects
from core.data.packing import pack_crops, pack_dataset
from core.utils.cli import run
from core.utils.ranges import Count, ImageSize, Percentage, Workers, checked

logger = logging.getLogger("prepare_data")


def main(
    root: tuple[Path, ...] = (Path("mvhuman_24"),),
    out: Path = Path("packed"),
    crop: Literal["center", "person"] | None = None,
    size: ImageSize = 256,
    height: ImageSize = 512,
    quality: Percentage = 95,
    every: Count = 1,
    body: Path | None = None,
    verify: bool = True,
    workers: Workers = -1,
) -> None:
    """Write packed copies of the subjects of a folder. An interrupted run resumes.

    Captures that cannot be used are named at the end (exit status 2), after all others are packed and listed.

    Args:
        root: Folder of captures; if it has a human list, only the subjects, views and poses of the list are packed. The
            subjects of several folders become one set, in this order: those to hold out come last.
        out: Folder of the copy; it may already have images, or ready crops of another size.
        crop: Write ready crops: --data.crop of the training.
        size: Side of ready crops in pixels: --data.image-size of the training.
        height: Height of images in pixels: --data.image-size for --data.crop center, a fifth more for person.
        quality: JPEG quality of images.
        every: Pack every n-th frame of those that have a fit.
        body: A body model file; by default it is found by the capture's fingerprint.
        verify: Leave out moved cameras, and images whose masks do not fit. Synthetic captures have none (--no-verify).
        workers: Processes, each packing one subject at a time; 0 uses this one, -1 one per processor.
    """
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
        "%d subjects in %s, %.1f GB; train with --data.root %s --data.no-verify%s",
        *(len(subjects), out, gigabytes, out, options),
    )


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
