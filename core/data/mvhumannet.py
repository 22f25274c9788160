"""A capture in MVHumanNet's layout, as downloaded, as `scripts/make_synthetic.py` writes it, or by others' tools.

<subject>/images_lr/<camera>/<FFFF>_img.jpg        (or images/)
<subject>/fmask_lr/<camera>/<FFFF>_img_fmask.png   (or fmask/, masks/; none if the images have alpha)
<subject>/optimized_smpl_points/<FFFF>.json, <subject>/smpl_param/<IIIIII>.pkl
<subject>/camera_intrinsics.json, camera_extrinsics.json, camera_scale.pkl, body.json (none for SMPL)
"""

import logging
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.data.calibration import CalibratedCamera
from core.data.capture import Capture, Findings
from core.data.crops import ImageFiles
from core.data.fits import FIT_FOLDER, REFIT_FOLDER, BodyMismatch, find_fits, read_fit
from core.data.images import SUFFIX, image_size, open_image
from core.data.input_files import check_name, numbered_files, read_json
from core.data.mvhumannet_cameras import EXTRINSICS, FileCamera, calibrated_size, read_camera_files
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

IMAGE_FOLDERS, MASK_FOLDERS = ("images_lr", "images"), ("fmask_lr", "fmask", "masks", "mask")
IMAGE_NAME = re.compile(rf"(\d+)(?:_img)?{SUFFIX}", re.IGNORECASE)
MASK_NAME = re.compile(rf"(\d+)(?:_img)?(?:{SUFFIX})?(?:_f?mask)?{SUFFIX}", re.IGNORECASE)
"""Masks are named after their images, without their suffix or with it."""
BODY_FILE = "body.json"
OTHER_FACTORS = (1, 2, 3, 4, 8)
"""Factors between calibrated size and files that are tried if the first choice does not meet the masks."""


class MVHumanNetCapture(Capture):
    """One subject in MVHumanNet's layout."""

    calibration_files = "camera_scale.pkl, camera_intrinsics.json, camera_extrinsics.json"
    is_up_stated = False

    def __init__(self, path: Path, ready: tuple[str, int] | None = None, findings: Findings | None = None):
        super().__init__(path, ready, findings)
        image_folders = _camera_folders(self.path, IMAGE_FOLDERS)
        existing = image_folders if self.ready is None else self.ready.cameras
        self._described: dict[str, FileCamera] = read_camera_files(self.path, existing)
        self._checked_bodies: set[str] = set()
        self._folders = self._pair_folders(image_folders) if self.ready is None else {}

    @cached_property
    def _body_record(self) -> dict[str, Any]:
        path = self.path / BODY_FILE
        if not path.exists():
            return {}
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("fingerprint"), str):
            raise InputError(f"{path}: expected an object with the body's `fingerprint`; without this file it is SMPL")
        return record

    @property
    def body_fingerprint(self) -> str | None:
        return self._body_record.get("fingerprint")

    @property
    def body_name(self) -> str | None:
        name = self._body_record.get("name")
        return name if isinstance(name, str) else None

    @cached_property
    def fits(self) -> dict[int, Path]:
        return find_fits(self.path)

    def factors(self) -> Iterable[int]:
        return () if any(camera.size for camera in self._described.values()) else OTHER_FACTORS

    def camera_note(self, name: str) -> str:
        own, K = self._described[name].K, next(iter(self._described.values())).K
        described = [f"({K[0, 0]:g}, {K[1, 1]:g}, {K[0, 2]:g}, {K[1, 2]:g})" for K in (own, K)]
        return f", or is its lens {described[0]} (fx, fy, cx, cy) not the one of its images" if (own != K).any() else ""

    def _image_cameras(self) -> list[str]:
        return list(self._folders)

    def _camera_problem(self, name: str) -> str:
        if name not in self._described:
            return f"is not in {EXTRINSICS}"
        return f"has no folder of images ({IMAGE_FOLDERS[0]}/{name})"

    def _file_camera(self, name: str) -> CalibratedCamera:
        described = self._described[name]
        width, height = described.size or self._calibrated_size(name)
        K = torch.from_numpy(described.K.copy())
        K[:2, 2] += 0.5  # pixel centres: from integers to +0.5
        return CalibratedCamera(described.viewmat, K, width, height, described.lens)

    def _calibrated_size(self, name: str) -> tuple[int, int]:
        K = self._described[name].K
        if self.ready is not None:  # windows are known, and no image is read by its size
            width, height = (2 * K[:2, 2] + 1).round().astype(int).tolist()
            return width, height
        if name in self.findings.sizes:
            return self.findings.sizes[name]
        files = self._files_of(name)
        if not files:
            raise InputError(f"{self.path}: camera {name} has no frame with both image and mask; {self._no_pair(name)}")
        path = _typical_image(list(files.values()))
        is_packed = (self.path.parent / "packing.json").is_file()
        size = calibrated_size(K, image_size(path), path, is_packed, self.findings.factor)
        self.findings.sizes[name] = size
        return size

    def _no_pair(self, camera: str) -> str:
        images, masks = self._folders[camera]
        return f"name the masks in {masks} after the images in {images}: 0005_img.jpg and 0005_img_fmask.png"

    def _pair_folders(self, image_folders: dict[str, Path]) -> dict[str, tuple[Path, Path | None]]:
        """Folders of images and of masks of every calibrated camera, in the order of the names."""
        mask_folders = _camera_folders(self.path, MASK_FOLDERS)
        folders, without = {}, []
        for name in sorted(self._described):
            images = image_folders.get(name)
            if images is None:
                without.append(name)
                continue
            masks = mask_folders.get(name)
            if masks is None and not _first_has_alpha(images):
                without.append(name)
            else:
                folders[name] = (images, masks)
        if not folders:
            self._only_ready_crops()
            raise InputError(f"{self.path}: {self._no_camera(image_folders)}")
        if without:
            logger.info("%s: the cameras %s have no images or masks; left out", self.path, ", ".join(without))
        return folders

    def _no_camera(self, image_folders: dict[str, Path]) -> str:
        names = sorted(self._described)
        if not image_folders:
            return (
                f"no images: there is no folder {' or '.join(f'{choice}/<camera>' for choice in IMAGE_FOLDERS)} (for "
                f"instance {IMAGE_FOLDERS[0]}/{names[0]}); put the images of each camera into one"
            )
        found = ", ".join(sorted(image_folders)[:4])
        if missing := sorted(set(names) & set(image_folders)):
            return (
                f"no masks: there is no folder {' or '.join(f'{choice}/<camera>' for choice in MASK_FOLDERS[:2])} (for "
                f"instance {MASK_FOLDERS[0]}/{missing[0]}), and the images have no alpha; put the masks of each camera "
                "into one"
            )
        return (
            f"none of its {len(names)} calibrated cameras ({', '.join(names[:4])}) has a folder of images with masks; "
            f"folders of images are {found}; name the keys of {EXTRINSICS} after the folders"
        )

    def _list_files(self, camera: str) -> dict[int, ImageFiles]:
        image_folder, mask_folder = self._folders[camera]
        images = numbered_files(image_folder, IMAGE_NAME)
        if mask_folder is None:
            return {frame: ImageFiles(image, None) for frame, image in sorted(images.items())}
        masks = numbered_files(mask_folder, MASK_NAME)
        return {frame: ImageFiles(images[frame], masks[frame]) for frame in sorted(images.keys() & masks.keys())}

    def _read_fit(self, frame: int, body: BodyModel) -> BodyParams:
        self._check_body(frame, body)
        return read_fit(self.fits[frame], body)

    def _check_body(self, frame: int, body: BodyModel) -> None:
        """Compare the body with MVHumanNet's own fit, once: refits often come without vertices."""
        original = self.path / FIT_FOLDER / f"{frame // 5 - 1:06d}.pkl"
        if body.fingerprint in self._checked_bodies or frame % 5 or not original.is_file():
            return
        if original != self.fits[frame]:
            try:
                read_fit(original, body)
            except BodyMismatch:
                raise
            except InputError:
                return  # it is broken, which does not matter where there is a refit; another frame decides
        self._checked_bodies.add(body.fingerprint)

    def _missing_files(self, camera: str, frame: int) -> str:
        images, masks = self._folders[camera]
        wanted = [images / f"{frame:04d}_img.jpg"]
        if masks is not None:
            wanted.append(masks / f"{frame:04d}_img_fmask.png")
        there = numbered_files(images, IMAGE_NAME)
        missing = wanted[-1] if frame in there else wanted[0]
        return f"{missing} is missing; choose other frames, or add it"

    def _missing_fit(self, frame: int) -> str:
        places = f"{REFIT_FOLDER}/{frame:04d}.json"
        if frame % 5 == 0 and frame > 0:
            places = f"neither {places} nor {FIT_FOLDER}/{frame // 5 - 1:06d}.pkl is there"
        else:
            places = f"{places} is not there"
        return f"{places}; choose other frames, or fit the body to this one"

    def nothing_usable(self) -> str:
        num_images = num_masks = 0
        frames: set[int] = set()
        for image_folder, mask_folder in self._folders.values():
            images = numbered_files(image_folder, IMAGE_NAME)
            masks = images if mask_folder is None else numbered_files(mask_folder, MASK_NAME)
            num_images, num_masks = num_images + len(images), num_masks + len(masks)
            frames |= images.keys() & masks.keys()
        images, masks = next(iter(self._folders.values()))
        places = [
            (num_images, f"no images: {_placeholder(self.path, images)} holds no <FFFF>_img.jpg{_found(images)}"),
            (num_masks, f"no masks: {_placeholder(self.path, masks)} holds no <FFFF>_img_fmask.png{_found(masks)}"),
            (len(self.fits), f"no fits: neither {REFIT_FOLDER}/<FFFF>.json nor {FIT_FOLDER}/<IIIIII>.pkl is there"),
        ]
        there = [f"{count} {kind}" for (count, _), kind in zip(places, ("images", "masks", "fits")) if count]
        missing = [text for count, text in places if count == 0]
        if missing:
            found = f" ({' and '.join(there)} are there)" if there else ""
            return f"{'; '.join(missing)}{found}; add what is missing"
        if not frames:
            return (
                f"no frame has both an image and a mask ({num_images} images, {num_masks} masks); name the mask of "
                "<FFFF>_img.jpg <FFFF>_img_fmask.png"
            )
        fitted = ", ".join(f"{frame:04d}" for frame in sorted(self.fits)[:4])
        return (
            f"no frame has an image, a mask and a fit: fits are there for {fitted} ..., images with masks for "
            f"{', '.join(f'{frame:04d}' for frame in sorted(frames)[:4])} ...; the name of a refit is that of its "
            f"image, and index I in {FIT_FOLDER} belongs to image 5 (I + 1)"
        )


def _typical_image(files: list[ImageFiles]) -> Path:
    """An image of the size that most files of a camera have; only some are opened."""
    first, last = files[0], files[-1]
    sizes = [image_size(first.image), image_size(last.image)]
    if sizes[0] == sizes[1]:
        return first.image
    middle = files[len(files) // 2]
    votes = [image_size(path) for path in (*middle, *first, *last)]
    return (first if votes.count(sizes[0]) >= votes.count(sizes[1]) else last).image


def _camera_folders(root: Path, choices: tuple[str, ...]) -> dict[str, Path]:
    """Folders of cameras by name; those in the first of the choices come first."""
    folders: dict[str, Path] = {}
    for choice in reversed(choices):
        if (root / choice).is_dir():
            for path in sorted((root / choice).iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    folders[check_name(path.name, f"{root / choice}: folder")] = path
    return folders


def _first_has_alpha(folder: Path) -> bool:
    """True if the first image of a folder has an alpha channel."""
    path = next(iter(sorted(numbered_files(folder, IMAGE_NAME).values())), None)
    if path is None:
        return False
    with open_image(path) as image:
        return image.has_alpha


def _found(folder: Path | None) -> str:
    """The first files of a folder, for messages about names."""
    names = [] if folder is None else sorted(path.name for path in folder.iterdir() if path.name[0] != ".")[:3]
    return f" but {', '.join(names)}" if names else ""


def _placeholder(root: Path, folder: Path | None) -> str:
    return "" if folder is None else f"{folder.parent.relative_to(root)}/<camera>"
