"""Paths of a capture's files in MVHumanNet's layout, below a subject's folder."""

from pathlib import Path

from core.data.fits import FIT_FOLDER, REFIT_FOLDER

IMAGE_FOLDER, MASK_FOLDER = "images_lr", "fmask_lr"
STAMP = "body.json"
"""Record of the body model and of the options of a capture. Written last, so that it marks a complete capture."""


def image_files(folder: Path, camera: str, frame: int) -> tuple[Path, Path]:
    """Paths of an image and of its mask."""
    name = f"{frame:04d}_img"
    return folder / IMAGE_FOLDER / camera / f"{name}.jpg", folder / MASK_FOLDER / camera / f"{name}_fmask.png"


def fit_file(folder: Path, frame: int) -> Path:
    """Path of a fit in MVHumanNet's release, where the index counts stored frames from 0."""
    return folder / FIT_FOLDER / f"{frame // 5 - 1:06d}.pkl"


def refit_file(folder: Path, frame: int) -> Path:
    """Path of a fit as HGG reads it; its points have the same name with `.ply`."""
    return folder / REFIT_FOLDER / f"{frame:04d}.json"
