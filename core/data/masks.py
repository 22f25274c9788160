"""Masks as segmentation and annotation tools write them, decoded in one place to 8 bits: 255 is the subject, 0 is not.

Two values of any size or colour are background and subject. More values are a matte, scaled by its full range, unless
they form flat regions: such label maps, and all else that has several readings, are errors. Black subjects on white are
recognised by the border of the image.
"""

import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core.data.images import FULL_RANGES, to_8_bits
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

DARK, LIGHT = 13, 243
"""8-bit values below which a pixel is background, and from which it is subject; soft edges and JPEG leave noise."""
MAX_BORDER, MIN_INVERTED_BORDER = 0.5, 0.9
"""Largest share of the border that a subject covers, and smallest that a light background covers."""
MAX_FLAT = 0.5
"""Largest share of the intermediate pixels of a matte that equal all four neighbours; label maps have nearly 1."""
MIN_MID = 5e-4
"""Share of intermediate pixels below which a mask counts as two-valued with noise."""
MAX_RESIDUAL, MAX_OFF_LINE = 0.35, 0.01
"""Distance in RGB of a pixel from the line between the colours of background and subject, as a share of its length, and
the largest share of pixels that are further away: JPEG leaves some at edges."""
_SMALL = 2**15
"""Pixels of the subsampled mask that plain masks are recognised by."""


def alpha_mask(image: Image.Image, path: Path) -> Image.Image:
    """Mask of an image that has it as its alpha; mode L.

    Raises:
        InputError: If the image is opaque.
    """
    if image.mode not in ("RGBA", "LA"):
        image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        raise InputError(f"{path}: has no mask: there is no mask file for it, and the image is opaque; add masks")
    return _decode_grey(alpha, path, f"alpha of {image.mode}")


def decode_mask(image: Image.Image, path: Path) -> Image.Image:
    """Decode a loaded mask of any mode to mode L.

    Raises:
        InputError: If its values have more than one meaning; the message states mode and values.
    """
    mode = image.mode
    if mode == "L":
        return _decode_grey(image, path, mode)
    if mode == "1":
        return _decode_grey(image.convert("L"), path, mode)
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _decode_values(np.asarray(image), path, mode)
    if mode == "P" and "transparency" not in image.info and (indices := _indices_of_one_colour(image)) is not None:
        return _decode_values(indices, path, mode)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] < alpha.getextrema()[1]:
            return _decode_grey(alpha, path, f"{mode}, alpha")
    return _decode_colours(image.convert("RGB"), path, mode)


def _decode_grey(image: Image.Image, path: Path, mode: str) -> Image.Image:
    if _is_plain(image):
        return image
    return _decode_values(np.asarray(image), path, mode)


def _is_plain(image: Image.Image) -> bool:
    """True for masks of 0 and 255, with few soft pixels, around a subject that the border mostly shows no part of.

    A fast path: it reads a subsample, and masks that it does not recognise are decoded in full.
    """
    step = max(1, round((image.width * image.height / _SMALL) ** 0.5))
    small = image.resize((max(1, image.width // step), max(1, image.height // step)), Image.Resampling.NEAREST)
    counts = small.histogram()
    total = small.width * small.height
    dark, light, most = sum(counts[:DARK]), sum(counts[LIGHT:]), max(counts[DARK:LIGHT])
    if not dark or not light or dark + light < 0.7 * total or most > max(2, 0.004 * total):
        return False
    return _border_share(np.asarray(small) >= 128) <= MAX_BORDER


def _decode_values(values: np.ndarray, path: Path, mode: str) -> Image.Image:
    """Decode a mask of one channel of any type."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}: the mask holds NaN or infinity; export it with 8 bits")
    levels = np.unique(values)
    if len(levels) == 1:
        mask = np.full(values.shape, 255 if levels[0] > 0 else 0, np.uint8)
    elif len(levels) == 2:
        mask = np.where(values == levels[1], 255, 0).astype(np.uint8)
    else:
        mask = _decode_matte(values, levels, path, mode)
    return Image.fromarray(_upright(mask, path, mode))


def _decode_matte(values: np.ndarray, levels: np.ndarray, path: Path, mode: str) -> UInt8[np.ndarray, "H W"]:
    low, high = float(levels[0]), float(levels[-1])
    relative = (values.astype(np.float32) - low) / (high - low)
    mid = (relative > 0.05) & (relative < 0.95)
    if mid.mean() > MIN_MID and (mid & _is_flat(values)).sum() > MAX_FLAT * mid.sum():
        raise _ambiguous(path, mode, _listed(levels), "flat regions of several values, as in a label map or a trimap")
    full = _matte_range(values.dtype, high)
    if full is None and mid.mean() <= MIN_MID:
        full = high
    if full is None or low < 0:
        raise _ambiguous(path, mode, _listed(levels), "no value stands for an opaque subject")
    return to_8_bits(values, full) if full != 255 or values.dtype != np.uint8 else values


def _matte_range(dtype: np.dtype, high: float) -> float | None:
    """Value of an opaque subject: the smallest full range that holds all values; None if none of them is near it."""
    ranges = (1, *FULL_RANGES) if dtype.kind == "f" else FULL_RANGES
    full = next((full for full in ranges if high <= full), None)
    return full if full is not None and high >= full / 2 else None


def _decode_colours(image: Image.Image, path: Path, mode: str) -> Image.Image:
    """Decode an RGB mask: grey, or mixtures of two colours."""
    pixels = np.asarray(image).astype(np.int16)
    if (pixels.max(-1) - pixels.min(-1)).max() <= 8:
        return _decode_grey(
            Image.fromarray(pixels.max(-1).astype(np.uint8)), path, mode
        )  # labels may be in one channel
    first = _most_frequent(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]))
    distance = np.abs(pixels - first).sum(-1)
    second = _most_frequent(pixels[distance >= 0.5 * distance.max()])
    # Black is the background, unless the border shows that it is the subject (`_upright`).
    background, subject = (second, first) if second.max() < DARK and first.max() >= DARK else (first, second)
    line = (subject - background).astype(np.float32)
    share = ((pixels - background) @ line / (line @ line)).clip(0, 1)
    residual = np.linalg.norm(pixels - background - share[..., None] * line, axis=-1)
    if (residual > MAX_RESIDUAL * np.linalg.norm(line)).mean() > MAX_OFF_LINE:
        raise _ambiguous(path, mode, _listed_colours(pixels), "colours beyond those of one background and one subject")
    return _decode_grey(Image.fromarray(to_8_bits(share, 1)), path, mode)


def _upright(mask: UInt8[np.ndarray, "H W"], path: Path, mode: str) -> UInt8[np.ndarray, "H W"]:
    """Invert a mask whose border shows that its light part is the background."""
    light = mask >= 128
    share = _border_share(light)
    if share <= MAX_BORDER or light.all():
        return mask
    if share < MIN_INVERTED_BORDER:
        reason = f"{share:.0%} of its border is light, too much for a subject and too little for a background"
        raise _ambiguous(path, mode, _listed(np.unique(mask)), reason)
    _note_inverted(path.parent)
    return 255 - mask


@lru_cache(maxsize=256)
def _note_inverted(folder: Path) -> None:
    """Log once per folder that its masks are inverted."""
    logger.warning("%s: masks are dark on light; the dark part is taken as the subject", folder)


def _border_share(mask: np.ndarray) -> float:
    """Share of the outermost pixels that are set."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def _is_flat(values: np.ndarray) -> np.ndarray:
    """True for pixels that equal their four neighbours; those of the border are compared with themselves outside."""
    padded = np.pad(values, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_and.reduce([values == other for other in neighbours])


def _indices_of_one_colour(image: Image.Image) -> np.ndarray | None:
    """Palette indices, if the palette gives all that occur nearly the same colour; else None."""
    indices = np.asarray(image)
    colours = np.array([colour for _, colour in image.convert("RGB").getcolors(256)])
    return indices if len(np.unique(indices)) > 1 and np.ptp(colours, axis=0).max() <= 8 else None


def _most_frequent(colours: np.ndarray) -> np.ndarray:
    """Median of the fullest of 16 x 16 x 16 bins of 8-bit colours [n, 3]."""
    bins = (colours >> 4) @ np.array([256, 16, 1])
    return np.median(colours[bins == np.bincount(bins).argmax()], 0).astype(np.int16)


def _ambiguous(path: Path, mode: str, values: str, reason: str) -> InputError:
    return InputError(
        f"{path}: mask of mode {mode} with the values {values} is ambiguous: {reason}; write 255 for the person and 0 "
        "elsewhere"
    )


def _listed(levels: np.ndarray) -> str:
    """Some of the values of a mask, and how many it has."""
    shown = [f"{level:g}" for level in levels[:6]]
    if len(levels) <= 7:
        return ", ".join(f"{level:g}" for level in levels)
    return f"{', '.join(shown)} ... {levels[-1]:g} ({len(levels)} values)"


def _listed_colours(pixels: np.ndarray) -> str:
    found, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    most = found[np.argsort(-counts)[:5]]
    listed = ", ".join(str(tuple(colour)) for colour in most.tolist())
    return listed + (f" ... ({len(found)} colours)" if len(found) > 5 else "")
