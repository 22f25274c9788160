"""Geometry of clothes, and the layers of whole people."""

import numpy as np
import pytest
import torch

from core.motion.anatomy import LIMITS, RELAXED
from scripts.synthetic import garments
from scripts.synthetic.fabrics import KINDS, Fabric, fabric_color
from scripts.synthetic.footwear import Shoes, make_footwear
from scripts.synthetic.garments import Skirt, Top, Trousers
from scripts.synthetic.motion import SEQUENCES
from scripts.synthetic.people import person_surfaces, sample_person
from scripts.synthetic.surfaces import cut, drape, offset_points, rest_body, sweep
from scripts.synthetic.wardrobe import EVERYDAY, UNSEEN
from scripts.synthetic.waves import sample_waves

T_SHIRT = Top(hem=-0.2, sleeve=0.3, neck=0.284, v_depth=0.0, opening=0.0, loft=0.016)


@pytest.fixture(scope="module")
def shape(body):
    return rest_body(body, np.linspace(-1.5, 1.5, 10))


def boundary_vertices(faces: np.ndarray) -> np.ndarray:
    """Vertices on edges of only one face."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return np.unique(unique[counts == 1])


def test_cut_keeps_one_side_of_a_line():
    """A sheet cut along a slanted line: known area, all vertices on one side, unchanged orientation."""
    rows, columns = np.meshgrid(np.arange(6), np.arange(6), indexing="ij")
    points = np.stack([columns, rows], -1).reshape(-1, 2).astype(float)
    corner = (6 * rows[:-1, :-1] + columns[:-1, :-1]).ravel()
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 6], 1), np.stack([corner + 1, corner + 7, corner + 6], 1)]
    )
    level = points[:, 0] + 0.3 * points[:, 1] - 3.1
    pairs, weights, new_faces = cut(faces, level)
    cut_points = (weights[..., None] * points[pairs]).sum(1)
    corners = cut_points[new_faces]
    side_a, side_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = (side_a[:, 0] * side_b[:, 1] - side_a[:, 1] * side_b[:, 0]) / 2
    assert (areas > 0).all()
    # Area of the 5 x 5 square left of x = 3.1 - 0.3 y.
    assert areas.sum() == pytest.approx(5 * 3.1 - 0.3 * 25 / 2)
    assert (cut_points @ [1, 0.3]).max() <= 3.1 + 1e-12


def test_hems_are_level_sets(shape):
    surface, _ = garments.make_top(shape, T_SHIRT, np.full(len(shape.points), 0.004), np.random.default_rng(0))
    border = boundary_vertices(surface.faces)
    level = garments.top_level(T_SHIRT, shape.template)
    on_border = (surface.anchor_weights * level[surface.anchors]).sum(1)[border]
    assert len(border) > 100
    np.testing.assert_allclose(on_border, 0, atol=1e-9)
    hem = surface.paint[border][np.abs(surface.paint[border, 0]) < 0.25]
    assert (np.abs(hem[hem[:, 1] < 0, 1] - T_SHIRT.hem) < 1e-9).all()


def test_cloth_stays_off_the_skin(shape):
    floor = np.full(len(shape.points), 0.004)
    clearance = drape(shape, floor, np.full(len(floor), 0.02), smoothing=10)
    assert (clearance >= 0.004 - 1e-12).all()
    assert clearance.max() > 0.025  # hollows are bridged
    points = offset_points(shape, clearance)
    np.testing.assert_allclose(np.linalg.norm(points - shape.points, axis=1), clearance, atol=1e-9)


def test_outer_layers_are_outside_of_inner_ones(shape):
    trousers = Trousers(waist=-0.06, length=-1.0, loft=0.02, flare=0.0)
    floor = np.full(len(shape.points), 0.004)
    _, inner = garments.make_trousers(shape, trousers, floor, np.random.default_rng(1))
    _, outer = garments.make_top(shape, T_SHIRT, inner + garments.LAYER_GAP, np.random.default_rng(2))
    assert (outer >= inner + garments.LAYER_GAP - 1e-12).all()


def test_legs_of_trousers_do_not_intersect(shape):
    trousers = Trousers(waist=-0.06, length=-1.06, loft=0.03, flare=0.045)
    surface, _ = garments.make_trousers(shape, trousers, np.full(len(shape.points), 0.004), np.random.default_rng(3))
    leg = (surface.paint[:, 1] < -0.42) & (np.abs(surface.paint[:, 0]) > 0.01)
    assert (surface.points[leg, 0] * surface.paint[leg, 0] > 0).all()


def test_skirts_enclose_the_legs(shape):
    skirt = Skirt(waist=-0.06, length=-0.7, flare=0.15, pleats=9, pleat_depth=0.01)
    surface = garments.make_skirt(shape, skirt, 0.02, np.random.default_rng(4))
    np.testing.assert_allclose(surface.anchor_weights.sum(1), 1, atol=1e-12)
    # Weights of neighbours differ little, so that the skirt does not tear between the legs.
    weights = surface.anchor_weights[:, 1:]
    assert np.abs(weights[surface.faces[:, 0]] - weights[surface.faces[:, 1]]).max() < 0.25
    height = shape.points[:, 1]
    legs = (shape.template[:, 1] < -0.4) & (shape.template[:, 1] > -0.65)
    ring = surface.points.reshape(-1, 72, 3)
    for point in shape.points[legs][::40]:
        row = ring[np.abs(ring[:, 0, 1] - point[1]).argmin()]
        outline = row[:, [0, 2]] - [0.0, 0.03]
        direction = point[[0, 2]] - [0.0, 0.03]
        angle = np.arctan2(direction[0], direction[1])
        reach = np.interp(
            angle % (2 * np.pi), np.linspace(0, 2 * np.pi, 73), np.linalg.norm(outline, axis=1)[[*range(72), 0]]
        )
        assert np.linalg.norm(direction) < reach, height


@pytest.mark.parametrize("index", range(6))
def test_people_are_finite_and_repeatable(body, index):
    person = sample_person(body, 5, "train", index)
    assert person == sample_person(body, 5, "train", index)
    assert person.checksum() == sample_person(body, 5, "train", index).checksum()
    others = [sample_person(body, 6, "train", index), sample_person(body, 5, "test", index)]
    assert len({person.checksum(), *(other.checksum() for other in others)}) == 3
    shape = rest_body(body, np.array(person.betas))
    again = person_surfaces(person, shape, 5, "train")
    for surface, same in zip(person_surfaces(person, shape, 5, "train"), again):
        assert np.isfinite(surface.points).all()
        assert np.array_equal(surface.points, same.points)
        assert surface.faces.max() < len(surface.points)
        assert surface.anchors.max() < body.num_vertices
        np.testing.assert_allclose(surface.anchor_weights.sum(1), 1, atol=1e-9)
        # All layers are close to the body.
        beside = (surface.anchor_weights[..., None] * shape.points[surface.anchors]).sum(1)
        if surface.material not in ("bottom", "hair", "hat", "glasses"):
            assert np.linalg.norm(surface.points - beside, axis=1).max() < 0.12


def test_shoes_enclose_the_feet(shape):
    """Shoes are convex, face outwards and contain the toes."""
    for surface in make_footwear(shape, Shoes("shoes", top=-1.08, sole=0.02))[1:]:
        corners = surface.points[surface.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        side = np.sign(surface.points[:, 0].mean())
        toes = shape.points[
            (shape.template[:, 2] > 0.17) & (side * shape.template[:, 0] > 0) & (shape.points[:, 1] < -1)
        ]
        beyond = np.einsum("fc,fpc->fp", normals, toes - corners[:, :1])
        assert len(toes) > 50 and beyond.max() < 0


@pytest.mark.parametrize("path", [[[0, 0, 0], [0, 0, 1], [0, 0.4, 2]], [[0, 0, 0], [1, 0, 0.2], [2, 0, 0]]])
def test_tubes_face_outwards(path):
    points, faces = sweep(np.array(path, float), np.full((3, 2), 0.2), up=(0, 1, 0))
    corners = points[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = np.repeat(np.array(path, float), 10, 0)[faces].mean(1)
    assert ((corners.mean(1) - middle) * normals).sum(1).min() > 0


def worn(person) -> tuple[set, set]:
    """Figured fabrics and prints of a person."""
    outfit = person.outfit
    patterns = [p for p in (outfit.top_pattern, outfit.jacket_pattern, outfit.bottom_pattern) if p is not None]
    fabrics = [f for p in patterns for f in (p.fabric, p.sleeves, p.back) if f is not None]
    fabrics += [outfit.hat.fabric] if outfit.hat is not None else []
    kinds = {f.kind for f in fabrics} - {"plain", "melange", "denim", "gradient"}
    return kinds, {item.text for p in patterns for item in p.prints}


@pytest.mark.slow
def test_clothes_of_the_test_split_occur_in_no_other(body):
    """Figured fabrics and prints of 300 people per split: those of `test` are disjoint from all others."""
    people = {s: [worn(sample_person(body, 3, s, i)) for i in range(300)] for s in ("train", "val", "test")}
    kinds, prints = ({s: set().union(*(w[k] for w in worns)) for s, worns in people.items()} for k in (0, 1))
    for seen in (kinds, prints):
        assert not seen["test"] & (seen["train"] | seen["val"])
    assert kinds["train"] == kinds["val"] == set(EVERYDAY.kinds) and kinds["test"] == set(UNSEEN.kinds)
    for split, wardrobe in (("train", EVERYDAY), ("test", UNSEEN)):
        assert prints[split] == {*wardrobe.words, *(f"<{shape}>" for shape in wardrobe.shapes)}
        assert sum(bool(k) or bool(p) for k, p in people[split]) > 200, "most people wear a figured fabric or a print"
    assert len(UNSEEN.kinds) >= 4 and set(UNSEEN.words).isdisjoint(EVERYDAY.words)


@pytest.mark.parametrize("kind", KINDS)
def test_fabrics_are_periodic_and_in_range(kind):
    """Periodic fabrics repeat after two periods in both directions; colours stay between those of the fabric."""
    rng = np.random.default_rng(2)
    waves = sample_waves(rng, 0.05)
    colors = ((0.1, 0.2, 0.3), (0.8, 0.7, 0.2), (0.4, 0.9, 0.6))
    fabric = Fabric(kind, colors, period=0.11, duty=0.4, waves=waves)
    u, v = torch.from_numpy(rng.uniform(-0.4, 0.4, (2, 4000)))
    paint = torch.stack([v, u, 0 * u], -1)
    color = fabric_color(fabric, paint, u, v)
    assert color.shape == (4000, 3)
    low, high = torch.tensor(colors, dtype=u.dtype).aminmax(dim=0)
    assert (color >= low - 1e-6).all() and (color <= high + 1e-6).all()
    if kind != "plain":
        assert color.std(0).max() > 0.02
    if kind in ("stripes", "checks", "dots", "zigzag", "ripples", "argyle", "tartan"):
        for du, dv in ((0.22, 0.0), (0.0, 0.22)):
            again = fabric_color(fabric, paint, u + du, v + dv)
            assert (again - color).abs().mean() < 1e-3


def test_authored_poses_are_within_the_limits():
    """Clipping changes no authored key before the variation between people is added."""
    for sequence in SEQUENCES:
        for key in sequence.keys:
            for name, angle in {**RELAXED, **key}.items():
                low, high = LIMITS[name]
                assert low <= angle <= high, (sequence.name, name)


@pytest.mark.slow
def test_long_skirts_shorten_the_stride(body):
    people = [sample_person(body, 1, "train", i) for i in range(60)]
    knees = {}
    for person in people:
        skirt = person.outfit.skirt
        kind = "trousers" if skirt is None else "long" if skirt.length < -0.8 else "short"
        knees.setdefault(kind, []).append(
            np.ptp([person.motion.angles(frame)["l_knee"] for frame in range(0, 1200, 5)])
        )
    assert np.mean(knees["long"]) < np.mean(knees["short"]) < np.mean(knees["trousers"])
