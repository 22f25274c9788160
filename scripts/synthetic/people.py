"""Random people: shape, skin, hair, clothes, light and motion, and the meshes of their layers."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from scripts.synthetic import garments
from scripts.synthetic.accessories import make_collar, make_glasses, make_hat
from scripts.synthetic.curves import smoothstep
from scripts.synthetic.faces import Face
from scripts.synthetic.footwear import Shoes, footwear_height, footwear_hides, make_footwear
from scripts.synthetic.garments import Skirt
from scripts.synthetic.hair import Hair, hair_covers, make_hair
from scripts.synthetic.motion import Motion, sample_motion
from scripts.synthetic.outfits import Outfit, sample_outfit
from scripts.synthetic.palette import cloth_color_sample, hair_colors, iris_color, linear, skin_tone
from scripts.synthetic.seeding import digest, random_stream
from scripts.synthetic.skin import HairColor, SkinTone
from scripts.synthetic.surfaces import RestBody, Surface
from scripts.synthetic.waves import sample_waves
from smpl_renderer.body_model import BodyModel

MIN_HEIGHT, MAX_HEIGHT = 1.5, 1.75


@dataclass(frozen=True)
class Light:
    """Soft studio light: ambient light, a broad key light, and light reflected by the floor."""

    azimuth: float
    """Direction of the key light in the raw world, radians."""
    elevation: float
    """Its elevation above the floor, radians."""
    key: float
    """Share of the key light."""
    warmth: float
    """Tint of the key light; positive is warm."""
    floor: float
    """Brightness of light from below."""
    exposure: float
    background: tuple[float, float, float]
    """Colour of the walls, display values."""


@dataclass(frozen=True)
class Person:
    """All draws of a person; equal values give equal images. Field names are part of `checksum`."""

    index: int
    betas: tuple[float, ...]
    skin: SkinTone
    hair: Hair
    hair_color: HairColor
    outfit: Outfit
    light: Light
    motion: Motion

    @property
    def shoes(self) -> Shoes:
        """Shoes, whose soles raise the body above the floor."""
        return self.outfit.shoes

    def checksum(self) -> str:
        """Hash of all draws."""
        return digest(dataclasses.asdict(self))


def sample_person(body: BodyModel, seed: int, split: str, index: int) -> Person:
    """Draw a person; depends only on the arguments."""
    colors = random_stream(seed, split, index, "colors")
    outfit = sample_outfit(random_stream(seed, split, index, "outfit"), colors, split)
    hair = _sample_hair(random_stream(seed, split, index, "hair"))
    if outfit.hat is not None and hair.style not in ("bald", "buzz"):
        # Hair under a hat lies flat.
        hair = dataclasses.replace(hair, style="short", volume=0.008, fringe=0.0)
    root, tip = hair_colors(colors)
    curls = (0.013, (1.0, 1.0, 1.0)) if hair.style == "curly" else (0.009, (0.6, 5.0, 0.6))
    parting = hair.parting if hair.style == "short" else None
    return Person(
        index=index,
        betas=_sample_betas(body, random_stream(seed, split, index, "shape")),
        skin=_sample_skin(random_stream(seed, split, index, "skin"), root),
        hair=hair,
        hair_color=HairColor(root, tip, sample_waves(colors, *curls, 16), parting),
        outfit=outfit,
        light=_sample_light(random_stream(seed, split, index, "light")),
        motion=sample_motion(random_stream(seed, split, index, "motion"), _stride(outfit.skirt)),
    )


def _stride(skirt: Skirt | None) -> float:
    """Factor on the movement of the legs: below 1 in skirts, smaller the longer they are."""
    return 1.0 if skirt is None else 0.65 - 0.4 * max(-0.65 - skirt.length, 0)


def _sample_betas(body: BodyModel, rng: np.random.Generator) -> tuple[float, ...]:
    """Draw shape coefficients within two standard deviations that give a height that fits the rig's images."""
    template = body.v_template.double().cpu().numpy()
    shapes = body.shapedirs.double().cpu().numpy()
    while True:
        betas = np.clip(rng.normal(size=body.num_betas), -2, 2).round(4)
        if MIN_HEIGHT < np.ptp((template + shapes @ betas)[:, 1]) < MAX_HEIGHT:
            return tuple(betas.tolist())


def _sample_skin(rng: np.random.Generator, hair_root) -> SkinTone:
    tone = skin_tone(rng)
    return SkinTone(
        tone=tone,
        mottle=sample_waves(rng, 0.04, count=8),
        face=_sample_face(rng, np.array(tone), np.array(hair_root)),
        band=linear(cloth_color_sample(rng)) if rng.random() < 0.2 else None,
    )


def _sample_face(rng: np.random.Generator, tone: np.ndarray, hair_root: np.ndarray) -> Face:
    lips = tuple((tone * [0.92, 0.5, 0.52] * rng.uniform(0.85, 1.1)).tolist())
    made_up = rng.random() < 0.22
    if made_up:
        lips = linear((rng.uniform(0.45, 0.75), rng.uniform(0.08, 0.25), rng.uniform(0.12, 0.3)))
    beard = "none"
    if not made_up and rng.random() < 0.38:
        beard = str(rng.choice(["stubble", "moustache", "goatee", "full"], p=[0.4, 0.12, 0.18, 0.3]))
    hue = np.array([(0.25, 0.2, 0.35), (0.4, 0.25, 0.15), (0.2, 0.3, 0.4), (0.45, 0.2, 0.28)][rng.integers(4)])
    return Face(
        lips=lips,
        iris=iris_color(rng),
        brow=tuple((0.6 * np.minimum(hair_root, 0.15)).tolist()),
        brow_weight=float(rng.uniform(0.7, 1.7)),
        brow_lift=float(rng.uniform(-0.0015, 0.0025)),
        eye_size=float(rng.uniform(0.85, 1.25)),
        mouth_width=float(rng.uniform(0.88, 1.15)),
        lip_fullness=float(rng.uniform(0.75, 1.3)),
        blush=float(rng.uniform(0.1, 0.5)),
        beard=beard,
        beard_weight=float(rng.uniform(0.3, 0.6) if beard == "stubble" else rng.uniform(0.8, 0.97)),
        lids=linear(hue),
        make_up=float(rng.uniform(0.4, 1.0)) if made_up else 0.0,
        freckles=float(rng.uniform(0.4, 1.0)) if rng.random() < 0.15 else 0.0,
        spots=sample_waves(rng, 0.0035, count=12),
    )


def _sample_hair(rng: np.random.Generator) -> Hair:
    styles = {"short": 0.3, "buzz": 0.1, "curly": 0.12, "ponytail": 0.12, "bun": 0.07}
    styles |= {"bob": 0.13, "long": 0.11, "bald": 0.05}
    style = str(rng.choice(list(styles), p=list(styles.values())))
    lengths = {"bob": (0.29, 0.36), "long": (0.08, 0.22), "ponytail": (0.12, 0.34)}
    volumes = {"buzz": (0.001, 0.003), "short": (0.008, 0.026), "curly": (0.018, 0.045), "ponytail": (0.004, 0.01)}
    low, high = volumes.get(style, (0.006, 0.012) if style == "bun" else (0.01, 0.02))
    return Hair(
        style=style,
        volume=float(rng.uniform(low, high)),
        length=float(rng.uniform(*lengths.get(style, (0.33, 0.33)))),
        opening=float(rng.uniform(58, 74)),
        parting=float(rng.choice([-1, 1]) * rng.uniform(0.012, 0.045)),
        fringe=float(rng.choice([0.0, rng.uniform(0.005, 0.03)])) if style in ("short", "curly", "bun") else 0.0,
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
    template, outfit = body.template, person.outfit
    surfaces, hidden, clearance = _lower_and_top(outfit, body, rng)
    if outfit.jacket is not None:
        jacket, clearance = garments.make_top(body, outfit.jacket, clearance + garments.LAYER_GAP, rng, "jacket")
        surfaces += [jacket, *make_collar(body, outfit.jacket, clearance, "jacket")]
        hidden.append(garments.top_level(outfit.jacket, template))
    if outfit.jacket is None or outfit.jacket.collar == "":
        surfaces += make_collar(body, outfit.top, clearance, "top")
    surfaces += make_footwear(body, outfit.shoes)
    hidden.append(footwear_hides(outfit.shoes, template))
    hair = make_hair(body, person.hair, rng)
    if hair:
        surfaces += hair
        hidden.append(hair_covers(person.hair, template))
    if outfit.hat is not None:
        surfaces += make_hat(body, outfit.hat, person.hair.volume if hair else 0.0)
    if outfit.glasses is not None:
        surfaces.append(make_glasses(body, outfit.glasses))
    return [_visible_skin(body, np.min(hidden, axis=0)), *surfaces]


def _lower_and_top(
    outfit: Outfit, body: RestBody, rng: np.random.Generator
) -> tuple[list[Surface], list[np.ndarray], np.ndarray]:
    """Layers of the lower garment and the top, levels [V] (negative where they cover the skin), and clearance [V]."""
    template, top, trousers, skirt = body.template, outfit.top, outfit.trousers, outfit.skirt
    gap = np.full(len(template), garments.SKIN_GAP)
    top_level = garments.top_level(top, template)
    if skirt is not None:
        surface, clearance = garments.make_top(body, top, gap, rng)
        waist = np.abs(template[:, 1] - skirt.waist) < 0.04
        stand_off = float(clearance[waist & (np.abs(template[:, 0]) < 0.25)].max()) + garments.LAYER_GAP
        bottom = garments.make_skirt(body, skirt, stand_off, rng)
        bottom_level = np.where(np.abs(template[:, 0]) < 0.25, template[:, 1] - skirt.waist, 1.0)
        bottom_level = np.maximum(bottom_level, min(-0.4, skirt.length + 0.08) - template[:, 1])
        bottom_clearance = np.full(len(template), stand_off)
    else:
        bottom_level = garments.trousers_level(trousers, template)
        shod = np.where(template[:, 1] < footwear_height(outfit.shoes) + 0.03, 0.012, garments.SKIN_GAP)
        if top.tucked:
            surface, clearance = garments.make_top(body, top, gap, rng)
            under = np.where(top_level < 0.05, clearance + garments.LAYER_GAP, shod)
            bottom, bottom_clearance = garments.make_trousers(body, trousers, under, rng)
        else:
            bottom, bottom_clearance = garments.make_trousers(body, trousers, shod, rng)
            under = np.where(bottom_level < 0.02, bottom_clearance + garments.LAYER_GAP, gap)
            surface, clearance = garments.make_top(body, top, under, rng)
    over = np.maximum(np.where(top_level < 0.03, clearance, 0), np.where(bottom_level < 0.03, bottom_clearance, 0))
    return [bottom, surface], [top_level, bottom_level], over


def _visible_skin(body: RestBody, level: np.ndarray) -> Surface:
    """Skin that clothes leave free, and a margin under their hems, moved inwards so that it does not intersect them."""
    count = len(body.points)
    kept = body.faces[(level[body.faces] > -0.035).any(1)]
    inward = smoothstep(level, 0.0, -0.02) * 0.004
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
