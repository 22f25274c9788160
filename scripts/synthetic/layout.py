"""Where a capture's files are: MVHumanNet's names under a subject's folder."""

from pathlib import Path

from core.data.fits import FIT_FOLDER, REFIT_FOLDER

IMAGE_FOLDER, MASK_FOLDER = "images_lr", "fmask_lr"
STAMP = "body.json"
"""The body that the fits belong to, and what made the capture. Written last: where it is, the capture is whole."""


def picture_files(folder: Path, camera: str, frame: int) -> tuple[Path, Path]:
    """A picture and its mask."""
    name = f"{frame:04d}_img"
    return folder / IMAGE_FOLDER / camera / f"{name}.jpg", folder / MASK_FOLDER / camera / f"{name}_fmask.png"


def fit_file(folder: Path, frame: int) -> Path:
    """The fit as MVHumanNet has it, whose index counts the kept frames from 0."""
    return folder / FIT_FOLDER / f"{frame // 5 - 1:06d}.pkl"


def refit_file(folder: Path, frame: int) -> Path:
    """The fit as HGG has it; its points have the same name with `.ply`."""
    return folder / REFIT_FOLDER / f"{frame:04d}.json"
