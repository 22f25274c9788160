"""Captures for benchmarks that read data: given ones, or synthetic people at MVHumanNet's image size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from core.utils.device import pick_device
from scripts.synthetic import FIRST_SUBJECT, CaptureOptions, default_frames, write_dataset


@contextmanager
def captures(
    root: Path | None, people: int, width: int, height: int, poses: int = 6, cameras: int = 10
) -> Iterator[Path]:
    """The folder `root`, or a temporary folder of synthetic captures."""
    if root is not None:
        yield root
        return
    options = CaptureOptions(
        cameras=cameras, frames=tuple(default_frames(poses)), width=width, height=height, samples=1
    )
    with TemporaryDirectory(prefix="people-") as folder:
        names = {str(FIRST_SUBJECT + 1 + i): 1 + i for i in range(people)}
        workers = min(os.cpu_count() or 1, people)
        write_dataset(Path(folder), names, options, device=str(pick_device("auto")), workers=workers)
        yield Path(folder)
