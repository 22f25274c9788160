"""Paths of a capture's files below a subject's folder, in MVHumanNet's layout and in that of `capture.json`."""

from pathlib import Path

from core.data.capture_json import CAPTURE_FILE
from core.data.fits import FIT_FOLDER, REFIT_FOLDER

FORMATS = ("mvhumannet", "capture")
"""MVHumanNet's layout, and our own (docs/data.md)."""
_IMAGES = {"mvhumannet": ("images_lr", "_img.jpg"), "capture": ("images", ".jpg")}
_MASKS = {"mvhumannet": ("fmask_lr", "_img_fmask.png"), "capture": ("masks", ".png")}
"""Folders of images and masks by format, and the ends of the names of their files."""
STAMP = "body.json"
"""Record of the body model and of the options of a capture in MVHumanNet's layout. In our own format that is `source`
in `capture.json`. Written last, so that it marks a complete capture."""


def image_files(folder: Path, camera: str, frame: int, format: str = "mvhumannet") -> tuple[Path, Path]:
    """Paths of an image and of its mask."""
    images, masks = (kind[format] for kind in (_IMAGES, _MASKS))
    return tuple(folder / name / camera / f"{frame:04d}{ending}" for name, ending in (images, masks))


def image_pairs(folder: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Images and their masks by camera, in the order of their names, in either format."""
    format = "capture" if (folder / CAPTURE_FILE).is_file() else "mvhumannet"
    name, ending = _IMAGES[format]
    pairs = {}
    for camera in sorted((folder / name).iterdir()):
        frames = sorted(int(path.name.removesuffix(ending)) for path in camera.glob(f"*{ending}"))
        pairs[camera.name] = [image_files(folder, camera.name, frame, format) for frame in frames]
    return pairs


def fit_file(folder: Path, frame: int) -> Path:
    """Path of a fit in MVHumanNet's release, where the index counts stored frames from 0."""
    return folder / FIT_FOLDER / f"{frame // 5 - 1:06d}.pkl"


def refit_file(folder: Path, frame: int) -> Path:
    """Path of a fit as HGG reads it; its points have the same name with `.ply`."""
    return folder / REFIT_FOLDER / f"{frame:04d}.json"
