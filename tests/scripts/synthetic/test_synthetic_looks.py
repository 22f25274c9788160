"""The look of synthetic people: light and shade, faces, prints, and the variety of clothes and hair."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scripts.synthetic import drawing
from scripts.synthetic.faces import BROW_HEIGHT, EYE, MOUTH_HEIGHT, face_color
from scripts.synthetic.materials import MATERIALS, material_color
from scripts.synthetic.motion import SEQUENCES
from scripts.synthetic.people import Light, sample_person
from scripts.synthetic.prints import Print, print_mask
from scripts.synthetic.surfaces import tube_faces

LIGHT = Light(azimuth=0.0, elevation=0.0, key=0.5, warmth=0.1, floor=0.3, exposure=0.8, background=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def people(body):
    return [sample_person(body, 3, "train", index) for index in range(200)]


def ball(rows: int = 24, columns: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and faces of a unit sphere in the raw world; the vertices equal their normals."""
    polar, azimuth = np.meshgrid(np.linspace(0.02, np.pi - 0.02, rows), 2 * np.pi * np.arange(columns) / columns)
    polar, azimuth = polar.T, azimuth.T
    points = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], -1)
    return torch.from_numpy(points.reshape(-1, 3)).float(), torch.from_numpy(tube_faces(rows, columns))


def irradiance(points, normals, faces, light=LIGHT):
    return drawing._irradiance(points, normals, faces, light)


def test_light_comes_from_the_key_and_from_above():
    points, faces = ball()
    light = irradiance(points, points, faces)
    assert light.shape == (len(points), 3) and light.min() >= 0
    lit, dark = light[points[:, 0] > 0.8].mean(0), light[points[:, 0] < -0.8].mean(0)
    assert (lit > 1.5 * dark).all(), "the key light's direction is +x"
    assert lit[0] / lit[2] > 1.1 * dark[0] / dark[2], "the key light is warm"
    ambient = irradiance(points, points, faces, replace(LIGHT, key=0.0))
    up, down = ambient[points[:, 2] < -0.8].mean(), ambient[points[:, 2] > 0.8].mean()
    assert up > 1.3 * down, "up is -z"
    # The mean over a sphere is the mean radiance; 24 directions leave an error of some per cent.
    area = (1 - points[:, 2] ** 2).sqrt()
    assert float((ambient.mean(1) * area).sum() / area.sum()) == pytest.approx(LIGHT.exposure, rel=0.1)


def test_occluded_vertices_receive_less_light():
    """A second sphere darkens only the side of the first that faces it."""
    points, faces = ball()
    neighbor = points + torch.tensor([0.0, 2.1, 0.0])
    size = 0.3  # pixels of the depth maps as fine as for a body
    alone = irradiance(size * points, points, faces, replace(LIGHT, key=0.0)).mean(1)
    both = irradiance(
        *(size * torch.cat([points, neighbor]), torch.cat([points, points])),
        *(torch.cat([faces, faces + len(points)]), replace(LIGHT, key=0.0)),
    ).mean(1)[: len(points)]
    ratio = both / alone
    assert ratio[points[:, 1] > 0.9].mean() < 0.6 and ratio[points[:, 1] < -0.5].mean() > 0.97


def test_faces_have_eyes_brows_and_mouth(people):
    for person in people[:40]:
        face, tone = replace(person.skin.face, beard="none", freckles=0.0), torch.tensor(person.skin.tone)
        side, height = EYE
        places = {
            "cheek": (0.05, 0.37),
            "pupil": EYE,
            "white": (side + 0.0095, height),
            "brow": (0.03, BROW_HEIGHT + face.brow_lift + 0.0024),
            "lip": (0.004, MOUTH_HEIGHT + 0.004),
            "line": (0.0, MOUTH_HEIGHT + 0.0008),
        }
        for mirror in (1, -1):
            points = torch.tensor([(mirror * x, y, 0.14) for x, y in places.values()])
            seen = dict(zip(places, face_color(face, tone, tone.expand(len(points), 3), points)))
            assert seen["pupil"].max() < 0.05 < seen["white"].min()
            assert (seen["white"] > seen["pupil"] + 0.2).all()
            assert seen["brow"].sum() < 0.7 * seen["cheek"].sum() or tone.sum() < 0.3
            assert seen["line"].sum() < 0.6 * seen["lip"].sum()
            assert seen["lip"][0] / seen["lip"][1] > 1.1 * seen["cheek"][0] / seen["cheek"][1], "lips are redder"


@pytest.mark.parametrize("back", [False, True])
def test_prints_are_upright_and_not_mirrored(back):
    """The stem of an L is on the left for a viewer: at negative x in front, at positive x on the back."""
    item = Print("L", (1.0, 1.0, 1.0), center=(0.02, 0.1), width=0.1, back=back)
    x, y = torch.meshgrid(torch.linspace(-0.1, 0.14, 240), torch.linspace(-0.1, 0.3, 400), indexing="ij")
    mask = print_mask(item, x.flatten(), y.flatten()).reshape(x.shape)
    upper, lower = mask[y > 0.11].sum(), mask[y < 0.09].sum()
    assert lower > 1.1 * upper > 0, "upright"
    stem = (mask * (x - item.center[0]) * (y > 0.11)).sum() / upper
    assert (stem > 0.015) if back else (stem < -0.015)
    assert mask[(x - item.center[0]).abs() > 0.051].sum() == 0


def test_every_style_occurs(people):
    """All cuts, collars, hair styles, beards and shoes occur among 200 people."""
    outfits = [person.outfit for person in people]

    def seen(values) -> set:
        return {value for value in values if value is not None}

    assert seen(o.top.style for o in outfits) == {"t-shirt", "shirt", "jumper", "hoodie"}
    assert seen(o.jacket.style for o in outfits if o.jacket) == {"jacket", "coat"}
    assert seen(o.shoes.kind for o in outfits) == {"shoes", "boots", "sandals"}
    assert seen(o.hat.style for o in outfits if o.hat) == {"beanie", "cap"}
    assert any(o.glasses for o in outfits) and any(o.glasses is None for o in outfits)
    hair = {"bald", "buzz", "short", "curly", "ponytail", "bun", "bob", "long"}
    assert seen(person.hair.style for person in people) == hair
    beards = {"none", "stubble", "moustache", "goatee", "full"}
    assert seen(person.skin.face.beard for person in people) == beards
    legs = [o.trousers for o in outfits if o.trousers]
    assert any(leg.length > -0.66 for leg in legs) and any(leg.length < -1 for leg in legs), "shorts and trousers"
    lofts = [leg.loft for leg in legs]
    assert min(lofts) < 0.008 and max(lofts) > 0.03, "cut tight and loose"
    skirts = [o for o in outfits if o.skirt]
    dresses = [o for o in skirts if o.bottom_pattern.fabric == o.top_pattern.fabric]
    assert 10 < len(dresses) < len(skirts) < len(people) / 2
    assert any(o.top_pattern.back for o in outfits), "asymmetric front and back"
    tones = np.array([person.skin.tone for person in people]).mean(1)
    assert tones.min() < 0.08 and tones.max() > 0.5
    shapes = np.array([person.betas for person in people])
    assert (shapes.std(0) > 0.5).all() and np.abs(shapes).max() <= 2


def test_clothes_do_not_conflict(people):
    """Garments that would intersect others, and prints that an opening would cut, do not occur together."""
    for outfit in (person.outfit for person in people):
        assert (outfit.trousers is None) != (outfit.skirt is None)
        assert (outfit.jacket is None) == (outfit.jacket_pattern is None)
        if outfit.jacket and outfit.skirt:
            assert outfit.jacket.hem == outfit.skirt.waist - 0.02, "a longer jacket would intersect the skirt"
        if outfit.jacket:
            assert outfit.top.collar != "hood" and outfit.jacket.sleeve >= outfit.top.sleeve
        if outfit.jacket and outfit.jacket.opening > 0:
            assert outfit.jacket_pattern.closure == "" and outfit.jacket.collar == ""
        if outfit.top.v_depth > 0 and not outfit.top.collar:
            assert all(item.back for item in outfit.top_pattern.prints)


def test_motion_has_all_sequences(people):
    names = {sequence.name for sequence in SEQUENCES}
    assert {"walk", "run", "reach", "squat", "turn", "dance", "arms up", "sit"} <= names
    assert all(sorted(person.motion.order) == list(range(len(SEQUENCES))) for person in people)


def test_every_material_has_colours(people):
    person = next(p for p in people if p.outfit.hat and p.outfit.jacket)
    person = replace(
        person, outfit=replace(person.outfit, glasses=next(p.outfit.glasses for p in people if p.outfit.glasses))
    )
    paint = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    for material in MATERIALS:
        color = material_color(person, material, paint)
        assert color.shape == (50, 3) and color.min() >= 0 and color.max() <= 1, material
    with pytest.raises(ValueError, match="'fur'"):
        material_color(person, "fur", paint)
