"""Random outfits: garments, their cuts and their looks."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from scripts.synthetic.accessories import Glasses, Hat
from scripts.synthetic.footwear import Shoes
from scripts.synthetic.garments import Skirt, Top, Trousers
from scripts.synthetic.palette import cloth_color_sample, linear, shoe_colors
from scripts.synthetic.patterns import Pattern
from scripts.synthetic.skin import ShoeColor
from scripts.synthetic.wardrobe import sample_fabric, sample_pattern, wardrobe_of


@dataclass(frozen=True)
class Outfit:
    """Garments with their cuts and looks; exactly one of `trousers` and `skirt` is not None."""

    top: Top
    top_pattern: Pattern
    jacket: Top | None
    jacket_pattern: Pattern | None
    trousers: Trousers | None
    skirt: Skirt | None
    bottom_pattern: Pattern
    shoes: Shoes
    shoe_color: ShoeColor
    hat: Hat | None
    glasses: Glasses | None


def sample_outfit(cuts: np.random.Generator, colors: np.random.Generator, split: str) -> Outfit:
    """Draw an outfit: cuts from one stream, looks from the other, from the fabrics and prints of the split."""
    top, trousers, skirt, is_dress = _sample_garments(cuts)
    jacket = None if top.collar == "hood" or cuts.random() > 0.3 else _sample_jacket(cuts, top)
    if jacket is not None and skirt is not None:
        # Over a flared skirt, a longer jacket would intersect it.
        jacket = dataclasses.replace(jacket, hem=skirt.waist - 0.02)
    top_pattern = sample_pattern(colors, split, "top", _edges(top), top.style)
    if is_dress:
        plain = {"prints": (), "closure": "", "pockets": "", "trim": None, "yoke": None, "ribbed": False}
        bottom_pattern = dataclasses.replace(top_pattern, layout="skirt", edges={"hem": skirt.length}, **plain)
    elif skirt is not None:
        bottom_pattern = sample_pattern(colors, split, "skirt", {"hem": skirt.length})
    else:
        edges = {"hem": trousers.length, "waist": trousers.waist}
        bottom_pattern = sample_pattern(colors, split, "legs", edges)
    if top.v_depth > 0 or top.collar:
        # Trims follow round necklines only, and a V-neck would cut through a print.
        edges = {name: edge for name, edge in top_pattern.edges.items() if name != "neck"}
        prints = top_pattern.prints if top.collar else tuple(p for p in top_pattern.prints if p.back)
        top_pattern = dataclasses.replace(top_pattern, edges=edges, prints=prints)
    jacket_pattern = None
    if jacket is not None:
        edges = {"hem": jacket.hem, "sleeve": jacket.sleeve}
        jacket_pattern = sample_pattern(colors, split, "top", edges, jacket.style)
        if jacket.opening > 0:
            jacket_pattern = dataclasses.replace(jacket_pattern, closure="")
    shoes = _sample_shoes(cuts, bare_legs=trousers is None or trousers.length > -0.9)
    return Outfit(
        top=top,
        top_pattern=top_pattern,
        jacket=jacket,
        jacket_pattern=jacket_pattern,
        trousers=trousers,
        skirt=skirt,
        bottom_pattern=bottom_pattern,
        shoes=shoes,
        shoe_color=_sample_shoe_color(colors, shoes),
        hat=_sample_hat(cuts, colors, split) if cuts.random() < 0.12 else None,
        glasses=_sample_glasses(cuts, colors) if cuts.random() < 0.16 else None,
    )


def _edges(top: Top) -> dict[str, float]:
    edges = {"hem": top.hem, "neck": top.neck}
    return edges | {"sleeve": top.sleeve} if top.sleeve > 0.2 else edges


def _sample_garments(rng: np.random.Generator) -> tuple[Top, Trousers | None, Skirt | None, bool]:
    """Draw a top, and trousers or a skirt; the last value is True if top and skirt are one dress."""
    kind = str(rng.choice(["trousers", "shorts", "skirt", "dress"], p=[0.54, 0.18, 0.13, 0.15]))
    top = _sample_top(rng, kind)
    waist = float(rng.uniform(-0.1, -0.04))
    if kind in ("skirt", "dress"):
        return top, None, _sample_skirt(rng, waist), kind == "dress"
    return top, _sample_trousers(rng, waist, kind == "shorts"), None, False


def _sample_top(rng: np.random.Generator, kind: str) -> Top:
    """Draw a top for a lower garment: `trousers`, `shorts`, `skirt` or `dress`."""
    tucked = kind in ("skirt", "dress") or rng.random() < 0.2
    styles = ["t-shirt", "shirt", "jumper", "hoodie"]
    shares = {"dress": [0.85, 0.15, 0.0, 0.0], "skirt": [0.5, 0.25, 0.25, 0.0]}.get(kind, [0.44, 0.22, 0.16, 0.18])
    style = str(rng.choice(styles, p=shares))
    short, half, long = float(rng.uniform(0.27, 0.36)), 0.44, float(rng.uniform(0.62, 0.66))
    neck, v_depth, collar = 0.284, 0.0, ""
    if style == "shirt":
        sleeve, loft = float(rng.choice([short, long], p=[0.4, 0.6])), float(rng.uniform(0.008, 0.024))
        neck, collar, v_depth = 0.3, "shirt", float(rng.choice([0.0, 0.05, 0.09], p=[0.4, 0.35, 0.25]))
    elif style == "hoodie":
        sleeve, loft, collar = long, float(rng.uniform(0.018, 0.034)), "hood"
        tucked = False
    elif style == "jumper":
        sleeve, loft = long, float(rng.uniform(0.01, 0.03))
        neck = float(rng.choice([0.284, 0.325], p=[0.6, 0.4]))
    else:
        sleeve = float(rng.choice([0.15, short, half, long], p=[0.17, 0.55, 0.1, 0.18]))
        loft = float(rng.choice([0.007, 0.016, 0.03], p=[0.35, 0.4, 0.25]))
        neck = float(rng.choice([0.284, 0.262], p=[0.7, 0.3]))
        v_depth = float(rng.uniform(0.05, 0.13)) if rng.random() < 0.25 else 0.0
    loft = min(loft, 0.014) if tucked else loft
    hem = -0.14 if tucked else float(rng.uniform(-0.3, -0.14))
    return Top(hem, sleeve, neck, v_depth, 0.0, loft, bool(tucked), style, collar)


def _sample_skirt(rng: np.random.Generator, waist: float) -> Skirt:
    length = float(rng.choice([rng.uniform(-0.6, -0.46), rng.uniform(-0.8, -0.6), rng.uniform(-1.02, -0.8)]))
    flare = float(rng.choice([rng.uniform(0.0, 0.05), rng.uniform(0.1, 0.35)], p=[0.3, 0.7]))
    # Limits how far the hem stands out.
    flare = min(flare, 0.15 / (waist - length))
    pleats, depth = int(rng.integers(6, 20)), float(rng.uniform(0.0, 0.02))
    return Skirt(waist, length, flare, pleats, depth)


def _sample_trousers(rng: np.random.Generator, waist: float, short: bool) -> Trousers:
    if short:
        length, loft = float(rng.uniform(-0.66, -0.44)), float(rng.uniform(0.008, 0.034))
        return Trousers(waist, length, loft, float(rng.uniform(0, 0.025)))
    length = float(rng.choice([-1.06, rng.uniform(-1.06, -0.86)], p=[0.7, 0.3]))
    loft = float(rng.choice([0.005, 0.013, 0.024, 0.036], p=[0.25, 0.35, 0.25, 0.15]))
    flare = float(rng.choice([0.0, 0.02, 0.045, 0.06], p=[0.5, 0.3, 0.12, 0.08]))
    return Trousers(waist, length, loft, flare)


def _sample_jacket(rng: np.random.Generator, top: Top) -> Top:
    """Draw a jacket or a coat over a top, open or closed."""
    style = str(rng.choice(["jacket", "coat"], p=[0.65, 0.35]))
    collar = str(rng.choice(["", "shirt", "hood"], p=[0.3, 0.4, 0.3])) if top.collar == "" else ""
    is_open = collar != "hood" and rng.random() < 0.5
    return Top(
        hem=float(rng.uniform(-0.34, -0.26) if style == "coat" else rng.uniform(-0.26, -0.12)),
        sleeve=float(max(rng.choice([0.15, 0.63], p=[0.12, 0.88]), top.sleeve)),
        neck=0.29 if is_open else 0.3,
        v_depth=0.0 if is_open else float(rng.choice([0.0, 0.1])),
        opening=float(rng.uniform(0.02, 0.07)) if is_open else 0.0,
        loft=float(rng.uniform(0.012, 0.03)),
        style=style,
        collar=collar if not is_open else "",
    )


def _sample_shoes(rng: np.random.Generator, bare_legs: bool) -> Shoes:
    kind = str(rng.choice(["shoes", "boots", "sandals"], p=[0.66, 0.18, 0.16]))
    sole = float(rng.uniform(0.012, 0.026))
    if kind == "sandals":
        return Shoes(kind, -1.07, sole)
    if kind == "boots":
        return Shoes(kind, float(rng.uniform(-0.98, -0.72) if bare_legs else rng.uniform(-1.0, -0.94)), sole)
    top = float(rng.choice([-1.09, -1.075, -1.05], p=[0.35, 0.45, 0.2]))
    socks = float(rng.choice([-1.03, -0.97, -0.76], p=[0.5, 0.3, 0.2])) if bare_legs else -1.0
    return Shoes(kind, top, sole, socks if rng.random() < 0.7 else None)


def _sample_shoe_color(rng: np.random.Generator, shoes: Shoes) -> ShoeColor:
    upper, sole, detail = shoe_colors(rng)
    style = str(rng.choice(["laces", "stripe", "cap", "plain"], p=[0.4, 0.2, 0.2, 0.2]))
    style = "plain" if shoes.kind == "sandals" else style
    ground = np.full(3, rng.choice([0.92, 0.1, 0.5])) if rng.random() < 0.6 else cloth_color_sample(rng)
    rings = cloth_color_sample(rng) if rng.random() < 0.4 else ground
    return ShoeColor(upper, sole, detail, float(rng.uniform(0.012, 0.028)), style, (linear(ground), linear(rings)))


def _sample_hat(cuts: np.random.Generator, colors: np.random.Generator, split: str) -> Hat:
    style = str(cuts.choice(["beanie", "cap"]))
    fabric = sample_fabric(colors, wardrobe_of(split), "legs")
    brim = fabric.colors[0] if colors.random() < 0.5 else linear(cloth_color_sample(colors))
    cuff = 0.022 if style == "beanie" else 0.0
    return Hat(style, float(cuts.uniform(0.462, 0.474)), fabric, brim, cuff)


def _sample_glasses(cuts: np.random.Generator, colors: np.random.Generator) -> Glasses:
    dark = bool(cuts.random() < 0.3)
    frame = linear([(0.05, 0.05, 0.05), (0.25, 0.14, 0.08), (0.55, 0.5, 0.42), (0.5, 0.1, 0.12)][colors.integers(4)])
    return Glasses(float(cuts.uniform(0.022, 0.026)), float(cuts.uniform(0.015, 0.021)), frame, dark)
