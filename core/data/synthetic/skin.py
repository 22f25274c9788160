"""Painted skin, faces, hair and shoes: colours at points of the mean body (linear RGB)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.synthetic.patterns import Color, mix, step
from core.data.synthetic.waves import Waves

# Where a face's features are on the stand-in body's mean shape, in metres (x for the left half).
EYE = (0.0305, 0.4186)
MOUTH_HEIGHT = 0.3495
BROW_HEIGHT = 0.4335


@dataclass(frozen=True)
class Skin:
    """A person's skin and face."""

    tone: Color
    lips: Color
    iris: Color
    brow: Color
    brow_weight: float
    """Thickness of the brows, about 1."""
    blush: float
    stubble: float
    """Strength of a beard's shade, 0 to 1."""
    mottle: Waves


@dataclass(frozen=True)
class HairColor:
    root: Color
    tip: Color
    strands: Waves


@dataclass(frozen=True)
class ShoeColor:
    upper: Color
    sole: Color
    detail: Color
    sole_height: float
    """Height above the ground up to which the sole's colour goes, in metres."""
    laces: bool


def _ellipse(x, y, center_x, center_y, half_width, half_height) -> Tensor:
    """Signed distance from an ellipse in units of its half height, positive inside."""
    return 1 - (((x - center_x) / half_width).square() + ((y - center_y) / half_height).square()).sqrt()


def skin_color(skin: Skin, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Skin with its unevenness; eyes, brows, lips and a beard's shade on the face."""
    color = paint.new_tensor(skin.tone) * (1 + 0.035 * skin.mottle(paint))[:, None]
    x, y, z = paint.unbind(-1)
    on_face = torch.nonzero((z > 0.09) & (y > 0.28) & (y < 0.5) & (x.abs() < 0.09))[:, 0]
    if len(on_face):
        color[on_face] = _face_color(skin, color[on_face], *paint[on_face].unbind(-1))
    return color.clamp(0, 1)


def _face_color(skin: Skin, color: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    tone = color.new_tensor(skin.tone)
    side = x.abs()
    rosy = tone * tone.new_tensor([1.12, 0.8, 0.8])
    cheek = torch.exp(-(((side - 0.042) / 0.02).square() + ((y - 0.385) / 0.018).square()))
    nose = torch.exp(-((side / 0.014).square() + ((y - 0.382) / 0.014).square()))
    color = mix(color, rosy, skin.blush * (0.8 * cheek + 0.6 * nose))
    jaw = step(0.362 - y + 0.5 * (side - 0.02).clamp(min=0), 0.03) * step(0.15 - side - 0.2 * (y - 0.3), 0.05)
    upper_lip = torch.exp(-((side / 0.022).square() + ((y - 0.364) / 0.006).square()))
    color = mix(color, color.new_tensor(skin.brow), skin.stubble * (0.75 * jaw + 0.5 * upper_lip).clamp(0, 1))

    # Shade in the sockets and beside the nose gives the face depth in flat light.
    socket = torch.exp(-(((side - EYE[0]) / 0.017).square() + ((y - EYE[1] - 0.004) / 0.009).square()))
    color = color * (1 - 0.22 * socket)[:, None]

    bow = 0.0022 * (1 - (side / 0.006 - 1).square().clamp(max=1))
    height = 0.0078 + bow
    mouth = 1 - ((side / 0.0225).square() + ((y - MOUTH_HEIGHT) / height).square()).sqrt()
    color = mix(color, color.new_tensor(skin.lips), 0.85 * step(mouth, 0.12))
    line = step(0.0011 - (y - MOUTH_HEIGHT - 0.0008).abs(), 0.001) * step(0.0215 - side, 0.002)
    color = mix(color, color.new_tensor(skin.lips) * 0.25, 0.8 * line)
    nostril = torch.exp(-(((side - 0.0085) / 0.0035).square() + ((y - 0.3735) / 0.0022).square()))
    color = color * (1 - 0.7 * nostril)[:, None]

    arch = BROW_HEIGHT + 0.003 * (1 - ((side - 0.034) / 0.018).square())
    brow = step(0.0024 * skin.brow_weight * (1.25 - (side - 0.013) / 0.045) - (y - arch).abs(), 0.0012)
    brow = brow * step(side - 0.012, 0.003) * step(0.052 - side, 0.006)
    color = mix(color, color.new_tensor(skin.brow), 0.85 * brow)

    lid = _ellipse(side, y, EYE[0], EYE[1], 0.0155, 0.0062)
    color = mix(color, color.new_tensor(skin.brow) * 0.5, 0.9 * step(lid + 0.12, 0.1) * (y > EYE[1]))
    color = mix(color, color * 0.7, step(lid + 0.1, 0.1) * (y <= EYE[1]))
    opening = step(lid, 0.1)
    ball = color.new_tensor([0.72, 0.70, 0.68]).expand_as(color) * (1 - 0.35 * step(y - EYE[1] - 0.003, 0.004))[:, None]
    distance = ((side - EYE[0]).square() + (y - EYE[1]).square()).sqrt()
    ball = mix(ball, color.new_tensor(skin.iris), step(0.0058 - distance, 0.0008))
    ball = mix(ball, color.new_tensor([0.01, 0.01, 0.01]), step(0.0026 - distance, 0.0008))
    glint = ((x - EYE[0] * torch.sign(x) + 0.0018).square() + (y - EYE[1] - 0.002).square()).sqrt()
    ball = mix(ball, color.new_tensor([1.0, 1.0, 1.0]), 0.9 * step(0.0011 - glint, 0.0006))
    return mix(color, ball, opening)


def hair_color(hair: HairColor, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Strands from crown to tip."""
    share = ((0.5 - paint[:, 1]) / 0.25).clamp(0, 1)
    color = mix(paint.new_tensor(hair.root).expand_as(paint), paint.new_tensor(hair.tip), share)
    return (color * (1 + 0.16 * hair.strands(paint))[:, None]).clamp(0, 1)


def shoe_color(shoes: ShoeColor, paint: Float[Tensor, "N 3"], ground: float) -> Float[Tensor, "N 3"]:
    """Sole, upper, toe cap and laces."""
    x, y, z = paint.unbind(-1)
    color = paint.new_tensor(shoes.upper).expand_as(paint)
    middle = x.abs() - 0.142
    if shoes.laces:
        on_top = (middle.abs() < 0.018) & (z > 0.09) & (z < 0.18) & (y - ground > 0.035)
        stripes = ((z / 0.014) - (z / 0.014).round()).abs() < 0.22
        color = torch.where((on_top & stripes)[:, None], paint.new_tensor(shoes.detail), color)
    else:
        side = (z > 0.04) & (z < 0.12) & ((y - ground - 0.045 - 0.3 * (z - 0.08)).abs() < 0.006)
        color = torch.where(side[:, None], paint.new_tensor(shoes.detail), color)
    return mix(color, paint.new_tensor(shoes.sole), step(shoes.sole_height - (y - ground), 0.001))
