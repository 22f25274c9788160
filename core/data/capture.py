"""A capture: one subject folder in MVHumanNet's layout, as downloaded or as `scripts/make_synthetic.py` writes it.

    <subject>/images_lr/<camera>/<FFFF>_img.jpg        (or images/)
    <subject>/fmask_lr/<camera>/<FFFF>_img_fmask.png   (or fmask/)
    <subject>/optimized_smpl_points/<FFFF>.json, <subject>/smpl_param/<IIIIII>.pkl
    <subject>/camera_intrinsics.json, camera_extrinsics.json, camera_scale.pkl, body.json (synthetic captures only)

Opening one reads the camera files; pictures are listed when their camera is first asked for, and opened when they are
read.
"""

import logging
import re
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from core.data.calibration import Calibration, read_calibration, read_json
from core.data.crops import Window, center_window, person_window, read_picture
from core.data.fits import (
    FIT_FOLDER,
    REFIT_FOLDER,
    BodyMismatch,
    find_fits,
    numbered_files,
    posed_vertices,
    read_fit,
)
from core.data.ready_crops import find_ready_crops, sizes_ready
from core.data.silhouette_check import Agreement, silhouette_agreements
from core.types.cameras import Cameras
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

IMAGE_FOLDERS, MASK_FOLDERS = ("images_lr", "images"), ("fmask_lr", "fmask")
IMAGE_NAME, MASK_NAME = re.compile(r"(\d+)_img\.(jpg|jpeg|png)"), re.compile(r"(\d+)_img_fmask\.(png|jpg|jpeg)")

MIN_COVER, MIN_OVERLAP = 0.75, 0.4
"""Median agreement of fits and masks below which calibration or fits are taken to be wrong. Sound synthetic captures
have 0.99 and, in wide clothes, 0.6; with the other rig's scale 0.6 or 0.4."""
MIN_RELATIVE_COVER = 0.8
"""Share of the median below which one camera is taken to have moved: by some 7 cm, or 2 degrees."""


class Capture:
    """One subject.

    Args:
        path: The subject's folder.
        ready: Crop and size of the pictures that will be read (`DataOptions`). Where they are ready (`ready_crops.py`),
            the cameras, frames and fits are those of the ready ones, and nothing else of the capture is used.
    Raises:
        InputError: If the folder or a camera file is missing or broken, or no camera has pictures.
    """

    def __init__(self, path: Path, ready: tuple[str, int] | None = None):
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder; name a subject's folder in MVHumanNet's layout")
        self.subject = self.path.resolve().name
        self._calibration: Calibration = read_calibration(self.path)
        self.ready = None if ready is None else find_ready_crops(self.path, *ready)
        self._folders = self._camera_folders() if self.ready is None else {}
        self._pictures: dict[str, dict[int, tuple[Path, Path]]] = {}
        self._read_fits: dict[tuple[int, str], BodyParams] = {}
        self._checked_bodies: set[str] = set()
        self._left_out: set[str] = set()

    def __repr__(self) -> str:
        return f"Capture({str(self.path)!r})"

    @cached_property
    def body_fingerprint(self) -> str | None:
        """Of the body that the fits are for, from `body.json`; None stands for SMPL (captures without that file)."""
        path = self.path / "body.json"
        if not path.exists():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("fingerprint"), str):
            raise InputError(f"{path}: expected an object with the body's `fingerprint`; get the file again")
        return record["fingerprint"]

    def body(self, override: Path | None = None) -> BodyModel:
        """The body that the fits are for, found by its fingerprint, or the file `override`.

        Raises:
            InputError: If it is neither shipped nor installed, or `override` is another one.
        """
        return _cached_body(self.body_fingerprint, override)

    @property
    def size(self) -> tuple[int, int]:
        """Calibrated width and height; the files are usually half of it."""
        return self._calibration.width, self._calibration.height

    @property
    def camera_names(self) -> list[str]:
        """Usable cameras: calibrated, with folders of pictures and masks, and not left out."""
        names = self._folders if self.ready is None else self.ready.cameras
        return [name for name in names if name not in self._left_out]

    def cameras(self, names: list[str]) -> Cameras:
        """Cameras [C] of the whole calibrated picture in the raw world, float64.

        Raises:
            InputError: If a name is unknown.
        """
        for name in names:
            self._require_camera(name)
        return self._calibration.cameras(names)

    def frames_of(self, camera: str) -> list[int]:
        """Image ids of which this camera has a picture and a mask."""
        return sorted(self._pictures_of(camera) if self.ready is None else self.ready.frames_of(camera))

    @property
    def frame_ids(self) -> list[int]:
        """Image ids that some usable camera has a picture of, with or without a fit."""
        return sorted({frame for name in self.camera_names for frame in self.frames_of(name)})

    @cached_property
    def fits(self) -> dict[int, Path]:
        """Fit files by image id."""
        return find_fits(self.path)

    def complete_frames(self, cameras: list[str]) -> list[int]:
        """Image ids that have a fit, and a picture and a mask in each of these cameras."""
        frames = set(self.fits if self.ready is None else self.ready.frames)
        for name in cameras:
            frames.intersection_update(self.frames_of(name))
        return sorted(frames)

    def files(self, camera: str, frame: int) -> tuple[Path, Path]:
        """Paths of a picture and its mask.

        Raises:
            InputError: If there is no such camera or frame.
        """
        pictures = self._pictures_of(camera)
        if frame not in pictures:
            images, masks = self._folders[camera]
            raise InputError(
                f"{self.path}: camera {camera} has no frame {frame:04d}: {images / f'{frame:04d}_img.jpg'} or "
                f"{masks / f'{frame:04d}_img_fmask.png'} is missing; unpack the capture again or choose other frames"
            )
        return pictures[frame]

    def image(self, camera: str, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """A whole picture at the size of its file, as it is."""
        return np.asarray(read_picture(self.files(camera, frame)[0], self.size, "RGB"))

    def mask(self, camera: str, frame: int) -> UInt8[np.ndarray, "H W"]:
        """A whole mask at the size of its file, 255 in the foreground."""
        return np.asarray(read_picture(self.files(camera, frame)[1], self.size, "L"))

    def fit(self, frame: int, body: BodyModel | None = None) -> BodyParams:
        """The fit of a frame; no batch axes, in the raw world, float64.

        Args:
            frame: Image id.
            body: The body in use (a checkpoint's, say); by default the capture's own is looked for.
        Raises:
            InputError: If there is none, or it is broken or belongs to another body.
        """
        if self.ready is not None:
            return self.ready.fit(frame, self.body() if body is None else body)
        if frame not in self.fits:
            raise InputError(
                f"{self.path}: frame {frame:04d} has no fit: neither {REFIT_FOLDER}/{frame:04d}.json nor "
                f"{FIT_FOLDER}/{frame // 5 - 1:06d}.pkl is there; choose other frames or fit the body to this one"
            )
        body = self.body() if body is None else body
        if self.body_fingerprint not in (None, body.fingerprint):
            raise InputError(
                f"{self.path}: its fits are for the body {self.body_fingerprint}, not for {body.name} "
                f"({body.fingerprint}); use a checkpoint that was trained with that body, or refit the capture"
            )
        key = (frame, body.fingerprint)
        if key not in self._read_fits:
            self._check_body(frame, body)
            self._read_fits[key] = read_fit(self.fits[frame], body)
        return self._read_fits[key]

    def windows(self, frame: int, names: list[str], crop: str, body: BodyModel) -> list[Window]:
        """The windows that a crop (`center` or `person`) takes from the pictures of a frame in these cameras.

        Raises:
            InputError: If the fit is missing, broken, or not in front of all cameras.
        """
        cameras = self.cameras(names)
        if crop == "center":
            return [center_window(*self.size)] * len(names)
        if crop != "person":
            raise InputError(f"crop must be `center` or `person`, got `{crop}`")
        vertices = posed_vertices(self.fit(frame, body), body)
        windows = []
        for camera in range(len(names)):  # one by one: a window must not depend on which others are asked for
            pixels, depths = cameras[camera].project(vertices)
            if depths.min() <= 0:
                raise InputError(
                    f"{self.path}: the fit of frame {frame:04d} reaches behind camera {names[camera]}; check the fit "
                    "and camera_scale.pkl"
                )
            windows.append(person_window(pixels))
        return windows

    def _check_body(self, frame: int, body: BodyModel) -> None:
        """Refits often come without vertices: then MVHumanNet's own fit tells, once, whether this is the body."""
        original = self.path / FIT_FOLDER / f"{frame // 5 - 1:06d}.pkl"
        if body.fingerprint not in self._checked_bodies and original.is_file():
            if original != self.fits[frame]:
                try:
                    read_fit(original, body)
                except BodyMismatch:
                    raise
                except InputError:
                    return  # broken, which is no matter where there is a refit; another frame's will tell
            self._checked_bodies.add(body.fingerprint)

    def leave_out(self, names: list[str]) -> None:
        """Use these cameras no more."""
        self._left_out |= set(names)

    def verify(self, body: BodyModel | None = None) -> list[str]:
        """Leave out the cameras in which the projected body does not meet the mask.

        Such cameras were moved after the calibration. One moment is looked at, and two more where that leaves a doubt,
        because a fit or a mask may be bad too. The names are logged and returned.

        Raises:
            InputError: If there is no fit, or the body meets the masks of hardly any camera.
        """
        body = self.body() if body is None else body
        with_fit = [frame for frame in self.frame_ids if frame in self.fits]
        if not with_fit:
            raise InputError(
                f"{self.path}: no frame has both pictures and a fit; unpack {FIT_FOLDER} or fit the body first"
            )
        best: dict[str, Agreement] = {}
        for share in (0.5, 0.25, 0.75):
            for name, agreement in self._agreements(with_fit[int(share * len(with_fit))], body).items():
                best[name] = max(agreement, best.get(name, agreement))
            covered, overlap = np.median(list(best.values()), axis=0)
            moved = [name for name, agreement in best.items() if agreement.covered < MIN_RELATIVE_COVER * covered]
            meets = covered >= MIN_COVER and overlap >= MIN_OVERLAP
            if meets and not moved:
                break
        if not meets:
            raise InputError(
                f"{self.path}: the fits do not meet the masks ({covered:.0%} of the projected body is covered, overlap "
                f"{overlap:.2f}); check camera_scale.pkl, camera_intrinsics.json, the masks and the fits"
            )
        for name in moved:
            logger.warning(
                "%s: camera %s is left out: its mask covers %.0f%% of the projected body, others %.0f%%; was it moved?",
                *(self.path, name, 100 * best[name].covered, 100 * covered),
            )
        self.leave_out(moved)
        return moved

    def _agreements(self, frame: int, body: BodyModel) -> dict[str, Agreement]:
        """How well the fit of a frame meets the mask, by camera (those that have the frame)."""
        names = [name for name in self.camera_names if frame in self._pictures_of(name)]
        masks = [self.files(name, frame)[1] for name in names]
        return dict(zip(names, silhouette_agreements(self.fit(frame, body), body, self.cameras(names), masks)))

    def _require_camera(self, name: str) -> None:
        if name in self.camera_names:
            return
        if name in self._folders:
            reason = "is left out"
        elif name in self._calibration.viewmats:
            reason = "has no folder of pictures and masks"
        else:
            reason = "is not in camera_extrinsics.json"
        raise InputError(f"{self.path}: camera {name} {reason}; usable are {', '.join(self.camera_names)}")

    def _pictures_of(self, camera: str) -> dict[int, tuple[Path, Path]]:
        """Paths of picture and mask by image id."""
        if camera not in self._pictures:
            if camera not in self._folders:
                self._require_camera(camera)
            images, masks = (
                numbered_files(folder, pattern)
                for folder, pattern in zip(self._folders[camera], (IMAGE_NAME, MASK_NAME))
            )
            self._pictures[camera] = {
                frame: (images[frame], masks[frame]) for frame in sorted(images.keys() & masks.keys())
            }
        return self._pictures[camera]

    def _camera_folders(self) -> dict[str, tuple[Path, Path]]:
        """Folders of pictures and of masks of every calibrated camera that has both, in the order of the names."""
        folders, without = {}, []
        for name in sorted(self._calibration.viewmats):
            images = _first_folder(self.path, IMAGE_FOLDERS, name)
            masks = _first_folder(self.path, MASK_FOLDERS, name)
            if images and masks:
                folders[name] = (images, masks)
            else:
                without.append(name)
        if not folders and (ready := sizes_ready(self.path)):
            raise InputError(
                f"{self.path}: holds no pictures but ready crops, {', '.join(ready)}; train with --data.crop and "
                "--data.image-size of these, name the originals, or pack them again with the crop and size wanted"
            )
        if not folders:
            raise InputError(
                f"{self.path}: none of its {len(without)} calibrated cameras has pictures; expected "
                f"{IMAGE_FOLDERS[0]}/<camera> and {MASK_FOLDERS[0]}/<camera>, for instance {without[0]}"
            )
        if without:
            logger.info("%s: no folder for the cameras %s; they are left out", self.path, ", ".join(without))
        return folders


def _first_folder(root: Path, choices: tuple[str, ...], camera: str) -> Path | None:
    return next((root / choice / camera for choice in choices if (root / choice / camera).is_dir()), None)


@lru_cache(maxsize=4)
def _cached_body(fingerprint: str | None, override: Path | None) -> BodyModel:
    return find_body(fingerprint, override)
