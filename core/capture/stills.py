"""Image files of one camera: orientation and focal length from EXIF, all brought to one canvas."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from core.capture.image_source import Candidate
from core.data.images import FORMATS, MAX_IMAGE_BYTES, MAX_PIXELS
from smpl_renderer.bounded_files import check_file
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif")
IMAGE_FORMATS = (*FORMATS, "HEIF", "AVIF")
"""Decoders in use; some of Pillow's others start programs."""
MAX_RATIO = 32
"""Greatest ratio of the sides of an image, because people are searched for in squares along the longer side."""
FILM_DIAGONAL = float(np.hypot(36, 24))
"""Millimetres; focal lengths "in 35 mm film" refer to it."""


def focal_from_exif(image: Image.Image) -> float | None:
    """Focal length in pixels of this image, from its EXIF data; None where they do not state it.

    `FocalLengthIn35mmFilm` is relative to the diagonal (CIPA DC-004), so it also holds for images resized later.
    """
    exif = image.getexif()
    values = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    film = _number(values.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if film:
        return film / FILM_DIAGONAL * float(np.hypot(*image.size))
    length = _number(values.get(ExifTags.Base.FocalLength))
    resolution = _number(values.get(ExifTags.Base.FocalPlaneXResolution))
    unit = {2: 25.4, 3: 10.0, 4: 1.0}.get(values.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    stated_width = _number(values.get(ExifTags.Base.ExifImageWidth)) or image.width
    if not (length and resolution and unit):
        return None
    return length * resolution / unit * max(image.size) / max(stated_width, 1.0)


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def open_image(path: Path) -> Image.Image:
    """Open an image file, also HEIC where `pillow-heif` is installed; nothing is decoded yet.

    Raises:
        InputError: If it cannot be read.
    """
    heif = path.suffix.lower() in (".heic", ".heif")
    if heif:
        try:
            import pillow_heif

            pillow_heif.register_heif_opener()
        except ImportError as error:
            raise InputError(
                f"{path}: HEIC images need the package pillow-heif (pip install pillow-heif); or export it as JPEG"
            ) from error
    check_file(path, MAX_IMAGE_BYTES, "an image")
    try:
        Image.init()  # formats without a decoder are an error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is MAX_PIXELS
            image = Image.open(path, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); export it again, as JPEG or PNG") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise InputError(
            f"{path}: {image.width} x {image.height} pixels are too many (at most {MAX_PIXELS // 10**6} million are "
            "decoded); reduce the image"
        )
    if max(image.size) > MAX_RATIO * min(image.size):
        image.close()
        raise InputError(
            f"{path}: {image.width} x {image.height} pixels are too long a strip (at most {MAX_RATIO} : 1); crop it "
            "around the person"
        )
    return image


def read_upright(path: Path, long_side: int | None = None) -> np.ndarray:
    """RGB array [H, W, 3] of an image file, turned as EXIF states; transparency is laid on white."""
    with _decoding(path), open_image(path) as image:
        if long_side is not None and image.format == "JPEG":
            image.draft("RGB", (long_side, long_side))  # decodes at 1/2, 1/4 or 1/8, never below that size
        image = ImageOps.exif_transpose(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = _to_rgb(image)
        if long_side is not None and max(image.size) > long_side:
            image = image.resize(reduced_size(image.width, image.height, long_side), Image.LANCZOS)
        return np.asarray(image)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Name the file in errors of decoders, which fail in any way."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: cannot be read as an image ({error}); export it again, as JPEG or PNG") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a channel: the upper 8
        values = np.asarray(image, np.float64)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        image = Image.fromarray((values / scale).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def reduced_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height with the longer side at most `long_side`."""
    scale = min(1.0, long_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def upright_size_and_focal(path: Path) -> tuple[int, int, float | None]:
    """Width, height and focal length of an image as it is shown, from its header."""
    with _decoding(path), open_image(path) as image:
        # Pillow decodes a PNG file for its EXIF data, which can follow the pixels.
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        width, height = image.size[::-1] if turned else image.size
        return width, height, focal_from_exif(image)


class StillSource:
    """Image files of one camera, on one canvas.

    Images may differ in size, orientation and zoom. A capture's camera has one size and one focal length, so every
    image is scaled to the focal length of the canvas and centred on it; where it does not reach, the canvas continues
    the image's edge.
    """

    is_video = False

    def __init__(self, paths: list[Path], name: str):
        self.name, self.paths = name, paths
        self.path = paths[0].parent if len(paths) > 1 else paths[0]
        headers = [upright_size_and_focal(path) for path in paths]
        sizes = np.array([header[:2] for header in headers], float)
        focals = np.array([header[2] or np.nan for header in headers])
        self._unknown_focal = np.isnan(focals)
        mixed = len({header[:2] for header in headers}) > 1
        # Relative focal lengths: unknown ones are taken as equal on the diagonal.
        relative = focals / np.hypot(*sizes.T)
        relative[np.isnan(relative)] = np.nanmedian(relative) if not np.isnan(relative).all() else 1.0
        pixels = relative * np.hypot(*sizes.T)
        reference = int(np.argmin(np.abs(pixels - np.median(pixels))))
        self._scales = pixels[reference] / pixels
        if np.ptp(self._scales) < 0.02 and not mixed:
            self._scales[:] = 1.0
        reached = (sizes * self._scales[:, None]).max(0)
        self.width, self.height = (round(float(x)) for x in reached)
        self.focal = None if self._unknown_focal.all() else float(pixels[reference])
        if mixed:
            logger.info(
                "%s: images of %d sizes are centred on %d x %d", *(self.path, len({*map(tuple, sizes)})), *reached
            )

    def keys(self) -> list[int]:
        return list(range(len(self.paths)))

    def candidates(self, count: int, long_side: int) -> Iterator[Candidate]:
        chosen = np.unique(np.linspace(0, len(self.paths) - 1, min(count, len(self.paths))).round().astype(int))
        for key in chosen:
            yield Candidate(int(key), None, self._read(int(key), long_side))

    def read(self, keys: list[int], long_side: int) -> dict[int, np.ndarray]:
        return {key: self._read(key, long_side) for key in keys}

    def label(self, key: int) -> str:
        return self.paths[key].name

    def fingerprint(self) -> str:
        stats = [(path, path.stat()) for path in self.paths]
        return "|".join(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in stats)

    def _read(self, key: int, long_side: int) -> np.ndarray:
        width, height = reduced_size(self.width, self.height, long_side)
        scale = self._scales[key] * width / self.width
        header = upright_size_and_focal(self.paths[key])
        size = (max(1, round(header[0] * scale)), max(1, round(header[1] * scale)))
        pixels = read_upright(self.paths[key], max(size))
        if pixels.shape[1::-1] != size:
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.LANCZOS))
        pad_x, pad_y = width - size[0], height - size[1]
        if pad_x <= 0 and pad_y <= 0:
            return pixels[:height, :width]
        pixels = pixels[:height, :width]
        left, top = max(pad_x, 0) // 2, max(pad_y, 0) // 2
        widths = ((top, max(pad_y, 0) - top), (left, max(pad_x, 0) - left), (0, 0))
        return np.pad(pixels, widths, mode="edge")
