"""Square windows of a picture, and reading them from files of any resolution.

A window lives in pixels of the *calibrated* picture, so one intrinsic matrix serves it whatever size the files have:
image and mask are each resampled from their own grid.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.types.cameras import Cameras
from smpl_renderer.errors import InputError

PERSON_MARGIN = 0.08
"""Room left around the projected body in a `person` crop, on each side, as a share of the body's longer side: for hair
and clothes."""

MAX_ASPECT_ERROR = 0.01
"""Files may be rounded to whole pixels (1398 x 1024 for 4096 x 3000), but not be of another shape than the
calibration."""

FILTER = Image.Resampling.BILINEAR
"""PIL's is a triangle as wide as the reduction: antialiased, without overshoot, and true to linear ramps at any phase,
so that nothing moves. HAMMING and BOX are sharper but shift edges by up to 0.2 pixels at factors near 1."""


@dataclass(frozen=True)
class Window:
    """A square of a picture: `left` and `top` are the distance of its corner from the picture's, `side` its size, in
    pixels."""

    left: float
    top: float
    side: float


def center_window(width: int, height: int) -> Window:
    """The largest centred square: at MVHumanNet's 1224 x 1024 the paper's crop, 100 columns off each side."""
    side = min(width, height)
    return Window((width - side) / 2, (height - side) / 2, side)


def person_window(points: Float[Tensor, "N 2"], margin: float = PERSON_MARGIN) -> Window:
    """A square around projected points of the body; it may reach over the picture's borders."""
    low, high = points.amin(0), points.amax(0)
    side = (1 + 2 * margin) * float((high - low).max())
    left, top = ((low + high - side) / 2).tolist()
    return Window(left, top, side)


def window_cameras(cameras: Cameras, windows: list[Window], size: int) -> Cameras:
    """Cameras [C] of whole pictures to those of one window each, resampled to `size` x `size` pixels."""
    left, top, side = (cameras.Ks.new_tensor([getattr(w, key) for w in windows]) for key in ("left", "top", "side"))
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    Ks[:, :2] *= (size / side)[:, None, None]
    return replace(cameras, Ks=Ks, width=size, height=size)


def read_window(
    image_path: Path, mask_path: Path, calibrated_size: tuple[int, int], window: Window, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read a window of a picture and of its mask.

    The picture is composed on white before it is resampled, so that no background bleeds into the person's border. Mask
    values are the alpha as they are, soft ones too. What lies outside of the picture is white with alpha 0.

    Args:
        calibrated_size: Width and height of the picture that `window` is in; the files may have any size of that shape.
        window: Where to read.
        size: Pixels of the result.
    Returns:
        RGB on white, [size, size, 3] uint8, and alpha, [size, size] uint8.
    Raises:
        InputError: If a file is missing, truncated, or of another shape than the calibration.
    """
    with _opened(image_path, calibrated_size) as image:
        # A JPEG decodes faster at 1/2, 1/4 or 1/8; the box that comes back has its exact, fractional size.
        wanted = tuple(math.ceil(length * size / window.side - 1e-6) for length in calibrated_size)
        _, exact = image.draft(None, wanted) or (None, (0, 0, *image.size))
        scale = np.array(exact[2:]) / calibrated_size
        corners = [window.left, window.top, window.left + window.side, window.top + window.side]
        box = np.array(corners) * np.tile(scale, 2)
        region = _outer(box)
        rgb, file_size = image.crop(region).convert("RGB"), image.size
    with _opened(mask_path, calibrated_size) as file:
        mask = _full_range(file if file.mode == "L" else file.convert("L"))
        if mask.size == file_size:
            alpha = mask.crop(region)
        else:
            to_mask = np.tile(np.array(mask.size) / calibrated_size / scale, 2)
            mask_box = np.array(region) * to_mask
            mask_region = _outer(mask_box)
            alpha = _resampled(mask.crop(mask_region), mask_box, mask_region, rgb.size)
    on_white = Image.new("RGB", rgb.size, (255, 255, 255))
    on_white.paste(rgb, None, alpha)
    return tuple(np.asarray(_resampled(picture, box, region, (size, size))) for picture in (on_white, alpha))


def read_picture(
    path: Path, calibrated_size: tuple[int, int], mode: str, size: tuple[int, int] | None = None
) -> Image.Image:
    """Read a whole picture (`mode` "RGB") or mask ("L"), at the size of its file or resampled to width and height
    `size`.

    Raises:
        InputError: If the file is missing, truncated, or of another shape than the calibration.
    """
    with _opened(path, calibrated_size) as image:
        picture = _full_range(image.convert(mode)) if mode == "L" else image.convert(mode)
        return picture if size is None else picture.resize(size, FILTER)


@contextmanager
def _opened(path: Path, calibrated_size: tuple[int, int]) -> Iterator[Image.Image]:
    """Open a picture of the calibrated shape; whatever goes wrong while it is read becomes an error that names it."""
    try:
        with Image.open(path) as image:
            factors = [actual / full for actual, full in zip(image.size, calibrated_size)]
            if abs(factors[0] / factors[1] - 1) > MAX_ASPECT_ERROR + 1 / min(image.size):
                raise InputError(
                    f"{path}: {image.width} x {image.height} pixels are of another shape than the calibrated "
                    f"{calibrated_size[0]} x {calibrated_size[1]}; use uncropped pictures, or correct `image_center`"
                )
            yield image
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the capture is incomplete, unpack it again") from error
    except InputError:
        raise
    # PIL reports broken files by any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as a picture ({error}); get the file again") from error


def _full_range(mask: Image.Image) -> Image.Image:
    """A mask of 0 and 255, also where the file has 0 and 1."""
    return mask.point(lambda value: 255 * value) if mask.getextrema()[1] == 1 else mask


def _outer(box: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest rectangle of whole pixels around a box (left, top, right, bottom)."""
    inside = np.array([1, 1, -1, -1]) * 1e-6  # keeps rounding noise from adding a pixel
    low, high = np.floor(box + inside)[:2], np.ceil(box + inside)[2:]
    return (*low.astype(int).tolist(), *high.astype(int).tolist())


def _resampled(picture: Image.Image, box: np.ndarray, region: tuple[int, ...], size: tuple[int, int]) -> Image.Image:
    """Resample a box of a picture of which `region` (whole pixels around the box) has been cut out."""
    origin = np.tile(region[:2], 2)
    limits = np.tile(picture.size, 2)
    return picture.resize(size, FILTER, box=tuple(np.clip(box - origin, 0, limits).tolist()))
