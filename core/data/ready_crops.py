"""Ready crops: the images of a capture as one training uses them: cropped, composed on white, uncompressed.

    <subject>/crops/<crop>_<size>.npy    RGB and alpha, uint8 [F, C, 4, size, size]
    <subject>/crops/<crop>_<size>.npz    frames, cameras, windows and fits; written last, so it marks a complete pair

They equal what the loader would cut from the images that they were made of, to the bit. `core.data.packing` writes
them.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from core.data.crops import PERSON_MARGIN, Window
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import CONTENT_ERRORS, check_archive, check_file
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

CROPS_FOLDER = "crops"
MAX_INDEX_BYTES, MAX_CROPS_BYTES = 2**28, 2**42
"""Largest index of ready crops, and largest file of their images; of the latter only the needed parts are read."""
VERSION = 1
"""Version of the files, and of how images are cropped and resampled (`crops.read_window`)."""


@dataclass(frozen=True)
class ReadyCrops:
    """Index of the ready crops of one capture with F frames and C cameras; the images stay in their file."""

    path: Path
    """File of the images."""
    cameras: list[str]
    frames: list[int]
    present: Bool[np.ndarray, "F C"]
    """True where the image exists; captures have holes."""
    windows: Float[np.ndarray, "F C 3"]
    """Left, top and side, in pixels of the calibrated image; NaN where there is no image."""
    fits: BodyParams
    """Batch axis F, in the raw world, float64."""
    body: str
    """Fingerprint of the body of the fits, which the `person` windows enclose."""

    def frames_of(self, camera: str) -> list[int]:
        """Frames of which this camera has an image."""
        return [frame for frame, there in zip(self.frames, self.present[:, self._columns[camera]]) if there]

    def fit(self, frame: int, body: BodyModel) -> BodyParams:
        """The fit of a frame; no batch axes, in the raw world, float64.

        Raises:
            InputError: If there is none, or it is for another body.
        """
        if frame not in self._rows:
            raise InputError(
                f"{self.path}: has no frame {frame:04d}; choose another frame, or pack the capture into a new folder"
            )
        if body.fingerprint != self.body:
            raise InputError(
                f"{self.path}: made with the body {self.body}, not with {body.name} ({body.fingerprint}); name that "
                "body, or pack the capture into a new folder"
            )
        return self.fits[self._rows[frame]]

    def read(
        self, frames: list[int], cameras: list[str], crop: str, size: int
    ) -> tuple[list[list[Window]], UInt8[np.ndarray, "f c 3 S S"], UInt8[np.ndarray, "f c 1 S S"]]:
        """Read windows, images and alphas of some of the frames and cameras.

        Args:
            frames: Image ids.
            cameras: Names.
            crop: Crop that the caller expects.
            size: Size in pixels that the caller expects.
        Raises:
            ValueError: If these crops have another crop or size.
            InputError: If an image is missing, or the file is missing or truncated.
        """
        if self.path != crops_path(self.path.parents[1], crop, size):
            raise ValueError(f"{self.path.name} holds no crop `{crop}` of {size} pixels; open the capture for these")
        shape = len(frames), len(cameras)
        windows = np.empty((*shape, 3))
        images, alphas = (np.empty((*shape, channels, size, size), np.uint8) for channels in (3, 1))
        try:
            with self.path.open("rb", buffering=0) as file:  # not mapped: one copy, no page faults, no open files
                for f, c in np.ndindex(shape):
                    place = self._place(frames[f], cameras[c])
                    windows[f, c] = self.windows[place]
                    file.seek(self._offset + (place[0] * len(self.cameras) + place[1]) * 4 * size * size)
                    if file.readinto(images[f, c]) + file.readinto(alphas[f, c]) != 4 * size * size:
                        raise InputError(f"{self.path}: is truncated; pack the capture into a new folder")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error}); pack the capture into a new folder") from error
        return [[Window(*window) for window in row] for row in windows.tolist()], images, alphas

    def _place(self, frame: int, camera: str) -> tuple[int, int]:
        row, column = self._rows.get(frame), self._columns.get(camera)
        if row is None or column is None or not self.present[row, column]:
            raise InputError(
                f"{self.path}: camera {camera} has no frame {frame:04d}; choose others, or pack the capture into a new "
                "folder"
            )
        return row, column

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {frame: i for i, frame in enumerate(self.frames)}

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.cameras)}

    @cached_property
    def _offset(self) -> int:
        """Offset of the first image in the file, in bytes."""
        check_file(self.path, MAX_CROPS_BYTES, "ready crops")
        return np.load(self.path, mmap_mode="r").offset


def crops_path(folder: Path, crop: str, size: int) -> Path:
    """Path of the images of ready crops in a subject folder; their index has the suffix `.npz`."""
    return folder / CROPS_FOLDER / f"{crop}_{size}.npy"


def has_ready_crops(folder: Path, crop: str, size: int) -> bool:
    """True if a subject folder has both files of these ready crops."""
    path = crops_path(folder, crop, size)
    return path.is_file() and path.with_suffix(".npz").is_file()


def sizes_ready(folder: Path) -> list[str]:
    """Ready crops of a subject folder, as `person at 256 px`."""
    names = sorted(path.stem.rpartition("_") for path in (folder / CROPS_FOLDER).glob("[a-z]*_*.npz"))
    return [f"{crop} at {size} px" for crop, _, size in names]


def find_ready_crops(folder: Path, crop: str, size: int) -> ReadyCrops | None:
    """Open the ready crops of a subject folder; None if it has none of this crop and size.

    Raises:
        InputError: If they cannot be read, or were made by another version or with another margin.
    """
    path = crops_path(folder, crop, size)
    record = path.with_suffix(".npz")
    if not record.is_file():
        return None
    check_archive(record, MAX_INDEX_BYTES, "an index of ready crops")
    check_file(path, MAX_CROPS_BYTES, "ready crops")
    try:
        with np.load(record, allow_pickle=False) as archive:
            values = {name: archive[name] for name in archive.files}
        made = int(values["version"]), float(values["margin"])
        fits = {field.name: torch.from_numpy(values[field.name]) for field in fields(BodyParams)}
        crops = ReadyCrops(
            path=path,
            cameras=values["cameras"].tolist(),
            frames=values["frames"].tolist(),
            present=values["present"],
            windows=values["windows"],
            fits=BodyParams(**fits),
            body=str(values["body"]),
        )
        _check(crops)
        images = np.load(path, mmap_mode="r")
    except (OSError, EOFError, zipfile.BadZipFile, *CONTENT_ERRORS) as error:
        raise InputError(f"{record}: cannot be read ({error}); pack the capture into a new folder") from error
    if made != (VERSION, _margin(crop)):
        raise InputError(
            f"{record}: made as version {made[0]} with margin {made[1]}, now it is {VERSION} with {_margin(crop)}; "
            "pack the capture into a new folder"
        )
    if images.shape != (*crops.present.shape, 4, size, size) or images.dtype != np.uint8:
        raise InputError(f"{path}: does not belong to {record.name}; pack the capture into a new folder")
    return crops


def _check(crops: ReadyCrops) -> None:
    """Raise ValueError if the parts of an index contradict each other."""
    shape, count = (len(crops.frames), len(crops.cameras)), len(crops.frames)
    if crops.present.shape != shape or crops.present.dtype != bool or crops.windows.shape != (*shape, 3):
        raise ValueError(f"`present` and `windows` are not of {shape[0]} frames and {shape[1]} cameras")
    if not np.isfinite(crops.windows[crops.present]).all() or len({*crops.frames}) != count:
        raise ValueError("windows or frames are missing")
    for field in fields(BodyParams):
        values = getattr(crops.fits, field.name)
        if len(values) != count or not values.is_floating_point() or not bool(values.isfinite().all()):
            raise ValueError(f"`{field.name}` does not hold the fits of {count} frames")


def write_ready_crops(
    path: Path,
    crop: str,
    size: int,
    cameras: list[str],
    frames: list[int],
    fits: BodyParams,
    body: BodyModel,
    images: Iterable[tuple[Window, UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S"]] | None],
) -> None:
    """Write the images, then their index, which marks both as complete.

    Args:
        path: File of the images, see `crops_path`.
        crop: `center` or `person`.
        size: Size of the images in pixels.
        cameras: The C cameras.
        frames: The F image ids.
        fits: Batch axis F, in the raw world.
        body: The body of the fits.
        images: F x C windows with their images and alphas, cameras fastest; None where there is no image.
    """
    present = np.zeros((len(frames), len(cameras)), bool)
    windows = np.full((len(frames), len(cameras), 3), np.nan)
    nothing = bytes(4 * size * size)
    path.with_suffix(".npz").unlink(missing_ok=True)  # it describes other images
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (*present.shape, 4, size, size)}
        np.lib.format.write_array_header_1_0(file, header)
        for place, item in zip(np.ndindex(present.shape), images, strict=True):
            if item is None:
                file.write(nothing)
                continue
            window, image, alpha = item
            present[place], windows[place] = True, astuple(window)
            file.write(np.ascontiguousarray(image.transpose(2, 0, 1)))
            file.write(np.ascontiguousarray(alpha))
    with atomic_path(path.with_suffix(".npz")) as temporary:
        np.savez(
            temporary,
            version=VERSION,
            margin=_margin(crop),
            cameras=cameras,
            frames=frames,
            present=present,
            windows=windows,
            body=body.fingerprint,
            **{field.name: getattr(fits, field.name).numpy() for field in fields(BodyParams)},
        )


def _margin(crop: str) -> float:
    return PERSON_MARGIN if crop == "person" else 0.0
