"""Who a person is: shape, skin, hair, clothes and light, drawn from a seed; and the meshes that follow from it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import numpy as np

from core.data.synthetic import garments
from core.data.synthetic.garments import Shoes, Skirt, Top, Trousers
from core.data.synthetic.hair import Hair, hair_covers, make_hair
from core.data.synthetic.motion import Motion, sample_motion
from core.data.synthetic.palette import (
    hair_colors,
    iris_color,
    linear,
    sample_pattern,
    shoe_colors,
    skin_tone,
)
from core.data.synthetic.patterns import Pattern
from core.data.synthetic.seeding import random_stream
from core.data.synthetic.skin import HairColor, ShoeColor, Skin
from core.data.synthetic.surfaces import RestBody, Surface
from core.data.synthetic.waves import sample_waves
from smpl_renderer.body_model import BodyModel

MIN_HEIGHT, MAX_HEIGHT = 1.5, 1.75


@dataclass(frozen=True)
class Light:
    """A soft studio: light from all around, more of it from one direction, bounced by the floor."""

    azimuth: float
    """Radians: where the key light comes from, in the raw world."""
    elevation: float
    key: float
    """Share of the light that comes from around that direction."""
    warmth: float
    """Tint of the key light; positive is warm."""
    floor: float
    """Brightness of the light from below."""
    exposure: float
    background: tuple[float, float, float]


@dataclass(frozen=True)
class Person:
    """Everything that was drawn about a person; two equal ones give equal pictures."""

    index: int
    betas: tuple[float, ...]
    skin: Skin
    hair: Hair
    hair_color: HairColor
    top: Top
    top_pattern: Pattern
    jacket: Top | None
    jacket_pattern: Pattern
    trousers: Trousers | None
    skirt: Skirt | None
    bottom_pattern: Pattern
    shoes: Shoes
    shoe_color: ShoeColor
    light: Light
    motion: Motion

    def checksum(self) -> str:
        """Sixteen digits that change when any drawn number does."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def sample_person(body: BodyModel, seed: int, split: str, index: int) -> Person:
    """Draw a person; depends on nothing but the arguments."""
    outfit = random_stream(seed, split, index, "outfit")
    colors = random_stream(seed, split, index, "colors")
    top, trousers, skirt, is_dress = _sample_outfit(outfit)
    jacket = _sample_jacket(outfit, top) if outfit.random() < 0.16 else None
    if jacket is not None and skirt is not None:
        # It would have to lie on the flare.
        jacket = dataclasses.replace(jacket, hem=skirt.waist - 0.02)
    bottom_layout = "legs" if skirt is None else "skirt"
    top_pattern = sample_pattern(colors, "top", {"hem": top.hem, "sleeve": top.sleeve, "neck": top.neck})
    if is_dress:
        bottom_pattern = dataclasses.replace(top_pattern, layout="skirt", prints=(), placket=False, trim=None)
    else:
        bottom_pattern = sample_pattern(colors, bottom_layout, {})
    if top.v_depth > 0:
        # The trim follows a round neckline only, and a print would be cut.
        edges = {name: edge for name, edge in top_pattern.edges.items() if name != "neck"}
        top_pattern = dataclasses.replace(top_pattern, edges=edges, prints=())
    hair_root, hair_tip = hair_colors(colors)
    return Person(
        index=index,
        betas=_sample_betas(body, random_stream(seed, split, index, "shape")),
        skin=_sample_skin(random_stream(seed, split, index, "skin"), hair_root),
        hair=_sample_hair(random_stream(seed, split, index, "hair")),
        hair_color=HairColor(hair_root, hair_tip, sample_waves(colors, 0.009, (0.6, 5.0, 0.6), 16)),
        top=top,
        top_pattern=top_pattern,
        jacket=jacket,
        jacket_pattern=dataclasses.replace(sample_pattern(colors, "top", {}), prints=(), trim=None, placket=False),
        trousers=trousers,
        skirt=skirt,
        bottom_pattern=bottom_pattern,
        shoes=Shoes(top=float(outfit.choice([-1.085, -1.07, -0.98, -0.9], p=[0.4, 0.35, 0.15, 0.1])), sole=0.016),
        shoe_color=ShoeColor(*shoe_colors(colors), float(colors.uniform(0.012, 0.028)), bool(colors.random() < 0.6)),
        light=_sample_light(random_stream(seed, split, index, "light")),
        motion=sample_motion(random_stream(seed, split, index, "motion"), skirt is not None),
    )


def _sample_betas(body: BodyModel, rng: np.random.Generator) -> tuple[float, ...]:
    """A shape within two deviations whose height fits the rig's pictures."""
    template = body.v_template.double().cpu().numpy()
    shapes = body.shapedirs.double().cpu().numpy()
    while True:
        betas = np.clip(rng.normal(size=body.num_betas), -2, 2).round(4)
        if MIN_HEIGHT < np.ptp((template + shapes @ betas)[:, 1]) < MAX_HEIGHT:
            return tuple(betas.tolist())


def _sample_skin(rng: np.random.Generator, hair_root) -> Skin:
    tone = skin_tone(rng)
    lips = tuple((np.array(tone) * [0.92, 0.5, 0.52] * rng.uniform(0.85, 1.1)).tolist())
    if rng.random() < 0.2:
        lips = linear((rng.uniform(0.5, 0.75), rng.uniform(0.08, 0.25), rng.uniform(0.15, 0.3)))
    brow = tuple((0.6 * np.minimum(np.array(hair_root), 0.15)).tolist())
    return Skin(
        tone=tone,
        lips=lips,
        iris=iris_color(rng),
        brow=brow,
        brow_weight=float(rng.uniform(0.8, 1.6)),
        blush=float(rng.uniform(0.1, 0.5)),
        stubble=float(rng.uniform(0.2, 0.8)) if rng.random() < 0.22 else 0.0,
        mottle=sample_waves(rng, 0.04, count=8),
    )


def _sample_hair(rng: np.random.Generator) -> Hair:
    style = str(rng.choice(["short", "bob", "long", "bald"], p=[0.5, 0.22, 0.22, 0.06]))
    length = {"bob": rng.uniform(0.29, 0.36), "long": rng.uniform(0.1, 0.22)}.get(style, 0.33)
    volume = rng.uniform(0.006, 0.022) if style == "short" else rng.uniform(0.01, 0.02)
    return Hair(style, float(volume), float(length), float(rng.uniform(58, 74)), float(rng.uniform(-0.04, 0.04)))


def _sample_outfit(rng: np.random.Generator) -> tuple[Top, Trousers | None, Skirt | None, bool]:
    kind = rng.choice(["trousers", "shorts", "skirt", "dress"], p=[0.56, 0.17, 0.13, 0.14])
    sleeve = float(rng.choice([0.15, rng.uniform(0.27, 0.36), 0.44, 0.64], p=[0.12, 0.42, 0.1, 0.36]))
    loft = float(rng.choice([0.007, 0.016, 0.03], p=[0.35, 0.4, 0.25]))
    neck = float(rng.choice([0.284, 0.262, 0.325], p=[0.6, 0.25, 0.15]))
    v_depth = float(rng.uniform(0.05, 0.13)) if neck < 0.3 and rng.random() < 0.3 else 0.0
    tucked = kind in ("skirt", "dress") or rng.random() < 0.2
    hem = -0.14 if tucked else float(rng.uniform(-0.3, -0.14))
    top = Top(hem, sleeve, neck, v_depth, 0.0, loft if not tucked else min(loft, 0.014), bool(tucked))
    waist = float(rng.uniform(-0.1, -0.04))
    if kind in ("skirt", "dress"):
        length = float(rng.uniform(-0.85, -0.5))
        flare = float(rng.uniform(0.05, 0.35))
        pleats = int(rng.integers(6, 20))
        return top, None, Skirt(waist, length, flare, pleats, float(rng.uniform(0.0, 0.02))), kind == "dress"
    if kind == "shorts":
        length, cut_loft = float(rng.uniform(-0.64, -0.44)), float(rng.uniform(0.008, 0.03))
        return top, Trousers(waist, length, cut_loft, float(rng.uniform(0, 0.02))), None, False
    length = float(rng.choice([-1.06, rng.uniform(-1.06, -0.95)], p=[0.7, 0.3]))
    cut_loft = float(rng.choice([0.006, 0.013, 0.026], p=[0.35, 0.4, 0.25]))
    return (
        top,
        Trousers(waist, length, cut_loft, float(rng.choice([0.0, 0.02, 0.045], p=[0.5, 0.35, 0.15]))),
        None,
        False,
    )


def _sample_jacket(rng: np.random.Generator, top: Top) -> Top:
    """Worn open, over what is there already."""
    return Top(
        hem=float(rng.uniform(-0.34, -0.1)),
        sleeve=float(max(rng.choice([0.15, 0.62], p=[0.2, 0.8]), top.sleeve)),
        neck=0.29,
        v_depth=0.0,
        opening=float(rng.uniform(0.02, 0.07)),
        loft=float(rng.uniform(0.012, 0.028)),
    )


def _sample_light(rng: np.random.Generator) -> Light:
    background = (
        np.full(3, rng.uniform(0.3, 0.62))
        + rng.uniform(-0.04, 0.04, 3)
        + (rng.random() < 0.3) * np.array([-0.12, 0.06, -0.08])
    )
    return Light(
        azimuth=float(rng.uniform(-np.pi, np.pi)),
        elevation=float(np.deg2rad(rng.uniform(30, 65))),
        key=float(rng.uniform(0.25, 0.55)),
        warmth=float(rng.uniform(-0.06, 0.08)),
        floor=float(rng.uniform(0.2, 0.45)),
        exposure=float(rng.uniform(0.74, 0.92)),
        background=tuple(background.clip(0.1, 0.8).tolist()),
    )


def person_surfaces(person: Person, body: RestBody, seed: int, split: str) -> list[Surface]:
    """All layers of a person, from the skin outwards."""
    rng = random_stream(seed, split, person.index, "folds")
    template = body.template
    count = len(template)
    gap = np.full(count, garments.SKIN_GAP)
    top_level = garments.top_level(person.top, template)
    hidden = [top_level]
    surfaces = []
    if person.trousers is not None:
        bottom_level = garments.trousers_level(person.trousers, template)
        if person.top.tucked:
            top, top_clearance = garments.make_top(body, person.top, gap, rng)
            floor = np.where(top_level < 0.05, top_clearance + garments.LAYER_GAP, gap)
            bottom, bottom_clearance = garments.make_trousers(body, person.trousers, floor, rng)
        else:
            bottom, bottom_clearance = garments.make_trousers(body, person.trousers, gap, rng)
            floor = np.where(bottom_level < 0.02, bottom_clearance + garments.LAYER_GAP, gap)
            top, top_clearance = garments.make_top(body, person.top, floor, rng)
        hidden.append(bottom_level)
    else:
        top, top_clearance = garments.make_top(body, person.top, gap, rng)
        waist = np.abs(template[:, 1] - person.skirt.waist) < 0.04
        stand_off = float(top_clearance[waist & (np.abs(template[:, 0]) < 0.25)].max()) + garments.LAYER_GAP
        bottom = garments.make_skirt(body, person.skirt, stand_off, rng)
        bottom_level = np.maximum(template[:, 1] - person.skirt.waist, -0.4 - template[:, 1])
        bottom_level = np.where(np.abs(template[:, 0]) < 0.25, bottom_level, 1.0)
        bottom_clearance = np.full(count, stand_off)
        hidden.append(bottom_level)
    surfaces += [bottom, top]
    if person.jacket is not None:
        over_top, over_bottom = top_level < 0.03, bottom_level < 0.03
        floor = np.maximum(np.where(over_top, top_clearance, 0), np.where(over_bottom, bottom_clearance, 0))
        jacket, _ = garments.make_top(body, person.jacket, floor + garments.LAYER_GAP, rng, "jacket")
        surfaces.append(jacket)
        hidden.append(garments.top_level(person.jacket, template))
    surfaces.append(garments.make_shoes(body, person.shoes))
    hidden.append(template[:, 1] - person.shoes.top)
    hair = make_hair(body, person.hair, rng)
    if hair is not None:
        surfaces.append(hair)
        hidden.append(hair_covers(person.hair, template))
    return [_visible_skin(body, np.min(hidden, axis=0)), *surfaces]


def _visible_skin(body: RestBody, level: np.ndarray) -> Surface:
    """The skin that clothes leave free and a margin below their hems, there drawn in so that it never pokes through."""
    count = len(body.points)
    kept = body.faces[(level[body.faces] > -0.035).any(1)]
    inward = garments.smoothstep(level, 0.0, -0.02) * 0.004
    points = body.points - body.normals * inward[:, None]
    return Surface(
        points=points,
        paint=body.template,
        faces=kept,
        anchors=np.repeat(np.arange(count)[:, None], 2, axis=1),
        anchor_weights=np.tile([1.0, 0.0], (count, 1)),
        two_sided=np.zeros(len(kept), bool),
        material="skin",
    )
