"""What every layer of a person is coloured with."""

from jaxtyping import Float
from torch import Tensor

from core.data.synthetic.patterns import cloth_color
from core.data.synthetic.people import Person
from core.data.synthetic.skin import hair_color, shoe_color, skin_color

MATERIALS = ("skin", "bottom", "top", "jacket", "shoes", "hair")
"""Names of the layers' materials (`Surface.material`)."""
_GROUND = -1.166
"""Height of the sole on the mean body."""


def material_color(person: Person, material: str, paint: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Linear colour of a person's layer at points of the mean body."""
    if material == "skin":
        return skin_color(person.skin, paint)
    if material == "top":
        return cloth_color(person.top_pattern, paint)
    if material == "jacket":
        return cloth_color(person.jacket_pattern, paint)
    if material == "bottom":
        return cloth_color(person.bottom_pattern, paint)
    if material == "hair":
        return hair_color(person.hair_color, paint)
    return shoe_color(person.shoe_color, paint, _GROUND)
