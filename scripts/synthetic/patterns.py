"""Procedural colour of clothes: fabrics, panels, seams, pockets, buttons and prints.

Evaluated at points of the mean body in the rest pose (`Surface.paint`), so that patterns are sharp at any image size
and move with the body. Colours are linear RGB in [0, 1].
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.fabrics import Color, Fabric, bands, fabric_color, mix, step
from scripts.synthetic.prints import Print, print_mask
from scripts.synthetic.waves import Waves, constant

SHOULDER_SEAM = (0.185, 0.1, 0.2)
"""Seam between trunk and sleeve: its |x| at a height, its tilt, and that height."""
_METAL = (0.55, 0.53, 0.5)


@dataclass(frozen=True)
class Pattern:
    """The look of a garment."""

    fabric: Fabric
    folds: Waves
    """Noise of folds, drawn as light and shade."""
    wrinkles: Waves
    """Noise of creases at bends, in coordinates whose y runs along the limb."""
    grain: Waves
    """Noise of the colour."""
    layout: str = "top"
    """Mapping of cloth coordinates to the body: `top`, `legs` or `skirt`."""
    edges: dict[str, float] = field(default_factory=dict)
    """Borders of the garment: `hem`, `neck`, `waist` (heights y) and `sleeve` (|x|)."""
    sleeves: Fabric | None = None
    back: Fabric | None = None
    """Fabric of the back, if it is another one."""
    yoke: Color | None = None
    """Colour of the shoulders."""
    side_stripe: Color | None = None
    """Colour of a stripe down sleeves or legs."""
    trim: Color | None = None
    """Colour of collar, cuffs and hem."""
    belt: Color | None = None
    ribbed: bool = False
    """Ribbed cuffs and hem."""
    closure: str = ""
    """Closure of the front: `buttons`, `zip` or empty."""
    pockets: str = ""
    """`chest`, `flaps`, `kangaroo`, `jeans` or empty."""
    prints: tuple[Print, ...] = ()


def cloth_color(pattern: Pattern, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Linear colour of a garment at points of the mean body."""
    x, y, z = paint.unbind(-1)
    along, across, on_sleeve = _cloth_coordinates(pattern.layout, x, y, z)
    from_edge = _from_edge(pattern, x, y, z, on_sleeve)
    front = z > 0.04
    result = fabric_color(pattern.fabric, paint, along, across)
    if pattern.back is not None:
        behind = fabric_color(pattern.back, paint, along, across)
        result = torch.where((~front & ~on_sleeve)[:, None], behind, result)
    if pattern.yoke is not None:
        result = mix(result, constant(pattern.yoke, paint), step(y - 0.15 - 0.03 * front, 0.002) * ~on_sleeve)
    if pattern.sleeves is not None:
        sleeves = fabric_color(pattern.sleeves, paint, along, across)
        result = torch.where(on_sleeve[:, None], sleeves, result)
    if pattern.side_stripe is not None:
        result = mix(result, constant(pattern.side_stripe, paint), _side_stripe(pattern.layout, x, y, z, on_sleeve))
    for item in pattern.prints:
        side = ~front if item.back else front
        result = mix(result, constant(item.color, paint), print_mask(item, x, y) * (side & ~on_sleeve))
    if pattern.trim is not None:
        result = mix(result, constant(pattern.trim, paint), step(0.022 - from_edge, 0.001))
    if pattern.belt is not None:
        result = _belt(pattern, result, x, y, z)
    result = result * (1 - 0.45 * _seams(pattern, x, y, z, on_sleeve, from_edge))[:, None]
    if pattern.closure:
        result = _closure(pattern, result, x, y, front & ~on_sleeve)
    shade = 1 + 0.035 * pattern.grain(paint) + 0.07 * torch.tanh(1.8 * pattern.folds(paint))
    along_limb = torch.where(on_sleeve[:, None], torch.stack([y, x, z], -1), paint)
    shade = shade + (0.015 + 0.13 * _near_bends(pattern.layout, x, y, on_sleeve)) * torch.tanh(
        1.6 * pattern.wrinkles(along_limb)
    )
    return (result * shade[:, None]).clamp(0, 1)


def _cloth_coordinates(layout, x, y, z) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates along the body or limb and around it, in metres; and which points are on sleeves."""
    around_trunk = TRUNK_ROUND / (2 * torch.pi) * torch.atan2(x, z - 0.04)
    if layout == "legs":
        side = torch.sign(x)
        around_leg = LEG_ROUND / (2 * torch.pi) * torch.atan2(x - 0.125 * side, z - 0.05)
        return y, torch.where(y < -0.36, around_leg, x), torch.zeros_like(x, dtype=torch.bool)
    if layout == "skirt":
        return y, around_trunk, torch.zeros_like(x, dtype=torch.bool)
    on_sleeve = _past_shoulder(x, y) > 0
    around_arm = 0.06 * torch.atan2(z - 0.055, y - 0.2)
    return torch.where(on_sleeve, x.abs(), y), torch.where(on_sleeve, around_arm, around_trunk), on_sleeve


TRUNK_ROUND, LEG_ROUND = 0.88, 0.5
"""Circumferences of trunk and leg in metres: a period that divides them gives no seam."""


def _past_shoulder(x: Tensor, y: Tensor) -> Tensor:
    at, tilt, height = SHOULDER_SEAM
    return x.abs() - at + tilt * (y - height)


def _near_bends(layout: str, x: Tensor, y: Tensor, on_sleeve: Tensor) -> Tensor:
    """Strength of creases: up to 1 at elbows and waist, or at hips, knees and ankles."""

    def around(t, middle, width):
        return torch.exp(-((t - middle) / width).square())

    if layout == "top":
        return torch.where(
            on_sleeve, around(x.abs(), 0.44, 0.07) + 0.4 * around(x.abs(), 0.2, 0.04), around(y, -0.08, 0.1)
        )
    if layout == "legs":
        return around(y, -0.37, 0.07) + around(y, -0.66, 0.09) + around(y, -1.05, 0.07)
    return 0.3 * around(y, -0.1, 0.1)


def _side_stripe(layout: str, x: Tensor, y: Tensor, z: Tensor, on_sleeve: Tensor) -> Tensor:
    if layout == "top":
        return step(0.014 - (z - 0.05).abs(), 0.001) * (on_sleeve & (y > 0.2))
    return step(0.016 - (z - 0.04).abs(), 0.001) * (x.abs() > 0.1)


def _from_edge(pattern: Pattern, x: Tensor, y: Tensor, z: Tensor, on_sleeve: Tensor) -> Tensor:
    """Distance from the nearest of collar, cuffs and hem, in metres."""
    edges, far = pattern.edges, torch.ones_like(x)
    on_trunk = torch.minimum(y - edges.get("hem", -9), 1.5 * (edges.get("neck", 9) - neckline_height(x, y, z)))
    return torch.where(on_sleeve, far * edges.get("sleeve", 9) - x.abs(), on_trunk)


def _belt(pattern: Pattern, color: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    below = pattern.edges["waist"] - y - 0.12 * (z - 0.03)
    color = mix(color, constant(pattern.belt, color), step(0.036 - below, 0.001))
    buckle = (z > 0.04) & (below < 0.04) & (x.abs() < 0.024) & ((below < 0.008) | (below > 0.029) | (x.abs() > 0.016))
    return torch.where(buckle[:, None], constant(_METAL, color), color)


def _closure(pattern: Pattern, color: Tensor, x: Tensor, y: Tensor, where: Tensor) -> Tensor:
    if pattern.closure == "zip":
        color = mix(color, 0.55 * color, step(0.012 - x.abs(), 0.001) * where)
        teeth = 0.6 + 0.4 * bands(y, 0.008, 0.5)
        metal = constant(_METAL, color) * teeth[:, None]
        return torch.where((where & (x.abs() < 0.0035))[:, None], metal, color)
    color = color * (1 - 0.35 * step(0.0018 - (x.abs() - 0.016).abs(), 0.001) * where)[:, None]
    button = ((y / 0.075 - (y / 0.075).round()) * 0.075).square() + x.square() < 0.0065**2
    return torch.where((button & where)[:, None], constant(pattern.fabric.colors[2], color), color)


def _seams(pattern: Pattern, x: Tensor, y: Tensor, z: Tensor, on_sleeve: Tensor, from_edge: Tensor) -> Tensor:
    """Opacity of seams: dark lines between panels, beside hems and around pockets."""
    front = z > 0.04
    lines = torch.zeros_like(x)
    if pattern.layout == "top":
        lines = torch.maximum(lines, _line(_past_shoulder(x, y)))
    if pattern.ribbed:
        ribs = 0.15 + 0.25 * bands(x.abs() + z, 0.012, 0.5)
        lines = torch.maximum(lines, torch.maximum(ribs * step(0.045 - from_edge, 0.001), _line(from_edge - 0.047)))
    else:
        lines = torch.maximum(lines, 0.7 * _line(from_edge - 0.02))
    side = x.abs()
    if pattern.pockets == "chest":
        pocket = _outline(x - 0.078, y - 0.09, 0.042, 0.05)
        lines = torch.maximum(lines, pocket * (front & ~on_sleeve))
    elif pattern.pockets == "flaps":
        flaps = _outline(side - 0.095, y + 0.09, 0.05, 0.022).maximum(_outline(side - 0.082, y - 0.1, 0.042, 0.016))
        lines = torch.maximum(lines, flaps * (front & ~on_sleeve))
    elif pattern.pockets == "kangaroo":
        top = -0.03
        slant = _line(0.8 * (side - 0.1) + 0.3 * (y + 0.09)) * ((y < top) & (y > -0.15))
        rim = (_line(y - top) * (side < 0.074)).maximum(_line(y + 0.15) * (side < 0.125))
        lines = torch.maximum(lines, torch.maximum(slant, rim) * (front & ~on_sleeve))
    elif pattern.pockets == "jeans":
        waist = pattern.edges["waist"]
        slits = _line((y - waist + 0.08) - 0.9 * (side - 0.13)) * (front & (side > 0.07) & (y < waist - 0.03))
        patches = _outline(side - 0.085, y - waist + 0.16, 0.042, 0.05) * ~front
        fly = _line(x - 0.012) * (front & (y > waist - 0.2))
        inner = _line(z - 0.045) * (side > 0.02)
        lines = torch.stack([lines, slits, patches, fly, inner]).amax(0)
    return lines


def _line(distance: Tensor) -> Tensor:
    """Coverage of a line 4 mm wide."""
    return step(0.002 - distance.abs(), 0.001)


def _outline(dx: Tensor, dy: Tensor, half_width: float, half_height: float) -> Tensor:
    """Coverage of the border of a rectangle."""
    return _line(torch.maximum(dx.abs() - half_width, dy.abs() - half_height))


def neckline_height(x, y, z):
    """Height function that is constant along round necklines.

    Its level sets are planes that fall to the front and rise beside the neck. Takes arrays or tensors.
    """
    beside = abs(x) - 0.065
    return y + 0.48 * z - 0.65 * (beside + abs(beside))
