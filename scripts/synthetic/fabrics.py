"""Procedural fabrics (stripes, checks, dots and others), evaluated at the points that an image samples.

Colours are linear RGB in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.waves import Waves, constant

Color = tuple[float, float, float]

_EDGE = 0.0012
"""Width of the transition between two colours, in metres."""


@dataclass(frozen=True)
class Fabric:
    """Parameters of a fabric."""

    kind: str
    """A key of `KINDS`."""
    colors: tuple[Color, Color, Color]
    period: float = 0.06
    """Period of the pattern in metres."""
    duty: float = 0.5
    """Fraction of the period with the second colour; for `blocks` and `gradient`, position of the border in periods."""
    angle: float = 0.0
    """Direction in degrees; stripes at 0 are horizontal."""
    waves: Waves | None = None
    """Noise of irregular kinds."""


def mix(base: Float[Tensor, "*N 3"], other: Float[Tensor, "*N 3"], share: Float[Tensor, " N"]) -> Float[Tensor, "N 3"]:
    """Blend two colours linearly; each is one colour for all points or one per point."""
    return base + (other - base) * share[:, None]


def step(x: Tensor, softness: float) -> Tensor:
    """Linear ramp from 0 to 1 of width `softness`, centred at x = 0."""
    return (x / softness + 0.5).clamp(0, 1)


def bands(u: Tensor, period: float, duty: float) -> Tensor:
    """Periodic bands along u: 1 inside, 0 between."""
    distance = (u - (u / period).round() * period).abs()
    return step(duty * period / 2 - distance, _EDGE)


def fabric_color(
    fabric: Fabric, paint: Float[Tensor, "N 3"], along: Float[Tensor, " N"], across: Float[Tensor, " N"]
) -> Float[Tensor, "N 3"]:
    """Linear colour of a fabric.

    Args:
        fabric: Parameters of the fabric.
        paint: Points of the mean body.
        along: Coordinate along the body or the limb at these points, in metres.
        across: Coordinate around it, in metres.
    """
    angle = np.deg2rad(fabric.angle)
    u = np.cos(angle) * along + np.sin(angle) * across
    v = -np.sin(angle) * along + np.cos(angle) * across
    colors = [constant(color, paint) for color in fabric.colors]
    return KINDS[fabric.kind](fabric, colors, u, v, paint).expand(len(paint), 3)


def _plain(fabric, colors, u, v, paint):
    return colors[0]


def _melange(fabric, colors, u, v, paint):
    return mix(colors[0], colors[1], (0.5 + 0.35 * fabric.waves(paint)).clamp(0, 1))


def _denim(fabric, colors, u, v, paint):
    """Denim, worn over thighs, knees and seat."""
    x, y, z = paint.unbind(-1)
    leg = torch.exp(-((x.abs() - 0.12) / 0.05).square() - ((y + 0.5) / 0.22).square())
    seat = torch.exp(-((x.abs() - 0.09) / 0.06).square() - ((y + 0.24) / 0.08).square()) * (z < 0.0)
    worn = 0.2 + 0.04 * fabric.waves(paint) + 0.5 * torch.maximum(leg * (z > 0.04), seat)
    return mix(colors[0], colors[1], worn.clamp(0, 1))


def _stripes(fabric, colors, u, v, paint):
    return mix(colors[0], colors[1], bands(u, fabric.period, fabric.duty))


def _checks(fabric, colors, u, v, paint):
    period = fabric.period
    base = mix(colors[0], colors[1], 0.5 * bands(u, period, fabric.duty))
    base = mix(base, colors[1], 0.5 * bands(v, period, fabric.duty))
    lines = torch.maximum(bands(u + period / 2, period, 0.08), bands(v + period / 2, period, 0.08))
    return mix(base, colors[2], 0.8 * lines)


def _dots(fabric, colors, u, v, paint):
    du, dv, _, _ = _staggered(u, v, fabric.period)
    return mix(
        colors[0], colors[1], step(fabric.duty * fabric.period * 0.55 - (du.square() + dv.square()).sqrt(), _EDGE)
    )


def _camouflage(fabric, colors, u, v, paint):
    other = fabric.waves(paint.flip(-1) * 1.3 + 3.0)
    return mix(mix(colors[0], colors[1], step(fabric.waves(paint) - 0.25, 0.05)), colors[2], step(other - 0.55, 0.05))


def _blocks(fabric, colors, u, v, paint):
    border = u - fabric.duty * fabric.period
    return mix(mix(colors[0], colors[1], step(border, _EDGE)), colors[2], step(0.02 - border.abs(), _EDGE))


def _halves(fabric, colors, u, v, paint):
    return mix(colors[0], colors[1], step(paint[:, 0], _EDGE))


def _gradient(fabric, colors, u, v, paint):
    return mix(colors[0], colors[1], ((u - fabric.duty * fabric.period) / 0.4 + 0.5).clamp(0, 1))


def _zigzag(fabric, colors, u, v, paint):
    fold = (v / fabric.period - (v / fabric.period).round()).abs() * fabric.period
    return mix(colors[0], colors[1], bands(u + fold, fabric.period, fabric.duty))


def _flowers(fabric, colors, u, v, paint):
    """Flowers with five petals, each rotated at random."""
    du, dv, row, column = _staggered(u, v, fabric.period)
    angle = torch.atan2(du, dv) + 6.28 * _cell_value(row, column)
    radius = (du.square() + dv.square()).sqrt()
    petals = 0.36 * fabric.period * (0.7 + 0.3 * torch.cos(5 * angle))
    return mix(
        mix(colors[0], colors[1], step(petals - radius, _EDGE)), colors[2], step(0.12 * fabric.period - radius, _EDGE)
    )


def _splashes(fabric, colors, u, v, paint):
    """Irregular splashes of two colours."""
    level = fabric.waves(paint) + 0.5 * fabric.waves(2.3 * paint + 1.0)
    return mix(mix(colors[0], colors[1], step(level - 0.9, 0.06)), colors[2], step(-level - 1.2, 0.06))


def _ripples(fabric, colors, u, v, paint):
    swing = 0.3 * fabric.period * torch.sin(v * (2 * np.pi / 0.11))
    return mix(colors[0], colors[1], bands(u + swing, fabric.period, fabric.duty))


def _argyle(fabric, colors, u, v, paint):
    """Diamonds crossed by thin lines."""
    period = fabric.period
    a, b = u + 1.5 * v, u - 1.5 * v
    diamonds = torch.sin(a * (np.pi / period)) * torch.sin(b * (np.pi / period))
    lines = torch.maximum(bands(a + period / 2, period, 0.07), bands(b + period / 2, period, 0.07))
    return mix(mix(colors[0], colors[1], step(diamonds, 0.08)), colors[2], 0.8 * lines)


def _bricks(fabric, colors, u, v, paint):
    height, width = fabric.period / 2, fabric.period
    row = (u / height).floor()
    shifted = v + (row % 2) * width / 2
    tone = 0.8 * _cell_value(row, (shifted / width).floor())
    mortar = torch.maximum(bands(u, height, 0.14), bands(shifted, width, 0.07))
    return mix(mix(colors[0], colors[1], tone), colors[2], mortar)


def _leopard(fabric, colors, u, v, paint):
    level = fabric.waves(paint)
    return mix(mix(colors[0], colors[1], step(level - 0.5, 0.08)), colors[2], step(level - 1.05, 0.08))


def _triangles(fabric, colors, u, v, paint):
    period = fabric.period
    row = (u / period).floor()
    shifted = v / period + 0.5 * (row % 2)
    height, side = u / period - row, 2 * (shifted - shifted.floor() - 0.5).abs()
    inside = step((0.92 - height - side).minimum(height - 0.08) * period, _EDGE)
    picked = (_cell_value(row, shifted.floor()) < 0.35).to(u)
    return mix(colors[0], mix(colors[1], colors[2], picked), inside)


def _marble(fabric, colors, u, v, paint):
    phase = u * (2 * np.pi / fabric.period) + 2.4 * fabric.waves(paint)
    return mix(colors[0], colors[1], (0.5 + 0.9 * torch.sin(phase)).clamp(0, 1))


def _tartan(fabric, colors, u, v, paint):
    """Stripes of three widths along both directions."""
    period = fabric.period

    def sett(t):
        return torch.maximum(bands(t, period, 0.32), bands(t + 0.36 * period, period, 0.09))

    base = mix(mix(colors[0], colors[1], 0.55 * sett(u)), colors[1], 0.55 * sett(v))
    lines = torch.maximum(bands(u + period / 2, period, 0.06), bands(v + period / 2, period, 0.06))
    return mix(base, colors[2], 0.9 * lines)


def _confetti(fabric, colors, u, v, paint):
    """Short dashes of two colours in random directions."""
    du, dv, row, column = _staggered(u, v, fabric.period)
    angle = 6.28 * _cell_value(row, column)
    length, width = du * torch.cos(angle) + dv * torch.sin(angle), dv * torch.cos(angle) - du * torch.sin(angle)
    inside = step((0.3 * fabric.period - length.abs()).minimum(0.12 * fabric.period - width.abs()), _EDGE)
    picked = (_cell_value(column, row) < 0.5).to(u)
    return mix(colors[0], mix(colors[1], colors[2], picked), inside)


KINDS = {
    **{"plain": _plain, "melange": _melange, "denim": _denim, "stripes": _stripes, "checks": _checks, "dots": _dots},
    **{"camouflage": _camouflage, "blocks": _blocks, "halves": _halves, "gradient": _gradient, "zigzag": _zigzag},
    **{"flowers": _flowers, "splashes": _splashes, "ripples": _ripples, "argyle": _argyle, "bricks": _bricks},
    **{"leopard": _leopard, "triangles": _triangles, "marble": _marble, "tartan": _tartan, "confetti": _confetti},
}
"""Kinds of fabric: functions of the fabric, its colours, coordinates along and across, and points, to colours."""


def _staggered(u: Tensor, v: Tensor, period: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets from the nearest node of a grid with odd rows shifted by half a period; row and column of the node."""
    row = (u / period).round()
    shifted = v + (row % 2) * period / 2
    column = (shifted / period).round()
    return u - row * period, shifted - column * period, row, column


def _cell_value(row: Tensor, column: Tensor) -> Tensor:
    """Pseudo-random number in [0, 1) of each grid cell, equal on all devices."""
    mixed = (row.long() * 7919) ^ (column.long() * 104729)
    return ((mixed * 2654435761) >> 16).remainder(1024) / 1024.0
