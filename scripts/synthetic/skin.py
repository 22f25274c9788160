"""Colours of skin, hair and shoes at points of the mean body (linear RGB)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.fabrics import Color, mix, step
from scripts.synthetic.faces import Face, face_color
from scripts.synthetic.waves import Waves, constant

_GROUND = -1.166
"""Height of the sole on the mean body."""


@dataclass(frozen=True)
class SkinTone:
    """The look of bare skin and of the face."""

    tone: Color
    mottle: Waves
    face: Face
    band: Color | None = None
    """Colour of a band around the left wrist."""


@dataclass(frozen=True)
class HairColor:
    """The look of hair."""

    root: Color
    tip: Color
    strands: Waves
    parting: float | None = None
    """x of the line where the scalp is visible, in metres; None without a parting."""


@dataclass(frozen=True)
class ShoeColor:
    """The look of shoes and socks."""

    upper: Color
    sole: Color
    detail: Color
    sole_height: float
    """Height of the border between sole and upper above the ground, in metres."""
    style: str
    """`laces`, `stripe`, `cap` or `plain`."""
    socks: tuple[Color, Color]
    """Base colour, and colour of the rings."""


def skin_color(skin: SkinTone, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colour of uneven skin with a face and ears; hands and knees are redder."""
    tone = constant(skin.tone, paint)
    x, y, z = paint.unbind(-1)
    side = x.abs()
    color = tone * (1 + 0.035 * skin.mottle(paint))[:, None]
    hands = step(side - 0.72, 0.08) + torch.exp(-((y + 0.65) / 0.04).square()) * (z > 0.05)
    color = mix(color, tone * constant((1.05, 0.82, 0.8), tone), 0.45 * hands)
    concha = torch.exp(-(((side - 0.078) / 0.006).square() + ((y - 0.41) / 0.013).square()))
    color = color * (1 - 0.35 * concha * ((z > 0.06) & (z < 0.1)))[:, None]
    if skin.band is not None:
        color = mix(color, constant(skin.band, paint), step(0.011 - (x - 0.665).abs(), 0.001))
    on_face = torch.nonzero((z > 0.09) & (y > 0.28) & (y < 0.5) & (side < 0.09))[:, 0]
    if len(on_face):
        color[on_face] = face_color(skin.face, tone, color[on_face], paint[on_face])
    return color.clamp(0, 1)


def hair_color(hair: HairColor, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colour of hair: strands from crown to tip, a ring of gloss, and the parting."""
    share = ((0.5 - paint[:, 1]) / 0.25).clamp(0, 1)
    color = mix(constant(hair.root, paint).expand_as(paint), constant(hair.tip, paint), share)
    strands = hair.strands(paint)
    gloss = torch.exp(-((paint[:, 1] - 0.492 + 0.004 * strands) / 0.011).square())
    shade = (1 + 0.22 * strands) * (1 + 0.7 * gloss)
    color = color * shade[:, None] + 0.02 * gloss[:, None]
    if hair.parting is not None:
        line = step(0.0022 - (paint[:, 0] - hair.parting).abs(), 0.002) * ((paint[:, 1] > 0.47) & (paint[:, 2] > 0.03))
        color = color * (1 - 0.6 * line)[:, None]
    return color.clamp(0, 1)


def shoe_color(shoes: ShoeColor, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colour of shoes: sole, upper, and the details of the style."""
    x, y, z = paint.unbind(-1)
    above = y - _GROUND
    color = constant(shoes.upper, paint).expand_as(paint)
    middle = x.abs() - 0.142
    detail = constant(shoes.detail, paint)
    if shoes.style == "laces":
        on_top = (middle.abs() < 0.018) & (z > 0.09) & (z < 0.18) & (above > 0.035)
        stripes = ((z / 0.014) - (z / 0.014).round()).abs() < 0.22
        color = torch.where((on_top & stripes)[:, None], detail, color)
    elif shoes.style == "stripe":
        for start in (0.06, 0.09, 0.12):
            band = ((z - start + 0.5 * (above - 0.04)).abs() < 0.0055) & (above < 0.075)
            color = torch.where(band[:, None], detail, color)
    elif shoes.style == "cap":
        color = mix(color, detail, step(z - 0.185, 0.002))
        color = mix(color, detail, step(0.005 - z, 0.002) * (above < 0.06))
    color = color * (1 - 0.3 * step(0.003 - (above - shoes.sole_height - 0.004).abs(), 0.001))[:, None]
    return mix(color, constant(shoes.sole, paint), step(shoes.sole_height - above, 0.001))


def sock_color(shoes: ShoeColor, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Colour of socks: rings on a base colour."""
    y = paint[:, 1]
    rings = ((y / 0.05 - (y / 0.05).round()).abs() < 0.16).to(y)
    return mix(constant(shoes.socks[0], paint), constant(shoes.socks[1], paint), rings)
