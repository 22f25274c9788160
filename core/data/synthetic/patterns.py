"""Procedural colour: what a point of cloth, skin, hair or shoe looks like, evaluated wherever a picture samples it.

Points are given on the mean body in the rest pose (`Surface.paint`), so that patterns are sharp at any picture size and
stick to the body. Colours are linear RGB in [0, 1].
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.data.synthetic.waves import Waves

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Print:
    """Something printed on a garment's front or back: letters or a shape."""

    text: str
    """Letters, or the name of a shape in angle brackets: <disc>, <ring>, <star>, <heart>, <band>, <chevron>."""
    color: Color
    center: tuple[float, float]
    """x, y on the mean body."""
    width: float
    """Metres."""
    back: bool = False


@dataclass(frozen=True)
class Pattern:
    """The look of a piece of cloth."""

    kind: str
    """`plain`, `stripes`, `checks`, `dots`, `camouflage`, `melange`, `blocks`, `halves`, `gradient`, `zigzag`."""
    colors: tuple[Color, Color, Color]
    period: float = 0.06
    duty: float = 0.5
    angle: float = 0.0
    """Degrees; stripes at 0 are level."""
    waves: Waves | None = None
    folds: Waves | None = None
    """Soft creases, as light and shade."""
    grain: Waves | None = None
    """Fine unevenness of the colour."""
    sleeves: Color | None = None
    trim: Color | None = None
    """Colour of collar, cuffs and hem."""
    placket: bool = False
    """A row of buttons down the front."""
    prints: tuple[Print, ...] = ()
    layout: str = "top"
    """How cloth runs over the body: `top`, `legs` or `skirt`."""
    edges: dict[str, float] = field(default_factory=dict)
    """Where the garment ends: `hem`, `sleeve`, `neck`, for its trim."""


def mix(base: Float[Tensor, "N 3"], other: Float[Tensor, "..."], share: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
    return base + (other - base) * share[:, None]


def step(x: Tensor, softness: float) -> Tensor:
    """0 below zero, 1 above, soft over `softness` metres."""
    return (x / softness + 0.5).clamp(0, 1)


def cloth_color(pattern: Pattern, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Linear colour of a garment at points of the mean body."""
    x, y, z = paint.unbind(-1)
    along, across, on_sleeve = _cloth_coordinates(pattern.layout, x, y, z)
    colors = [paint.new_tensor(c) for c in pattern.colors]
    result = _base_color(pattern, paint, along, across, colors)
    if pattern.sleeves is not None:
        result = torch.where(on_sleeve[:, None], paint.new_tensor(pattern.sleeves), result)
    front = z > 0.04
    for item in pattern.prints:
        side = ~front if item.back else front
        result = mix(result, paint.new_tensor(item.color), _print_mask(item, x, y) * (side & ~on_sleeve))
    if pattern.trim is not None:
        result = mix(result, paint.new_tensor(pattern.trim), _trim_mask(pattern, x, y, z, on_sleeve))
    if pattern.placket:
        line = (x.abs() < 0.014) & front & ~on_sleeve
        result = result * torch.where(line & ((x.abs() - 0.0125).abs() < 0.0015), 0.75, 1.0)[:, None]
        button = ((y / 0.075 - (y / 0.075).round()) * 0.075).square() + x.square() < 0.0055**2
        result = torch.where((button & front & ~on_sleeve)[:, None], colors[2], result)
    if pattern.grain is not None:
        result = result * (1 + 0.04 * pattern.grain(paint))[:, None]
    if pattern.folds is not None:
        result = result * (1 + 0.06 * pattern.folds(paint))[:, None]
    return result.clamp(0, 1)


def _cloth_coordinates(layout, x, y, z) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates along the body or limb and around it, in metres; and what belongs to sleeves."""
    around_trunk = 0.14 * torch.atan2(x, z - 0.04)
    if layout == "legs":
        side = torch.sign(x)
        around_leg = 0.08 * torch.atan2(x - 0.125 * side, z - 0.05)
        return y, torch.where(y < -0.36, around_leg, x), torch.zeros_like(x, dtype=torch.bool)
    if layout == "skirt":
        return y, around_trunk, torch.zeros_like(x, dtype=torch.bool)
    on_sleeve = x.abs() > 0.185 - 0.1 * (y - 0.2)
    around_arm = 0.06 * torch.atan2(z - 0.055, y - 0.2)
    return torch.where(on_sleeve, x.abs(), y), torch.where(on_sleeve, around_arm, around_trunk), on_sleeve


def _base_color(pattern: Pattern, paint, along, across, colors) -> Tensor:
    first, second, third = colors
    base = first.expand(len(along), 3)
    angle = np.deg2rad(pattern.angle)
    u = np.cos(angle) * along + np.sin(angle) * across
    v = -np.sin(angle) * along + np.cos(angle) * across
    period = pattern.period
    if pattern.kind == "stripes":
        return mix(base, second, _band(u, period, pattern.duty))
    if pattern.kind == "checks":
        share_u, share_v = _band(u, period, pattern.duty), _band(v, period, pattern.duty)
        base = mix(mix(base, second, 0.5 * share_u), second, 0.5 * share_v)
        lines = torch.maximum(_band(u + period / 2, period, 0.08), _band(v + period / 2, period, 0.08))
        return mix(base, third, 0.8 * lines)
    if pattern.kind == "dots":
        row = (u / period).round()
        du = u - row * period
        shifted = v + (row % 2) * period / 2
        dv = shifted - (shifted / period).round() * period
        return mix(base, second, step(pattern.duty * period * 0.55 - (du.square() + dv.square()).sqrt(), 0.001))
    if pattern.kind == "camouflage":
        level = pattern.waves(paint)
        other = pattern.waves(paint.flip(-1) * 1.3 + 3.0)
        return mix(mix(base, second, step(level - 0.25, 0.05)), third, step(other - 0.55, 0.05))
    if pattern.kind == "melange":
        return mix(base, second, (0.5 + 0.35 * pattern.waves(paint)).clamp(0, 1))
    if pattern.kind == "blocks":
        base = mix(base, second, step(along - pattern.duty * period, 0.001))
        return mix(base, third, step(0.02 - (along - pattern.duty * period).abs(), 0.001))
    if pattern.kind == "halves":
        return mix(base, second, step(paint[:, 0], 0.001))
    if pattern.kind == "gradient":
        return mix(base, second, ((along - pattern.duty * period) / 0.4 + 0.5).clamp(0, 1))
    if pattern.kind == "zigzag":
        fold = (across / period - (across / period).round()).abs() * period
        return mix(base, second, _band(along + fold, period, pattern.duty))
    return base


def _band(u: Tensor, period: float, duty: float) -> Tensor:
    """1 inside of bands that repeat along u, 0 between."""
    distance = (u - (u / period).round() * period).abs()
    return step(duty * period / 2 - distance, 0.0012)


def _trim_mask(pattern: Pattern, x, y, z, on_sleeve) -> Tensor:
    mask = torch.zeros_like(x)
    edges = pattern.edges
    if "hem" in edges:
        mask = torch.where(on_sleeve, mask, step(edges["hem"] + 0.025 - y, 0.001))
    if "sleeve" in edges:
        mask = torch.where(on_sleeve, step(x.abs() - edges["sleeve"] + 0.02, 0.001), mask)
    if "neck" in edges:
        collar = step(neckline_height(x, y, z) - edges["neck"] + 0.014, 0.001)
        mask = torch.where(on_sleeve, mask, torch.maximum(mask, collar))
    return mask


def neckline_height(x, y, z):
    """Constant along round necklines: planes that fall to the front and rise beside the neck (arrays or tensors)."""
    beside = abs(x) - 0.065
    return y + 0.48 * z - 0.65 * (beside + abs(beside))


def _print_mask(item: Print, x: Tensor, y: Tensor) -> Tensor:
    bitmap = _bitmap(item.text).to(x.device)
    height, width = bitmap.shape
    mirrored = -1.0 if item.back else 1.0
    # Seen from the front, the person's left (+x) is on the right.
    u = (mirrored * (x - item.center[0]) / item.width + 0.5) * width
    v = (0.5 * height) - (y - item.center[1]) / item.width * width
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return bitmap[v.long().clamp(0, height - 1), u.long().clamp(0, width - 1)] * inside


def _bitmap(text: str) -> Tensor:
    """What is printed as a picture of 0 and 1, some 200 pixels wide."""
    size = 192
    if not text.startswith("<"):
        font = ImageFont.load_default(size=96)
        left, top, right, bottom = font.getbbox(text)
        canvas = Image.new("L", (right - left + 8, bottom - top + 8))
        ImageDraw.Draw(canvas).text((4 - left, 4 - top), text, font=font, fill=255)
    else:
        canvas = Image.new("L", (size, size))
        _draw_shape(ImageDraw.Draw(canvas), text.strip("<>"), size)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, size: int) -> None:
    middle = size / 2
    if shape == "disc":
        draw.ellipse((8, 8, size - 8, size - 8), fill=255)
    elif shape == "ring":
        draw.ellipse((8, 8, size - 8, size - 8), fill=255)
        draw.ellipse((44, 44, size - 44, size - 44), fill=0)
    elif shape == "star":
        turns = np.pi * np.arange(10) / 5
        radii = np.where(np.arange(10) % 2 == 0, 0.48, 0.2) * size
        draw.polygon([(middle + r * np.sin(t), middle - r * np.cos(t)) for r, t in zip(radii, turns)], fill=255)
    elif shape == "heart":
        t = np.linspace(0, 2 * np.pi, 80)
        hx = 16 * np.sin(t) ** 3
        hy = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        draw.polygon([(middle + 5.4 * a, middle - 5.4 * b) for a, b in zip(hx, hy)], fill=255)
    elif shape == "band":
        draw.rectangle((0, int(0.38 * size), size, int(0.62 * size)), fill=255)
    elif shape == "chevron":
        for top in (0.1, 0.45):
            points = [(0, top), (0.5, top + 0.3), (1, top), (1, top + 0.16), (0.5, top + 0.46), (0, top + 0.16)]
            draw.polygon([(size * a, size * b) for a, b in points], fill=255)
    else:
        raise ValueError(f"unknown printed shape {shape!r}")
