"""Colour of every layer of a person."""

import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.accessories import Hat
from scripts.synthetic.fabrics import fabric_color
from scripts.synthetic.patterns import cloth_color
from scripts.synthetic.people import Person
from scripts.synthetic.skin import hair_color, shoe_color, skin_color, sock_color
from scripts.synthetic.waves import constant

MATERIALS = ("skin", "bottom", "top", "jacket", "shoes", "socks", "hair", "hat", "glasses")
"""Values of `Surface.material`."""


def material_color(person: Person, material: str, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Linear colour of a layer at points of the mean body."""
    outfit = person.outfit
    match material:
        case "skin":
            return skin_color(person.skin, paint)
        case "top":
            return cloth_color(outfit.top_pattern, paint)
        case "jacket":
            return cloth_color(outfit.jacket_pattern, paint)
        case "bottom":
            return cloth_color(outfit.bottom_pattern, paint)
        case "hair":
            return hair_color(person.hair_color, paint)
        case "socks":
            return sock_color(outfit.shoe_color, paint)
        case "hat":
            return _hat_color(outfit.hat, paint)
        case "glasses":
            return constant(outfit.glasses.frame, paint).expand_as(paint)
        case "shoes":
            return shoe_color(outfit.shoe_color, paint)
    raise ValueError(f"material must be one of {', '.join(MATERIALS)}, got {material!r}")


def _hat_color(hat: Hat, paint: Tensor) -> Tensor:
    x, y, z = paint.unbind(-1)
    crown = fabric_color(hat.fabric, paint, y, 0.09 * torch.atan2(x, z - 0.085))
    # Paint coordinates of the brim are far below the crown's (`accessories._brim`).
    return torch.where((y < hat.line + hat.cuff)[:, None], constant(hat.brim, paint), crown)
