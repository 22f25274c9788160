"""A capture: images, masks, cameras and fits of one subject, behind one interface for all layouts on disk.

`core.data.readers.open_capture` opens one. Opening reads the descriptions of the cameras; images are listed when their
camera is first used, and opened when they are read. Cameras and fits are returned in the raw world (z down, metres).
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.calibration import CalibratedCamera, stack_cameras
from core.data.crops import ImageFiles, Window, center_window, person_window, read_alpha, read_image
from core.data.fits import posed_vertices
from core.data.input_files import check_name, subject_name
from core.data.ready_crops import find_ready_crops, sizes_ready
from core.data.subject_frame import move_body
from core.data.up_axis import RAW_UP, raw_from_world
from core.types.cameras import Cameras
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)


@dataclass
class Findings:
    """Results of the checks of a capture. They outlast the open capture, so that a worker checks each file once."""

    is_verified: bool = False
    up: str | None = None
    """Up axis of the world, where it is not that of the layout."""
    factor: int | None = None
    """Calibrated size divided by that of the image files, where the first choice did not meet the masks."""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Calibrated width and height by camera, where they follow from the image files."""
    left_out: set[str] = field(default_factory=set)
    """Cameras that are not used."""
    faults: dict[tuple[int, str], str | None] = field(default_factory=dict)
    """Fault of each checked image by frame and camera, or None."""


class Capture(ABC):
    """One subject.

    Args:
        path: The subject's folder.
        ready: Crop and size of the images that will be read (`DataOptions`). Where there are such ready crops
            (`ready_crops.py`), cameras, frames and fits are theirs, and no image file is used.
        findings: Results of earlier checks of the same capture.
    Raises:
        InputError: If the folder or a description in it is missing or broken, or no camera has images.
    """

    def __init__(self, path: Path, ready: tuple[str, int] | None = None, findings: Findings | None = None):
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder; name the folder of a capture")
        self.subject = check_name(subject_name(self.path), f"{self.path}: name of the folder")
        self.findings = Findings() if findings is None else findings
        self.ready = None if ready is None else find_ready_crops(self.path, *ready)
        self._files: dict[str, dict[int, ImageFiles]] = {}
        self._cameras: dict[str, CalibratedCamera] = {}
        self._fits: dict[tuple[int, str], BodyParams] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    # What a layout defines. Messages end with what helps.

    @property
    @abstractmethod
    def body_fingerprint(self) -> str | None:
        """Fingerprint of the body of the fits; None stands for SMPL."""

    @property
    @abstractmethod
    def fits(self) -> Mapping[int, Any]:
        """Frames that have a fit, with the place of the fit."""

    @property
    def is_checked(self) -> bool:
        """True if all images were checked against their fits when the capture was written."""
        return False

    @property
    def up(self) -> str:
        """Up axis of the world in the files, one of `UP_AXES`."""
        return RAW_UP if self.findings.up is None else self.findings.up

    @property
    def body_name(self) -> str | None:
        """Name of the body of the fits, for people; None if it is not stated."""
        return None

    def time_of(self, frame: int) -> float | None:
        """Time of a frame in seconds, if it is stated."""
        return None

    @abstractmethod
    def _image_cameras(self) -> list[str]:
        """Calibrated cameras that have images."""

    @abstractmethod
    def _camera_problem(self, name: str) -> str:
        """Reason why a name is not among `_image_cameras`."""

    @abstractmethod
    def _file_camera(self, name: str) -> CalibratedCamera:
        """A camera in the world of the files."""

    @abstractmethod
    def _list_files(self, camera: str) -> dict[int, ImageFiles]:
        """Files of a camera by frame, those with image and mask (or alpha) only."""

    @abstractmethod
    def _read_fit(self, frame: int, body: BodyModel) -> BodyParams:
        """A fit of `fits` in the world of the files."""

    @abstractmethod
    def _missing_files(self, camera: str, frame: int) -> str:
        """Message: which file of a frame is missing, and where it was looked for."""

    @abstractmethod
    def _missing_fit(self, frame: int) -> str:
        """Message: where the fit of a frame was looked for."""

    @abstractmethod
    def nothing_usable(self) -> str:
        """Message: which of images, masks and fits are missing if no frame has all three."""

    calibration_files: str
    """Name of the files to check if fits and masks do not meet."""
    is_up_stated: bool
    """True if a file states the up axis."""

    def factors(self) -> Iterable[int]:
        """Other factors between calibrated size and image files that are possible."""
        return ()

    def camera_note(self, name: str) -> str:
        """Note on the calibration of a camera, for a message."""
        return ""

    # What follows from it.

    def body(self, override: Path | None = None) -> BodyModel:
        """The body of the fits, found by its fingerprint, or the file `override`.

        Raises:
            InputError: If it is neither shipped nor installed, or `override` is another one.
        """
        return _cached_body(self.body_fingerprint, override)

    @property
    def camera_names(self) -> list[str]:
        """Usable cameras: calibrated, with images, and not left out."""
        names = self._image_cameras() if self.ready is None else self.ready.cameras
        return [name for name in names if name not in self.findings.left_out]

    def camera(self, name: str) -> CalibratedCamera:
        """A camera in the raw world.

        Raises:
            InputError: If the name is unknown.
        """
        self._require_camera(name)
        if name not in self._cameras:
            camera = self._file_camera(name)
            if self.up != RAW_UP:
                T_world_raw = raw_from_world(self.up).T
                camera = CalibratedCamera(camera.viewmat @ T_world_raw, camera.K, *camera.size, camera.lens)
            self._cameras[name] = camera
        return self._cameras[name]

    def cameras(self, names: list[str]) -> Cameras:
        """Cameras [C] of whole, undistorted images in the raw world, float64; see `stack_cameras` for their size.

        Raises:
            InputError: If a name is unknown.
        """
        return stack_cameras([self.camera(name) for name in names])

    def frames_of(self, camera: str) -> list[int]:
        """Frames of which this camera has an image and a mask."""
        return sorted(self._files_of(camera) if self.ready is None else self.ready.frames_of(camera))

    @property
    def frame_ids(self) -> list[int]:
        """Frames that some usable camera has an image of, with or without a fit."""
        return sorted({frame for name in self.camera_names for frame in self.frames_of(name)})

    def complete_frames(self, cameras: list[str]) -> list[int]:
        """Frames that have a fit, and an image and a mask in each of these cameras."""
        frames = set(self.fits if self.ready is None else self.ready.frames)
        for name in cameras:
            frames.intersection_update(self.frames_of(name))
        return sorted(frames)

    def files(self, camera: str, frame: int) -> ImageFiles:
        """Image and mask of a camera and frame.

        Raises:
            InputError: If there is no such camera or frame.
        """
        files = self._files_of(camera)
        if frame not in files:
            raise InputError(
                f"{self.path}: camera {camera} has no frame {frame:04d}: {self._missing_files(camera, frame)}"
            )
        return files[frame]

    def image(self, camera: str, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """A whole undistorted image at the size of its file, not composed."""
        return np.asarray(read_image(self.files(camera, frame), self.camera(camera))[0])

    def mask(self, camera: str, frame: int) -> UInt8[np.ndarray, "H W"]:
        """A whole undistorted mask at the size of its file, 255 on the subject."""
        return read_alpha(self.files(camera, frame), self.camera(camera))

    def fit(self, frame: int, body: BodyModel | None = None) -> BodyParams:
        """Fit of a frame; no batch axes, in the raw world, float64.

        Args:
            frame: Frame id.
            body: Body in use (a checkpoint's, say); by default the one that the capture names.
        Raises:
            InputError: If there is none, or it is broken or belongs to another body.
        """
        if self.ready is not None:
            return self.ready.fit(frame, self.body() if body is None else body)
        if frame not in self.fits:
            raise InputError(f"{self.path}: frame {frame:04d} has no fit: {self._missing_fit(frame)}")
        body = self.body() if body is None else body
        if self.body_fingerprint not in (None, body.fingerprint):
            raise InputError(
                f"{self.path}: its fits are for the body {self.body_fingerprint}, not for {body.name} "
                f"({body.fingerprint}); leave out --body, or use captures of different bodies one by one"
            )
        key = (frame, body.fingerprint)
        if key not in self._fits:
            params = self._read_fit(frame, body)
            self._fits[key] = params if self.up == RAW_UP else move_body(params, raw_from_world(self.up), body)
        return self._fits[key]

    def correct(self, fits: Mapping[int, BodyParams], viewmats: Mapping[str, Float[Tensor, "4 4"]], body: str) -> None:
        """Use other fits and camera poses than the files', in the raw world, as long as this capture is open.

        Args:
            fits: Fits without batch axes by frame.
            viewmats: World to camera by name.
            body: Fingerprint of the body of the fits.
        """
        self._fits |= {(frame, body): fit.to(torch.float64) for frame, fit in fits.items()}
        for name, viewmat in viewmats.items():
            self._cameras[name] = replace(self.camera(name), viewmat=viewmat.to(torch.float64))

    def windows(self, frame: int, names: list[str], crop: str, body: BodyModel) -> list[Window]:
        """Windows that a crop (`center` or `person`) takes from the images of a frame in these cameras.

        Raises:
            InputError: If the fit is missing, broken, or not in front of all cameras.
        """
        if crop == "center":
            return [center_window(*self.camera(name).size) for name in names]
        if crop != "person":
            raise InputError(f"crop must be `center` or `person`, got `{crop}`")
        vertices = posed_vertices(self.fit(frame, body), body)
        windows = []
        for name in names:  # one by one: a window does not depend on the other cameras
            pixels, depths = self.cameras([name])[0].project(vertices)
            if depths.min() <= 0:
                raise InputError(
                    f"{self.path}: the fit of frame {frame:04d} reaches behind camera {name}; check the fit and "
                    f"{self.calibration_files}"
                )
            windows.append(person_window(pixels))
        return windows

    def leave_out(self, names: Iterable[str]) -> None:
        """Exclude these cameras from further use."""
        self.findings.left_out |= set(names)

    def forget(self) -> None:
        """Drop cameras and fits that were read under other findings."""
        self.findings.sizes.clear()
        self._cameras.clear()
        self._fits.clear()

    def _require_camera(self, name: str) -> None:
        if name in self.camera_names:
            return
        known = self.ready.cameras if self.ready is not None else self._image_cameras()
        reason = "is left out" if name in known else self._camera_problem(name)
        raise InputError(f"{self.path}: camera {name} {reason}; usable are {', '.join(self.camera_names) or 'none'}")

    def _files_of(self, camera: str) -> dict[int, ImageFiles]:
        if camera not in self._files:
            if camera not in self._image_cameras():
                self._require_camera(camera)
            self._files[camera] = self._list_files(camera)
        return self._files[camera]

    def _only_ready_crops(self) -> None:
        """Refuse a folder that has ready crops of other sizes and no images."""
        if ready := sizes_ready(self.path):
            raise InputError(
                f"{self.path}: holds no images but ready crops, {', '.join(ready)}; train with --data.crop and "
                "--data.image-size of these, name the originals, or pack them again with the crop and size wanted"
            )


@lru_cache(maxsize=4)
def _cached_body(fingerprint: str | None, override: Path | None) -> BodyModel:
    return find_body(fingerprint, override)
