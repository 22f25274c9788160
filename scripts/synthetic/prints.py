"""Prints on clothes: letters and shapes."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scripts.synthetic.fabrics import Color

_SIZE = 192


@dataclass(frozen=True)
class Print:
    """A print on the front or the back of a garment."""

    text: str
    """Letters, or a shape's name in angle brackets (a key of `SHAPES`)."""
    color: Color
    center: tuple[float, float]
    """x and y on the mean body, in metres."""
    width: float
    """Width in metres."""
    back: bool = False


def print_mask(item: Print, x: Tensor, y: Tensor) -> Tensor:
    """Coverage of a print (0 to 1) at points of the mean body, seen from the front or the back."""
    bitmap = _bitmap(item.text, x.device)
    height, width = bitmap.shape
    mirrored = -1.0 if item.back else 1.0
    # Seen from the front, the person's left (+x) is on the right.
    u = (mirrored * (x - item.center[0]) / item.width + 0.5) * width
    v = (0.5 * height) - (y - item.center[1]) / item.width * width
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return bitmap[v.long().clamp(0, height - 1), u.long().clamp(0, width - 1)] * inside


@functools.lru_cache(maxsize=256)
def _bitmap(text: str, device: torch.device) -> Tensor:
    """Coverage of a text or a shape as an image with values in [0, 1], about 200 pixels wide."""
    if not text.startswith("<"):
        font = ImageFont.load_default(size=96)
        left, top, right, bottom = font.getbbox(text, stroke_width=4)
        canvas = Image.new("L", (right - left + 8, bottom - top + 8))
        ImageDraw.Draw(canvas).text((4 - left, 4 - top), text, font=font, fill=255, stroke_width=4)
    else:
        canvas = Image.new("L", (_SIZE, _SIZE))
        SHAPES[text.strip("<>")](ImageDraw.Draw(canvas))
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255).to(device)


def _polygon(draw: ImageDraw.ImageDraw, *corners: tuple[float, float], fill: int = 255) -> None:
    """Fill a polygon; corners are fractions of the image size from its upper left."""
    draw.polygon([(_SIZE * x, _SIZE * y) for x, y in corners], fill=fill)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: int = 255) -> None:
    box = ((x - radius) * _SIZE, (y - radius) * _SIZE, (x + radius) * _SIZE, (y + radius) * _SIZE)
    draw.ellipse(box, fill=fill)


def _disc(draw):
    _circle(draw, 0.5, 0.5, 0.46)


def _ring(draw):
    _circle(draw, 0.5, 0.5, 0.46)
    _circle(draw, 0.5, 0.5, 0.27, fill=0)


def _star(draw):
    turns = np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2 == 0, 0.48, 0.2)
    _polygon(draw, *((0.5 + r * np.sin(t), 0.5 - r * np.cos(t)) for r, t in zip(radii, turns)))


def _heart(draw):
    t = np.linspace(0, 2 * np.pi, 80)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    _polygon(draw, *((0.5 + 0.028 * a, 0.5 - 0.028 * b) for a, b in zip(x, y)))


def _band(draw):
    _polygon(draw, (0, 0.38), (1, 0.38), (1, 0.62), (0, 0.62))


def _chevron(draw):
    for top in (0.1, 0.45):
        _polygon(draw, (0, top), (0.5, top + 0.3), (1, top), (1, top + 0.16), (0.5, top + 0.46), (0, top + 0.16))


def _sun(draw):
    for turn in 2 * np.pi * np.arange(12) / 12:
        tips = ((0.48, turn), (0.3, turn + 0.2), (0.3, turn - 0.2))
        _polygon(draw, *((0.5 + r * np.sin(t), 0.5 - r * np.cos(t)) for r, t in tips))
    _circle(draw, 0.5, 0.5, 0.26)


def _mountains(draw):
    _polygon(draw, (0.02, 0.85), (0.36, 0.2), (0.56, 0.56), (0.68, 0.38), (0.98, 0.85))
    _polygon(draw, (0.36, 0.2), (0.45, 0.38), (0.37, 0.43), (0.27, 0.38), fill=0)


def _bolt(draw):
    _polygon(draw, (0.6, 0.02), (0.2, 0.56), (0.46, 0.56), (0.38, 0.98), (0.82, 0.4), (0.54, 0.4))


def _moon(draw):
    _circle(draw, 0.5, 0.5, 0.46)
    _circle(draw, 0.68, 0.42, 0.38, fill=0)


def _cross(draw):
    _polygon(draw, (0.36, 0.04), (0.64, 0.04), (0.64, 0.96), (0.36, 0.96))
    _polygon(draw, (0.04, 0.36), (0.96, 0.36), (0.96, 0.64), (0.04, 0.64))


def _drop(draw):
    _circle(draw, 0.5, 0.66, 0.3)
    _polygon(draw, (0.5, 0.02), (0.78, 0.56), (0.22, 0.56))


def _arrow(draw):
    _polygon(draw, (0.5, 0.04), (0.94, 0.5), (0.66, 0.5), (0.66, 0.96), (0.34, 0.96), (0.34, 0.5), (0.06, 0.5))


def _diamond(draw):
    _polygon(draw, (0.5, 0.02), (0.88, 0.5), (0.5, 0.98), (0.12, 0.5))
    _polygon(draw, (0.5, 0.3), (0.66, 0.5), (0.5, 0.7), (0.34, 0.5), fill=0)


def _windows(draw):
    for x in (0.06, 0.54):
        for y in (0.06, 0.54):
            _polygon(draw, (x, y), (x + 0.4, y), (x + 0.4, y + 0.4), (x, y + 0.4))


def _paw(draw):
    for x, y in ((0.16, 0.44), (0.37, 0.2), (0.63, 0.2), (0.84, 0.44)):
        _circle(draw, x, y, 0.12)
    _circle(draw, 0.5, 0.7, 0.24)


SHAPES = {
    **{"disc": _disc, "ring": _ring, "star": _star, "heart": _heart, "band": _band, "chevron": _chevron, "sun": _sun},
    **{"mountains": _mountains, "bolt": _bolt, "moon": _moon, "cross": _cross, "drop": _drop, "arrow": _arrow},
    **{"diamond": _diamond, "windows": _windows, "paw": _paw},
}
"""Functions that draw the shapes, white on black."""
