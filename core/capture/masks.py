"""Masks of the person: the landmark network's coarse mask sharpened to the image, or the user's own files."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from core.capture.exposure import brightened
from core.capture.guided_filter import guided_filter
from core.capture.landmarks import Landmarks
from core.capture.networks import RGB, Person
from core.capture.stills import open_image
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

RADII = (0.025, 0.012)
"""Radii of two passes of the filter, relative to the person's size: the first is about the coarse mask's error."""
EPS = 2e-5
WORKING_SIZE = 700
"""Pixels of the person's longer side at which the filter's coefficients are computed."""
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def sharpen_mask(image: RGB, coarse: Float[np.ndarray, "H W"], size: float) -> UInt8[np.ndarray, "H W"]:
    """A mask (0..255) with soft edges at those of the image, from probabilities that are right but for some pixels.

    Args:
        size: Longer side of the person in pixels.
    """
    height, width = coarse.shape
    radius, fine_radius = (max(2, round(r * size)) for r in RADII)
    rows, columns = _window(coarse > 0.1, margin=4 * radius)
    if rows is None:
        return np.zeros((height, width), np.uint8)
    p = coarse[rows, columns]
    guide = image[rows, columns].astype(np.float32) / 255
    reduce = max(1, int(size / WORKING_SIZE))
    filtered = guided_filter(guide, p, radius, EPS, reduce + 1)
    filtered = guided_filter(guide, _steeper(filtered, 3.0), fine_radius, EPS, reduce)
    alpha = _steeper(filtered, 1.7)
    # Far from the coarse edge the network is right, whatever the colours.
    body = p > 0.5
    depth_inside = ndimage.distance_transform_edt(body)
    depth_outside = ndimage.distance_transform_edt(~body)
    alpha = np.where(depth_inside > 1.5 * radius, np.maximum(alpha, ((depth_inside / radius) - 1.5).clip(0, 1)), alpha)
    alpha = np.where(depth_outside > 2 * radius, alpha * (3 - depth_outside / radius).clip(0, 1), alpha)
    alpha = _largest_piece(alpha)
    mask = np.zeros((height, width), np.uint8)
    mask[rows, columns] = (alpha * 255 + 0.5).astype(np.uint8)
    return mask


def _steeper(values: np.ndarray, gain: float) -> np.ndarray:
    return ((values - 0.5) * gain + 0.5).clip(0, 1)


def person_mask(image: RGB, person: Person, others: list[Person]) -> UInt8[np.ndarray, "H W"]:
    """The mask of one person; pixels that more probably belong to others are left out."""
    coarse = person.mask
    for other in others:
        if other.mask is not None:
            coarse = np.where(other.mask > coarse, np.minimum(coarse, 1 - other.mask), coarse)
    return sharpen_mask(brightened(image), coarse, person.landmarks.size)


def _window(inside: np.ndarray, margin: int) -> tuple[slice, slice] | tuple[None, None]:
    rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
    if not len(rows):
        return None, None
    return (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )


def _largest_piece(alpha: np.ndarray, small: float = 0.03) -> np.ndarray:
    """Keep the largest connected piece and others of a fair size (a hand behind the back); fill pinholes."""
    labels, count = ndimage.label(alpha > 0.5)
    if count == 0:
        return alpha
    sizes = ndimage.sum_labels(np.ones_like(alpha), labels, range(1, count + 1))
    kept = np.isin(labels, 1 + np.nonzero(sizes >= small * sizes.max())[0])
    near = ndimage.binary_dilation(kept, iterations=3)
    holes, holes_count = ndimage.label(~near)
    if holes_count:
        areas = ndimage.sum_labels(np.ones_like(alpha), holes, range(1, holes_count + 1))
        pinholes = np.isin(holes, 1 + np.nonzero(areas < 2e-4 * sizes.max())[0])
        near |= pinholes
        alpha = np.where(pinholes, 1.0, alpha)
    return np.where(near, alpha, 0.0)


class MaskFolder:
    """Masks made by other tools: for each image a file of the same stem, in the folder or in one named like the camera.

    Stems may have `_mask` or `_fmask` appended. Any non-zero value counts, unless there are grey values: then 0..255 is
    coverage. Files of another size are resampled without smoothing, which would shift hard edges.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; --masks names a folder with one mask per image")
        self.folder = folder

    def find(self, camera: str, stem: str, position: int) -> Path | None:
        """The mask of an image, by its name, else by its position among the sorted files."""
        for folder in (self.folder / camera, self.folder):
            if not folder.is_dir():
                continue
            files = sorted(p for p in folder.iterdir() if p.suffix.lower() in MASK_SUFFIXES)
            by_stem = {path.stem.removesuffix("_fmask").removesuffix("_mask"): path for path in files}
            if stem in by_stem:
                return by_stem[stem]
            numbers = {int(name): path for name, path in by_stem.items() if name.isdigit()}
            if stem.isdigit() and int(stem) in numbers:
                return numbers[int(stem)]
            if files and 0 <= position < len(files):
                return files[position]
        return None

    def read(self, path: Path, width: int, height: int) -> UInt8[np.ndarray, "H W"]:
        """A mask at the size of its image, 0..255."""
        image = open_image(path)
        values = np.asarray(image.getchannel("A") if "A" in image.getbands() else image.convert("L"))
        if values.size and values.max() <= 1:
            values = values * 255
        if values.shape != (height, width):
            ratio, expected = values.shape[1] / values.shape[0], width / height
            if abs(ratio / expected - 1) > 0.02:
                raise InputError(
                    f"{path}: {values.shape[1]} x {values.shape[0]} pixels do not fit an image of {width} x {height}; "
                    "make masks of the upright images, uncropped"
                )
            values = np.asarray(Image.fromarray(values.astype(np.uint8)).resize((width, height), Image.NEAREST))
        values = values.astype(np.uint8)
        if len(np.unique(values[::7, ::7])) <= 3:  # labels, not coverage
            values = np.where(values > 0, 255, 0).astype(np.uint8)
        return values


class RembgMasks:
    """Masks of the package `rembg`, where it is installed; its weights are fetched by it."""

    def __init__(self, model: str = "u2net_human_seg"):
        try:
            import rembg
        except ImportError as error:
            raise InputError(
                "--mask-method rembg needs the package rembg (pip install rembg); without it the pose network's masks "
                "are used: --mask-method network"
            ) from error
        self._remove, self._session = rembg.remove, rembg.new_session(model)

    def __call__(self, image: RGB) -> UInt8[np.ndarray, "H W"]:
        return np.asarray(self._remove(Image.fromarray(image), only_mask=True, session=self._session))


def near_person(mask: UInt8[np.ndarray, "H W"], landmarks: Landmarks) -> UInt8[np.ndarray, "H W"]:
    """Only the pieces of a mask that hold landmarks of the person."""
    labels, count = ndimage.label(mask > 127)
    if count <= 1:
        return mask
    height, width = mask.shape
    x = landmarks.points[:, 0].astype(int).clip(0, width - 1)
    y = landmarks.points[:, 1].astype(int).clip(0, height - 1)
    hit = set(labels[y, x][landmarks.visibility > 0.5]) - {0}
    if not hit:
        return mask
    return np.where(ndimage.binary_dilation(np.isin(labels, list(hit)), iterations=2), mask, 0).astype(np.uint8)
