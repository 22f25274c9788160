"""Image files as they come from cameras and tools, opened in one way for training, inference, packing and checks.

Opened are regular files of the listed formats only, up to `MAX_PIXELS`, in the orientation of their EXIF data. Colours
of any mode become 8-bit RGB (`to_rgb`); masks are decoded by `core.data.masks`.
"""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from smpl_renderer.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""Decoders in use. Pillow's others are not needed, and some start programs (EPS: Ghostscript)."""
SUFFIX = r"\.(?:jpe?g|png|webp|tiff?|bmp)"
"""Pattern of the suffixes of image files; matched in any case."""
MAX_IMAGE_BYTES = 2**30
MAX_PIXELS = 2**27
"""Largest number of pixels that is decoded: 400 MB as RGB."""
FULL_RANGES = (255, 1023, 4095, 16383, 65535)
"""Greatest values of 8, 10, 12, 14 and 16 bits."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LIMIT = f"at most {MAX_PIXELS // 10**6} million are decoded; reduce the image"
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits."""


class SourceImage:
    """An open image file; pixels are decoded by `load`.

    Attributes:
        path: The file.
        size: Width and height of the whole image, oriented.
    """

    def __init__(self, path: Path, image: Image.Image):
        self.path = path
        self._image = image
        self._orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow orients TIFF when it decodes
        self.size: tuple[int, int] = self._oriented(_stored_size(image))

    @property
    def mode(self) -> str:
        """Pillow's mode of the file."""
        return self._image.mode

    @property
    def is_turned(self) -> bool:
        """True if the stored pixels are not upright."""
        return self._orientation != 1 or (self._image.format == "TIFF" and self._image.tag_v2.get(274, 1) != 1)

    @property
    def has_alpha(self) -> bool:
        """True if the file has an alpha channel, or a transparent colour or palette entry."""
        return self.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in self._image.info

    def load(self, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[float, float]]:
        """Decode the image, oriented.

        Args:
            at_least: Width and height that suffice. JPEG decodes faster at 1/2, 1/4 or 1/8.
        Returns:
            The image in its own mode, and its exact width and height, which need not be whole numbers.
        Raises:
            InputError: If the file is damaged.
        """
        image, exact = self._image, None
        try:
            if at_least is not None and (drafted := image.draft(None, self._oriented(at_least))) is not None:
                exact = self._oriented(drafted[1][2:])
            image.load()
            if image.format == "PNG" and image.mode == "I":  # 16 bits, in older versions of Pillow
                image = image.convert("I;16")
            if self._orientation != 1:
                image = image.transpose(_TRANSPOSE[self._orientation])
        except Exception as error:  # decoders fail in any way
            raise _named(self.path, error) from error
        return image, image.size if exact is None else exact

    def _oriented(self, size: tuple) -> tuple:
        """Width and height after the orientation, or before it: swapping is its own inverse."""
        return size[::-1] if self._orientation >= 5 else size


@contextmanager
def open_image(path: Path) -> Iterator[SourceImage]:
    """Open an image file for as long as the context lasts.

    Raises:
        InputError: If the file is missing, is none of the formats, or is too large.
    """
    stream = None
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: cannot be read as an image (it is no regular file); name an image file")
        if status.st_size > MAX_IMAGE_BYTES:
            raise InputError(f"{path}: has {status.st_size >> 20} MiB, too much for an image; export it again")
        # A stream, because Pillow maps files that it opens by name, and turned TIFF wrongly.
        stream = path.open("rb")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is MAX_PIXELS
            image = Image.open(stream, formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {width} x {height} pixels are too many ({_LIMIT})")
        source = SourceImage(path, image)
    except Exception as error:  # decoders fail in any way
        if stream is not None:
            stream.close()
        raise _named(path, error) from error
    with stream, image:
        yield source


def _named(path: Path, error: Exception) -> InputError:
    """An error that names the file, for whatever Pillow raises if it is broken."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file; the capture is incomplete")
    if isinstance(error, Image.DecompressionBombError):
        return InputError(f"{path}: has too many pixels ({_LIMIT})")
    reason, remedy = str(error), "export or copy it again"
    if isinstance(error, Image.UnidentifiedImageError):
        reason = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or it is damaged"
        remedy = "export it again as JPEG or PNG"
    return InputError(f"{path}: cannot be read as an image ({reason}); {remedy}")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, oriented; only its header is read.

    Raises:
        InputError: As `open_image`.
    """
    with open_image(path) as image:
        return image.size


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; alpha is dropped.

    Raises:
        InputError: If values of more than 8 bits have no known range.
    """
    if image.mode == "RGB":
        return image
    if image.mode in _WIDE_MODES:
        values = np.asarray(image)
        image = Image.fromarray(to_8_bits(values, full_range(values, image.mode, path)))
    elif image.mode in ("RGBa", "La", "PA") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")  # Pillow does not convert these directly, or warns
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"{path}: mode {image.mode} has no known colours; export it as RGB") from error


def to_8_bits(values: np.ndarray, full: float) -> np.ndarray:
    """Scale values so that `full` becomes 255, rounded and clipped."""
    return np.clip(np.rint(values.astype(np.float64) * (255 / full)), 0, 255).astype(np.uint8)


def full_range(values: np.ndarray, mode: str, path: Path) -> float:
    """Value that stands for white, of an image of more than 8 bits.

    16-bit files use 65535. In 32-bit files it is the smallest of 1 (floating point only) and the ranges of 8 to 16 bits
    that holds all values.

    Raises:
        InputError: If values are negative, not finite, or beyond 16 bits.
    """
    low, high = float(values.min()), float(values.max())
    if mode.startswith("I;16"):
        return 65535
    if np.isfinite([low, high]).all() and low >= 0:
        if mode == "F" and high <= 1:
            return 1
        if full := next((full for full in (255, 65535) if high <= full), None):
            return full
    raise InputError(
        f"{path}: mode {mode} with values from {low:g} to {high:g} has no known white; export it with 8 or 16 bits"
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, from 1 to 8; 1 where it is missing or invalid."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in _TRANSPOSE else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the file; those of a TIFF after its orientation."""
    if image.format != "TIFF":
        return image.size
    tags = image.tag_v2  # `size` is oriented by some versions of Pillow only
    width, height = tags.get(256, image.width), tags.get(257, image.height)
    return (height, width) if tags.get(274) in (5, 6, 7, 8) else (width, height)
