"""Fabrics and prints by split.

All splits share plain fabrics. Figured fabrics, texts and shapes of the split `test` occur in no other split, so that
test clothes are unseen in training.
"""

from dataclasses import dataclass

import numpy as np

from scripts.synthetic.fabrics import Fabric
from scripts.synthetic.palette import DISPLAY_GAMMA, cloth_color_sample, cloth_colors, linear
from scripts.synthetic.patterns import LEG_ROUND, TRUNK_ROUND, Pattern
from scripts.synthetic.prints import Print
from scripts.synthetic.waves import sample_waves


@dataclass(frozen=True)
class Wardrobe:
    """Figured fabrics with their probabilities, and texts and shapes of prints."""

    kinds: dict[str, float]
    words: tuple[str, ...]
    shapes: tuple[str, ...]


EVERYDAY = Wardrobe(
    kinds={
        **{"stripes": 0.3, "checks": 0.15, "dots": 0.1, "camouflage": 0.09, "blocks": 0.09, "halves": 0.05},
        **{"zigzag": 0.06, "flowers": 0.08, "splashes": 0.08},
    },
    words=(
        *("HGG", "A1", "42", "GO", "XL", "7", "R2", "NO", "LAB", "9K", "OK", "UP", "88", "SKY", "M", "ZOO", "Q", "B6"),
        *("13", "TEAM", "CITY", "23", "5", "WOW", "1999"),
    ),
    shapes=("disc", "ring", "star", "heart", "band", "chevron", "sun", "mountains"),
)
UNSEEN = Wardrobe(
    kinds={
        **{"ripples": 0.15, "argyle": 0.14, "bricks": 0.1, "leopard": 0.12, "triangles": 0.13, "marble": 0.1},
        **{"tartan": 0.15, "confetti": 0.11},
    },
    words=("FIN", "31", "JAZZ", "V8", "64", "HEY", "PUNK", "DUO", "X", "96", "KIWI", "4U"),
    shapes=("bolt", "moon", "cross", "drop", "arrow", "diamond", "windows", "paw"),
)


def wardrobe_of(split: str) -> Wardrobe:
    """The wardrobe of a split."""
    return UNSEEN if split == "test" else EVERYDAY


def sample_fabric(rng: np.random.Generator, wardrobe: Wardrobe, layout: str) -> Fabric:
    """Draw a fabric: mostly plain for trousers, mostly figured for tops."""
    plain = {
        "top": {"plain": 0.28, "melange": 0.1, "gradient": 0.04},
        "legs": {"plain": 0.42, "melange": 0.16, "denim": 0.24},
        "skirt": {"plain": 0.3, "melange": 0.06, "gradient": 0.08, "denim": 0.06},
    }[layout]
    rest = 1 - sum(plain.values())
    figured = {name: rest * share for name, share in wardrobe.kinds.items()}
    kinds = plain | figured
    kind = str(rng.choice(list(kinds), p=np.array(list(kinds.values())) / sum(kinds.values())))
    colors = cloth_colors(rng)
    if kind == "denim":
        blue = np.array([0.16, 0.22, 0.36]) * rng.uniform(0.5, 1.7) if rng.random() < 0.75 else np.full(3, 0.14)
        colors = (blue, np.clip(1.5 * blue + 0.15, 0, 0.9), colors[2])
    if kind == "melange":
        # Similar colours; otherwise it would look like camouflage.
        colors = (colors[0], 0.65 * colors[0] + 0.35 * colors[1], colors[2])
    size = {"camouflage": 0.09, "melange": 0.02, "denim": 0.02, "splashes": 0.07, "leopard": 0.05, "marble": 0.12}
    around = LEG_ROUND if layout == "legs" else TRUNK_ROUND
    low, high = {"dots": (0.035, 0.08), "flowers": (0.06, 0.11), "stripes": (0.02, 0.11)}.get(kind, (0.04, 0.11))
    # An even number of periods per circumference, so that the pattern has no seam at the back.
    period = around / (2 * round(around / rng.uniform(low, high) / 2))
    border = kind in ("blocks", "gradient")
    return Fabric(
        kind=kind,
        colors=tuple(linear(color) for color in colors),
        period=0.1 if border else float(period),
        duty=float(rng.uniform(-1, 1) if border else rng.uniform(0.25, 0.6)),
        angle=float(rng.choice([0, 90, 45, -30], p=[0.6, 0.2, 0.1, 0.1])) if kind == "stripes" else 0.0,
        waves=sample_waves(rng, size[kind]) if kind in size else None,
    )


def sample_pattern(
    rng: np.random.Generator, split: str, layout: str, edges: dict[str, float], style: str = ""
) -> Pattern:
    """Draw the look of a garment.

    Args:
        rng: Source of all draws.
        split: Split of the person, which selects the wardrobe.
        layout: `top`, `legs` or `skirt`.
        edges: See `Pattern.edges`.
        style: Style of a top: `t-shirt`, `shirt`, `jumper`, `hoodie`, `jacket` or `coat`.
    """
    wardrobe = wardrobe_of(split)
    is_top = layout == "top"
    fabric = sample_fabric(rng, wardrobe, layout)
    prints = ()
    if is_top and style in ("t-shirt", "jumper", "hoodie") and rng.random() < 0.6:
        prints = _sample_prints(rng, wardrobe, fabric)
    elif style in ("jacket", "coat", "shirt") and rng.random() < 0.3:
        prints = _sample_prints(rng, wardrobe, fabric, front=False)
    elif layout == "legs" and rng.random() < 0.1:
        prints = (_print(rng, wardrobe, fabric, (float(rng.choice([-0.12, 0.12])), -0.5), (0.06, 0.1), back=False),)
    chance = rng.random
    closures = {"shirt": ("buttons", "buttons"), "jacket": ("zip", "buttons"), "coat": ("buttons", "zip")}
    pockets = {"hoodie": ("kangaroo",), "shirt": ("chest", "", "flaps"), "jacket": ("flaps", "", "chest")}
    pockets |= {"coat": ("flaps",)}
    return Pattern(
        fabric=fabric,
        folds=sample_waves(rng, 0.1, (1.0, 1.8, 1.0), 8),
        wrinkles=sample_waves(rng, 0.05, (2.5, 0.9, 2.5), 8),
        grain=sample_waves(rng, 0.03, count=6),
        layout=layout,
        edges=edges,
        sleeves=sample_fabric(rng, wardrobe, "top") if is_top and chance() < 0.14 else None,
        back=_other_back(rng, wardrobe, fabric) if is_top and chance() < 0.2 else None,
        yoke=linear(cloth_color_sample(rng)) if is_top and chance() < 0.1 else None,
        side_stripe=linear(cloth_color_sample(rng)) if layout != "skirt" and chance() < 0.12 else None,
        trim=linear(cloth_color_sample(rng)) if is_top and chance() < 0.25 else None,
        belt=linear(_leather(rng)) if layout == "legs" and chance() < 0.5 else None,
        ribbed=style in ("jumper", "hoodie", "jacket"),
        closure=str(rng.choice(closures[style])) if style in closures else "",
        pockets=str(rng.choice(pockets.get(style, ("jeans" if layout == "legs" else "",)))),
        prints=prints,
    )


def _other_back(rng: np.random.Generator, wardrobe: Wardrobe, front: Fabric) -> Fabric:
    """Draw the back of a top: another fabric, or plain cloth in a colour of the front."""
    if rng.random() < 0.5:
        return sample_fabric(rng, wardrobe, "top")
    return Fabric("plain", (front.colors[1], front.colors[2], front.colors[0]))


def _leather(rng: np.random.Generator) -> np.ndarray:
    return np.array([(0.1, 0.09, 0.09), (0.32, 0.2, 0.12), (0.5, 0.34, 0.2), (0.85, 0.83, 0.8)][rng.integers(4)])


def _sample_prints(
    rng: np.random.Generator, wardrobe: Wardrobe, fabric: Fabric, front: bool = True
) -> tuple[Print, ...]:
    """Draw a large print or a small logo in front, and another print, often larger, on the back."""
    prints = []
    if front and rng.random() < 0.25:
        prints.append(_print(rng, wardrobe, fabric, (0.075, 0.1), (0.04, 0.06), back=False))
    elif front:
        center = (float(rng.uniform(-0.02, 0.02)), float(rng.uniform(0.05, 0.11)))
        prints.append(_print(rng, wardrobe, fabric, center, (0.1, 0.22), back=False))
        if rng.random() < 0.25:
            prints.append(_print(rng, wardrobe, fabric, (0.0, center[1] - 0.13), (0.08, 0.2), back=False))
    if rng.random() < (0.5 if front else 1.0):
        prints.append(_print(rng, wardrobe, fabric, (0.0, float(rng.uniform(0.04, 0.1))), (0.14, 0.26), back=True))
    return tuple(prints)


def _print(
    rng: np.random.Generator,
    wardrobe: Wardrobe,
    fabric: Fabric,
    center: tuple[float, float],
    widths: tuple[float, float],
    back: bool,
) -> Print:
    """Draw a print in a colour that contrasts with the fabric's first."""
    text = str(rng.choice(wardrobe.words)) if rng.random() < 0.55 else f"<{rng.choice(wardrobe.shapes)}>"
    ground = np.asarray(fabric.colors[0]) ** (1 / DISPLAY_GAMMA)
    while np.abs((color := cloth_color_sample(rng)) - ground).sum() < 0.7:
        pass
    return Print(text, linear(color), center, float(rng.uniform(*widths)), back)
