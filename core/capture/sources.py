"""Find the images or videos of an input path: one source per camera."""

import logging
from dataclasses import dataclass
from pathlib import Path

from core.capture.image_source import ImageSource
from core.capture.stills import IMAGE_SUFFIXES, StillSource
from core.capture.video import VIDEO_SUFFIXES, VideoSource
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

CAMERA_FOLDERS = ("images", "videos", "rgb", "imgs")
"""Folders that hold the images of a rig, searched for in this order."""
_SUBJECT_FILES = (
    *("capture.json", "camera_extrinsics.json", "camera_intrinsics.json", "camera_scale.pkl", "images_lr", "fmask_lr"),
)
"""Any of these makes a folder a capture already."""


@dataclass(frozen=True)
class InputFiles:
    """Images or videos of an input path."""

    path: Path
    sources: tuple[ImageSource, ...]
    """Sources, one per camera."""
    one_frame: bool = False
    """All images show the same frame: one image by each of many cameras."""

    @property
    def is_rig(self) -> bool:
        return len(self.sources) > 1


def is_capture_input(path: Path) -> bool:
    """True if a path can be prepared: a video, an image, or a folder with images, videos or camera folders.

    A folder that already is a capture (in MVHumanNet's layout, or with a `capture.json`) is none.
    """
    path = Path(path)
    if path.is_file():
        return path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES
    if not path.is_dir() or any((path / name).exists() for name in _SUBJECT_FILES):
        return False
    nested = [path / name for name in CAMERA_FOLDERS if (path / name).is_dir()]
    return any(_holds(folder) for folder in (path, *nested))


def open_input(path: Path, *, one_frame: bool = False) -> InputFiles:
    """Find the images or videos of an input.

    A folder holds one camera's images, one video, a video per camera, or a folder of images or a video per camera. Each
    of these may also be in a folder named in `CAMERA_FOLDERS`.

    Args:
        path: A video, an image, or a folder.
        one_frame: Each image of the folder is a camera of its own (calibrations that list images one by one).
    Raises:
        InputError: If nothing usable is there.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; name a video, an image or a folder of images")
    if path.is_file():
        return InputFiles(path, (_open_file(path),))
    folder = path
    if not _image_files(path) and not _video_files(path):
        nested = next((path / name for name in CAMERA_FOLDERS if (path / name).is_dir() and _holds(path / name)), None)
        folder = nested or path
    images, videos = _image_files(folder), _video_files(folder)
    cameras = {sub.name: _image_files(sub) for sub in _subfolders(folder)}
    cameras = {name: files for name, files in cameras.items() if files}
    if videos:
        if images:
            logger.warning("%s: holds %d images beside videos; the images are not used", folder, len(images))
        return InputFiles(path, tuple(VideoSource(video) for video in videos))
    if images and one_frame:
        return InputFiles(path, tuple(StillSource([image], image.stem) for image in images), one_frame=True)
    if images:
        return InputFiles(path, (StillSource(images, "camera"),))
    nested_videos = [video for sub in _subfolders(folder) for video in _video_files(sub)[:1]]
    if cameras:
        return InputFiles(path, tuple(StillSource(files, name) for name, files in cameras.items()))
    if nested_videos:
        return InputFiles(path, tuple(VideoSource(video, video.parent.name) for video in nested_videos))
    raise InputError(
        f"{path}: holds no image ({' '.join(IMAGE_SUFFIXES)}) and no video ({' '.join(VIDEO_SUFFIXES)}); "
        "name a video, an image or a folder of them"
    )


def _open_file(path: Path) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoSource(path)
    if suffix in IMAGE_SUFFIXES:
        return StillSource([path], "camera")
    known = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
    raise InputError(f"{path}: not an image or a video by its name (known: {known}); convert it to one of these")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return sorted((p for p in found if p.is_file()), key=natural_order)


def natural_order(path: Path) -> list:
    """Sort key in which `img2` comes before `img10`."""
    digits, text, key = "", "", []
    for character in path.name + "\0":
        if character.isdigit():
            digits += character
            continue
        if digits:
            key.append((text, int(digits)))
            digits, text = "", ""
        text += character
    return [*key, (text, 0)]


def _image_files(folder: Path) -> list[Path]:
    return _files(folder, IMAGE_SUFFIXES)


def _video_files(folder: Path) -> list[Path]:
    return _files(folder, VIDEO_SUFFIXES)


def _subfolders(folder: Path) -> list[Path]:
    """Folders that are no captures."""
    found = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted((p for p in found if not any((p / name).exists() for name in _SUBJECT_FILES)), key=natural_order)


def _holds(folder: Path) -> bool:
    return any(_image_files(each) or _video_files(each) for each in (folder, *_subfolders(folder)))
