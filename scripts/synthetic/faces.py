"""Colours of faces at points of the mean body: brows, eyes, mouth, beards and make-up (linear RGB)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.fabrics import Color, mix, step
from scripts.synthetic.waves import Waves, constant

# Positions of facial features on the stand-in body's mean shape, in metres; x of the left half.
EYE = (0.0305, 0.4186)
MOUTH_HEIGHT = 0.3495
BROW_HEIGHT = 0.4335
CHIN_HEIGHT = 0.318


@dataclass(frozen=True)
class Face:
    """Parameters of a face; sizes are factors on the average."""

    lips: Color
    iris: Color
    brow: Color
    brow_weight: float
    brow_lift: float
    """Upward shift of the brows in metres."""
    eye_size: float
    mouth_width: float
    lip_fullness: float
    blush: float
    beard: str
    """`none`, `stubble`, `moustache`, `goatee`, `full`."""
    beard_weight: float
    """Opacity of the beard, 0 to 1."""
    lids: Color
    make_up: float
    """Strength of eye shadow and lashes, 0 to 1."""
    freckles: float
    spots: Waves
    """Noise that places freckles and the hairs of a beard."""


def face_color(
    face: Face, tone: Float[Tensor, " 3"], color: Float[Tensor, "N 3"], points: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Paint a face over `color`, the colour of the skin, whose mean is `tone`."""
    x, y, z = points.unbind(-1)
    side = x.abs()
    spots = face.spots(points)
    color = _complexion(face, tone, color, side, y, spots)
    color = _beard(face, color, side, y, z, spots)
    color = _mouth(face, color, side, y)
    color = _brows(face, color, side, y)
    return _eyes(face, color, x, y)


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-(a.square() + b.square()))


def _complexion(face: Face, tone: Tensor, color: Tensor, side: Tensor, y: Tensor, spots: Tensor) -> Tensor:
    """Redden cheeks and nose, add freckles, and darken hollows."""
    rosy = tone * constant((1.12, 0.8, 0.8), tone)
    cheek = _gaussian((side - 0.042) / 0.02, (y - 0.385) / 0.018)
    nose = _gaussian(side / 0.014, (y - 0.382) / 0.014)
    color = mix(color, rosy, face.blush * (0.8 * cheek + 0.6 * nose))
    freckled = face.freckles * step(spots - 0.9, 0.3) * (cheek + 0.8 * _gaussian(side / 0.02, (y - 0.395) / 0.014))
    color = color * (1 - 0.4 * freckled)[:, None]
    # Without painted shade in the hollows, a face has no depth in flat light.
    socket = _gaussian((side - EYE[0]) / 0.017, (y - EYE[1] - 0.004) / 0.009)
    beside_nose = _gaussian((side - 0.0155) / 0.004, (y - 0.388) / 0.018)
    fold = _gaussian((side - 0.024 - 0.5 * (0.37 - y)) / 0.003, (y - 0.366) / 0.012)
    under_lip = _gaussian(side / 0.02, (y - MOUTH_HEIGHT + 0.0145) / 0.004)
    color = color * (1 - 0.22 * socket - 0.14 * beside_nose - 0.12 * fold - 0.14 * under_lip)[:, None]
    nostril = _gaussian((side - 0.0085) / 0.0035, (y - 0.3735) / 0.0022)
    return color * (1 - 0.7 * nostril)[:, None]


def _beard(face: Face, color: Tensor, side: Tensor, y: Tensor, z: Tensor, spots: Tensor) -> Tensor:
    if face.beard == "none":
        return color
    lip = _gaussian(side / 0.026, (y - 0.3635) / 0.0065)
    if face.beard == "moustache":
        where = 1.3 * lip
    elif face.beard == "goatee":
        chin = torch.exp(-((side / 0.026) ** 4 + ((y - CHIN_HEIGHT) / 0.024) ** 4))
        where = torch.maximum(1.2 * lip, 1.3 * chin)
    else:
        soft = 0.03 if face.beard == "stubble" else 0.012
        jaw = step(0.358 - y + 0.62 * (side - 0.022).clamp(min=0), soft)
        # The beard ends on the upper neck and in front of the ear.
        jaw = jaw * step(y - 0.296 - 0.15 * (0.13 - z).clamp(min=0), 2 * soft) * step(z - 0.098, 0.012)
        where = torch.maximum(jaw, 0.9 * lip)
    hairs = 0.92 + 0.08 * torch.tanh(spots)
    return mix(color, constant(face.brow, color), face.beard_weight * (where * hairs).clamp(0, 1))


def _mouth(face: Face, color: Tensor, side: Tensor, y: Tensor) -> Tensor:
    half_width = 0.0225 * face.mouth_width
    bow = 0.0022 * (1 - (side / 0.006 - 1).square().clamp(max=1)) * (y > MOUTH_HEIGHT)
    height = (0.0078 + bow) * face.lip_fullness
    mouth = 1 - ((side / half_width).square() + ((y - MOUTH_HEIGHT) / height).square()).sqrt()
    lips = constant(face.lips, color)
    color = mix(color, lips, 0.85 * step(mouth, 0.12))
    shine = _gaussian(side / 0.009, (y - MOUTH_HEIGHT + 0.0035) / 0.0018)
    color = mix(color, (1.5 * lips + 0.06).clamp(max=1), 0.4 * shine)
    line = step(0.0011 - (y - MOUTH_HEIGHT - 0.0008).abs(), 0.001) * step(half_width - 0.001 - side, 0.002)
    return mix(color, lips * 0.25, 0.8 * line)


def _brows(face: Face, color: Tensor, side: Tensor, y: Tensor) -> Tensor:
    arch = BROW_HEIGHT + face.brow_lift + 0.0024 * (1 - ((side - 0.032) / 0.019).square())
    brow = step(0.0024 * face.brow_weight * (1.25 - (side - 0.013) / 0.045) - (y - arch).abs(), 0.0012)
    brow = brow * step(side - 0.012, 0.003) * step(0.052 - side, 0.006)
    return mix(color, constant(face.brow, color), 0.85 * brow)


def _eyes(face: Face, color: Tensor, x: Tensor, y: Tensor) -> Tensor:
    side, up = x.abs() - EYE[0], y - EYE[1]
    lid = 1 - ((side / 0.0155).square() + (up / (0.0062 * face.eye_size)).square()).sqrt()
    upper = up > 0
    shadow = _gaussian(side / 0.017, (up - 0.007) / 0.005) * upper
    color = mix(color, constant(face.lids, color), 0.8 * face.make_up * shadow)
    lashes = (0.9 * step(lid + 0.12 + 0.12 * face.make_up, 0.1)) * upper
    color = mix(color, constant(face.brow, color) * 0.5, lashes)
    color = mix(color, color * (0.7 - 0.3 * face.make_up), step(lid + 0.1, 0.1) * ~upper)
    white = constant((0.56, 0.54, 0.52), color).expand_as(color)
    ball = white * (1 - 0.35 * step(up - 0.003, 0.004))[:, None]
    distance = (side.square() + up.square()).sqrt()
    iris = constant(face.iris, color) * (1 - 0.45 * step(distance - 0.0046, 0.0012))[:, None]
    ball = mix(ball, iris, step(0.006 - distance, 0.0008))
    ball = mix(ball, constant((0.01, 0.01, 0.01), color), step(0.0027 - distance, 0.0008))
    glint = ((x - EYE[0] * torch.sign(x) + 0.0018).square() + (up - 0.002).square()).sqrt()
    ball = mix(ball, constant((1.0, 1.0, 1.0), color), 0.9 * step(0.0011 - glint, 0.0006))
    return mix(color, ball, step(lid, 0.1))
