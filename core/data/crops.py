"""Square windows of images, and reading them from files of any resolution, mode and orientation.

A window is in pixels of the *calibrated*, undistorted image, so one K serves it whatever size the files have: image and
mask are each resampled from their own grid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from core.data.calibration import CalibratedCamera
from core.data.images import SourceImage, open_image, to_rgb
from core.data.lens import undistort
from core.data.masks import alpha_mask, decode_mask
from core.types.cameras import Cameras
from smpl_renderer.errors import InputError

PERSON_MARGIN = 0.08
"""Room around the projected body in a `person` crop, on each side, as a share of the body's longer side: for hair and
clothes."""

MAX_ASPECT_ERROR = 0.01
"""Largest relative difference in aspect ratio of an image file and its calibration: files may be rounded to whole
pixels (1398 x 1024 for 4096 x 3000)."""

FILTER = Image.Resampling.BILINEAR
"""PIL's is a triangle as wide as the reduction: antialiased, without overshoot, and true to linear ramps at any phase,
so that nothing moves. HAMMING and BOX are sharper but shift edges by up to 0.2 pixels at factors near 1."""


@dataclass(frozen=True)
class ImageFiles:
    """Files of one camera in one frame. Iterating yields those that exist."""

    image: Path
    mask: Path | None
    """None if the mask is the image's alpha."""

    def __iter__(self) -> Iterator[Path]:
        return iter([self.image] if self.mask is None else [self.image, self.mask])


@dataclass(frozen=True)
class Window:
    """A square of an image: `left` and `top` are the distance of its corner from the image's, `side` its size, in
    pixels."""

    left: float
    top: float
    side: float


def center_window(width: int, height: int) -> Window:
    """The largest centred square: at MVHumanNet's 1224 x 1024 the paper's crop, 100 columns off each side."""
    side = min(width, height)
    return Window((width - side) / 2, (height - side) / 2, side)


def person_window(points: Float[Tensor, "N 2"], margin: float = PERSON_MARGIN) -> Window:
    """A square around projected points of the body; it may reach over the image's borders."""
    low, high = points.amin(0), points.amax(0)
    side = (1 + 2 * margin) * float((high - low).max())
    left, top = ((low + high - side) / 2).tolist()
    return Window(left, top, side)


def window_cameras(cameras: Cameras, windows: list[Window], size: int) -> Cameras:
    """Cameras [C] of one window each, resampled to `size` x `size` pixels, from those of the whole images."""
    left, top, side = (cameras.Ks.new_tensor([getattr(w, key) for w in windows]) for key in ("left", "top", "side"))
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    Ks[:, :2] *= (size / side)[:, None, None]
    return replace(cameras, Ks=Ks, width=size, height=size)


def read_window(
    files: ImageFiles, camera: CalibratedCamera, window: Window, size: int
) -> tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S"]]:
    """Read a window of an image and of its mask.

    The image is composed on white before it is resampled, so that no background bleeds into the subject's border. Mask
    values are the alpha as they are, soft ones too. What lies outside of the image is white with alpha 0.

    Args:
        files: Image and mask.
        camera: Their camera; `window` is in pixels of its calibrated image, and its lens is undone.
        window: Window to read.
        size: Side of the result, in pixels.
    Returns:
        RGB on white and alpha.
    Raises:
        InputError: If a file is missing, broken, or of another shape than the calibration.
    """
    # What suffices for the result; a JPEG decodes faster at a fraction of its size.
    wanted = tuple(math.ceil(length * size / window.side - 1e-6) for length in camera.size)
    image, exact, mask = _load(files, camera, wanted)
    scale = np.array(exact) / camera.size
    corners = [window.left, window.top, window.left + window.side, window.top + window.side]
    box = np.array(corners) * np.tile(scale, 2)
    region = _outer(box)
    if camera.lens is None:
        rgb = to_rgb(image.crop(region) if image.mode == "RGB" else image, files.image)
        rgb = rgb if image.mode == "RGB" else rgb.crop(region)
        alpha = _cropped_mask(mask, image.size, camera, scale, region, rgb.size)
        on_white = _composed(rgb, alpha)
    else:
        alpha = mask if mask.size == image.size else mask.resize(image.size, FILTER)
        on_white = _composed(to_rgb(image, files.image), alpha)
        on_white, alpha = _undistorted(on_white, alpha, camera, exact, region)
    return tuple(np.asarray(_resampled(layer, box, region, (size, size))) for layer in (on_white, alpha))


def read_image(files: ImageFiles, camera: CalibratedCamera) -> tuple[Image.Image, Image.Image]:
    """Read a whole image (RGB, not composed) and its mask (L), undistorted, both at the size of the image file.

    Raises:
        InputError: If a file is missing, broken, or of another shape than the calibration.
    """
    image, exact, mask = _load(files, camera)
    rgb = to_rgb(image, files.image)
    mask = mask if mask.size == rgb.size else mask.resize(rgb.size, FILTER)
    if camera.lens is None:
        return rgb, mask
    whole = (0, 0, *rgb.size)
    alpha = undistort(np.asarray(mask)[..., None], camera.lens, camera.K, camera.size, exact, whole)[..., 0]
    pixels = undistort(np.asarray(rgb), camera.lens, camera.K, camera.size, exact, whole)
    return Image.fromarray(pixels), Image.fromarray(alpha)


def read_alpha(
    files: ImageFiles, camera: CalibratedCamera, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Read a whole mask, undistorted, at the size of its file or resampled to width and height `size`.

    Raises:
        InputError: If a file is missing, broken, or of another shape than the calibration.
    """
    mask = _read_mask(files, camera)
    if camera.lens is not None:
        whole = (0, 0, *mask.size)
        pixels = undistort(np.asarray(mask)[..., None], camera.lens, camera.K, camera.size, mask.size, whole)
        mask = Image.fromarray(pixels[..., 0])
    return np.asarray(mask if size is None else mask.resize(size, FILTER))


def _load(
    files: ImageFiles, camera: CalibratedCamera, at_least: tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[float, float], Image.Image]:
    """Image in its own mode, its exact size, and mask."""
    with open_image(files.image) as source:
        _check_shape(source, camera)
        image, exact = source.load(at_least)
    return image, exact, alpha_mask(image, files.image) if files.mask is None else _read_mask(files, camera)


def _read_mask(files: ImageFiles, camera: CalibratedCamera) -> Image.Image:
    path = files.image if files.mask is None else files.mask
    with open_image(path) as source:
        _check_shape(source, camera)
        image, _ = source.load()
    return alpha_mask(image, path) if files.mask is None else decode_mask(image, path)


def _check_shape(source: SourceImage, camera: CalibratedCamera) -> None:
    factors = [actual / full for actual, full in zip(source.size, camera.size)]
    if abs(factors[0] / factors[1] - 1) > MAX_ASPECT_ERROR + 1 / min(source.size):
        raise InputError(
            f"{source.path}: {source.size[0]} x {source.size[1]} pixels are of another shape than the camera's "
            f"{camera.width} x {camera.height}; image, mask and calibration must show the same, upright (EXIF "
            "orientation is applied)"
        )


def _cropped_mask(
    mask: Image.Image,
    image_size: tuple[int, int],
    camera: CalibratedCamera,
    scale: np.ndarray,
    region: tuple[int, ...],
    size: tuple[int, int],
) -> Image.Image:
    """Part of a mask that belongs to a region of the image, resampled from its own grid if that differs."""
    if mask.size == image_size:
        return mask.crop(region)
    to_mask = np.tile(np.array(mask.size) / camera.size / scale, 2)
    box = np.array(region) * to_mask
    outer = _outer(box)
    return _resampled(mask.crop(outer), box, outer, size)


def _composed(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    on_white = Image.new("RGB", rgb.size, (255, 255, 255))
    on_white.paste(rgb, None, alpha)
    return on_white


def _undistorted(
    on_white: Image.Image,
    alpha: Image.Image,
    camera: CalibratedCamera,
    exact: tuple[float, float],
    region: tuple[int, int, int, int],
) -> tuple[Image.Image, Image.Image]:
    """A region of an image on white and of its alpha, without distortion."""
    layers = np.dstack([255 - np.asarray(on_white), np.asarray(alpha)])  # darkness, which is 0 outside
    layers = undistort(layers, camera.lens, camera.K, camera.size, exact, region)
    return Image.fromarray(255 - layers[..., :3]), Image.fromarray(layers[..., 3])


def _outer(box: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest rectangle of whole pixels around a box (left, top, right, bottom)."""
    inside = np.array([1, 1, -1, -1]) * 1e-6  # keeps rounding noise from adding a pixel
    low, high = np.floor(box + inside)[:2], np.ceil(box + inside)[2:]
    return (*low.astype(int).tolist(), *high.astype(int).tolist())


def _resampled(image: Image.Image, box: np.ndarray, region: tuple[int, ...], size: tuple[int, int]) -> Image.Image:
    """Resample a box of an image of which `region` (whole pixels around the box) has been cut out."""
    origin = np.tile(region[:2], 2)
    limits = np.tile(image.size, 2)
    return image.resize(size, FILTER, box=tuple(np.clip(box - origin, 0, limits).tolist()))
