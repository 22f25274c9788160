"""Clothes as meshes: offsets of the body cut along smooth lines, and skirts around it.

The borders of garments are given on the mean body (metres, see `RestBody.template`), so that they fit every shape: the
neck is at y = 0.28, the waist at -0.05, the crotch at -0.36, the knees at -0.65, the ankles at -1.09; arms lie along x
at y = 0.2, elbows at 0.44, wrists at 0.67.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from scripts.synthetic.curves import angle_between, smoothstep
from scripts.synthetic.patterns import neckline_height
from scripts.synthetic.surfaces import (
    RestBody,
    Surface,
    cut_surface,
    drape,
    offset_points,
    tube_faces,
    vertex_on_joint,
)
from scripts.synthetic.waves import sample_waves

SKIN_GAP, LAYER_GAP = 0.004, 0.006
"""Distances between skin and cloth, and between two layers of cloth, in metres."""
_SKIRT_AXIS = np.array([0.0, 0.03])
"""x and z of the vertical axis of skirts."""


@dataclass(frozen=True)
class Top:
    """A T-shirt, shirt, jumper or jacket, or the upper half of a dress."""

    hem: float
    """Height y of its lower end."""
    sleeve: float
    """|x| of the ends of the sleeves; sleeveless below 0.17."""
    neck: float
    """`neckline_height` of the neckline: 0.284 is a crew neck, 0.325 a turtleneck."""
    v_depth: float
    """Depth of a V-neck in metres; 0 without one."""
    opening: float
    """Half width of an open front (jacket); 0 when closed."""
    loft: float
    """Distance from the body in metres."""
    tucked: bool = False
    style: str = "t-shirt"
    """See `wardrobe.sample_pattern`."""
    collar: str = ""
    """`shirt`, `hood` or empty."""


@dataclass(frozen=True)
class Trousers:
    """Trousers, shorts or tights."""

    waist: float
    """Height y of the upper end."""
    length: float
    """Height y of the ends of the legs."""
    loft: float
    """Distance from the body in metres."""
    flare: float
    """Extra loft at the ends of the legs."""


@dataclass(frozen=True)
class Skirt:
    """A skirt, or the lower half of a dress."""

    waist: float
    """Height y of the upper end."""
    length: float
    """Height y of the hem."""
    flare: float
    """Increase of the radius per height, metres per metre."""
    pleats: int
    """Number of pleats."""
    pleat_depth: float
    """Depth of the pleats in metres."""


def top_level(top: Top, template: np.ndarray) -> np.ndarray:
    """Signed distance (approximate, metres) from the border of a garment: negative where it covers the body."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    front = smoothstep(z, 0.02, 0.06)
    neckline = neckline_height(x, y, z) - top.neck
    if top.v_depth > 0:
        neckline = neckline + front * top.v_depth * np.maximum(1 - x / (0.05 + 0.3 * top.v_depth), 0)
    # A sleeveless garment ends above the shoulder joint and outside of the armpit.
    sleeve = x - top.sleeve if top.sleeve > 0.2 else x - top.sleeve + 0.25 * np.maximum(0.13 - y, 0) - 0.01
    if top.sleeve <= 0.2:
        sleeve = np.where(y < 0.1, np.minimum(sleeve, -0.05), sleeve)
    level = np.maximum.reduce([top.hem - y, sleeve, neckline])
    if top.opening > 0:
        opening = top.opening + 0.12 * np.maximum(y - 0.12, 0) - x
        level = np.maximum(level, np.where(front > 0, opening, -1.0))
    return level


def trousers_level(trousers: Trousers, template: np.ndarray) -> np.ndarray:
    """Signed distance from the border of trousers, as `top_level`."""
    y = template[:, 1]
    # The waistband is slightly lower in front.
    waist = y + 0.12 * (template[:, 2] - 0.03) - trousers.waist
    return np.maximum(waist, trousers.length - y)


def make_top(
    body: RestBody, top: Top, floor: np.ndarray, rng: np.random.Generator, material: str = "top"
) -> tuple[Surface, np.ndarray]:
    """A garment of the upper body at least `floor` [V] metres from the skin, and its distance from the skin [V]."""
    template = body.template
    x, y = np.abs(template[:, 0]), template[:, 1]
    folds = sample_waves(rng, 0.16, (1, 1.6, 1), count=12).on_array(template)
    arm = smoothstep(x, 0.17, 0.3)
    loft = top.loft * (1 + 0.35 * folds) * (1 - 0.35 * arm)
    loft = loft + 0.35 * top.loft * smoothstep(x, top.sleeve - 0.12, top.sleeve) * arm
    loose_end = 0.0 if top.tucked else 0.5
    loft = loft + loose_end * top.loft * smoothstep(y, top.hem + 0.18, top.hem) * (1 - arm)
    # Cloth touches the body at collars and on the shoulders.
    close = np.maximum(
        smoothstep(neckline_height(x, y, template[:, 2]), top.neck - 0.08, top.neck - 0.01) * (1 - arm), 0
    )
    shoulder = np.clip(body.normals[:, 1], 0, 1) * smoothstep(y, 0.15, 0.22)
    loft = loft * (1 - 0.8 * np.maximum(close, shoulder))
    tucked_in = smoothstep(y, 0.02, -0.03) * top.tucked
    cling = np.maximum(0.8 * close, 0.9 * tucked_in)
    clearance = drape(body, floor, np.maximum(loft, floor), int(6 + 600 * top.loft), cling)
    rim = 0.06 if top.opening == 0 else np.inf
    return cut_surface(body, offset_points(body, clearance), top_level(top, template), material, rim), clearance


def make_trousers(
    body: RestBody, trousers: Trousers, floor: np.ndarray, rng: np.random.Generator
) -> tuple[Surface, np.ndarray]:
    """A garment of the lower body at least `floor` [V] metres from the skin, and its distance from the skin [V]."""
    template = body.template
    y = template[:, 1]
    folds = sample_waves(rng, 0.12, (1, 1.3, 1), count=12).on_array(template)
    down = smoothstep(y, -0.3, -0.5)
    loft = trousers.loft * (1 + 0.3 * folds) * (0.4 + 0.6 * down)
    loft = loft + trousers.flare * smoothstep(y, trousers.length + 0.45, trousers.length)
    level = trousers_level(trousers, template)
    waistband = smoothstep(level, -0.09, -0.03) * (y > -0.3)
    room = _room_between_legs(body)
    floor = np.minimum(floor, room)
    clearance = drape(body, floor, loft, int(4 + 300 * trousers.loft), cling=waistband)
    clearance = np.minimum(clearance, np.maximum(room, floor))
    return cut_surface(body, offset_points(body, clearance), level, "bottom", rim=0.05), clearance


def _room_between_legs(body: RestBody) -> np.ndarray:
    """Distance [V] that each vertex can move along its normal before it reaches the other leg."""
    x, inward = body.points[:, 0], -np.sign(body.template[:, 0]) * body.normals[:, 0]
    on_leg = (body.template[:, 1] < -0.33) & (inward > 0.05)
    room = np.maximum(np.abs(x) - 0.002, 0) / np.maximum(inward, 0.05)
    return np.where(on_leg, room, 1.0)


def template_height_to_shaped(body: RestBody, y: np.ndarray) -> np.ndarray:
    """Heights on this body that correspond to heights of the mean body."""
    order = np.argsort(body.template[:, 1])
    central = order[np.abs(body.template[order, 0]) < 0.3]
    heights, shaped = body.template[central, 1], body.points[central, 1]
    bins = np.linspace(heights[0], heights[-1], 40)
    centers = (bins[1:] + bins[:-1]) / 2
    index = np.digitize(heights, bins[1:-1])
    counts = np.bincount(index, minlength=39)
    means = np.bincount(index, shaped - heights, minlength=39) / np.maximum(counts, 1)
    return y + np.interp(y, centers[counts > 0], means[counts > 0])


def make_skirt(body: RestBody, skirt: Skirt, clearance: float, rng: np.random.Generator) -> Surface:
    """A skirt: a tube around the convex outline of hips and legs, vertical below the widest place, plus the flare.

    Its points are skinned to five body vertices: the nearest one of the trunk, and one on each thigh and shin.
    """
    columns = 72
    rows = max(int((skirt.waist - skirt.length) / 0.022), 4)
    heights = np.linspace(skirt.waist, skirt.length, rows)
    shaped_heights = template_height_to_shaped(body, heights)
    angle = 2 * np.pi * np.arange(columns) / columns
    directions = np.stack([np.sin(angle), np.cos(angle)], -1)
    below = np.maximum(skirt.waist - heights, 0)[:, None]
    radius = _skirt_radius(body, shaped_heights, angle, clearance, skirt.flare * below, smoothstep(below, 0.08, 0.0))
    wave = skirt.pleats * angle + 0.6 * np.sin(2 * angle + rng.uniform(0, 6)) + rng.uniform(0, 6)
    depth = smoothstep(below, 0.02, max(skirt.waist - skirt.length, 0.1))
    radius = radius + skirt.pleat_depth * depth * (1 + np.sin(wave))

    points = np.stack(
        [
            _SKIRT_AXIS[0] + radius * directions[:, 0],
            np.broadcast_to(shaped_heights[:, None], radius.shape),
            _SKIRT_AXIS[1] + radius * directions[:, 1],
        ],
        -1,
    ).reshape(-1, 3)
    y = np.repeat(heights, columns)
    paint = np.stack([points[:, 0], y, points[:, 2] + 0.02], -1)
    anchors, weights = _skirt_anchors(body, points, y)
    return Surface(
        points, paint, tube_faces(rows, columns), anchors, weights, np.ones(2 * (rows - 1) * columns, bool), "bottom"
    )


def _skirt_radius(body: RestBody, heights, angle, clearance: float, flare, snugness) -> np.ndarray:
    """Distance of a skirt from its axis, [rows, columns].

    Args:
        body: Body inside of the skirt.
        heights: Heights of the rows on this body, [rows].
        angle: Angles of the columns, from the front to the left, [columns].
        clearance: Distance from the body in metres.
        flare: Additional distance of each row, [rows, 1].
        snugness: 1 where the skirt follows the body like a waistband, 0 where it hangs, [rows, 1].
    """
    directions = np.stack([np.sin(angle), np.cos(angle)], -1)
    lower_body = (np.abs(body.template[:, 0]) < 0.24) & (body.template[:, 1] < 0.1)
    outline = body.points[lower_body]
    support, snug = np.empty((len(heights), len(angle))), np.empty((len(heights), len(angle)))
    for row, y in enumerate(heights):
        near = outline[np.abs(outline[:, 1] - y) < 0.025][:, [0, 2]] - _SKIRT_AXIS
        support[row] = (near @ directions.T).max(0)
        snug[row] = _polar_radius(near, angle)
    hanging = np.maximum.accumulate(support, axis=0)
    support = np.maximum(hanging - 0.15 * (hanging - support), support) + clearance + flare
    # Outline of a convex shape from its support function: in each direction the nearest of all tangents.
    between = angle[:, None] - angle
    facing = np.where(np.cos(between) > 0.3, np.cos(between), np.nan)
    radius = np.nanmin(support[:, None, :] / facing, axis=2)
    return radius + snugness * np.minimum(snug + clearance - radius, 0)


def _polar_radius(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Radius of an outline in each direction; angles run from the second axis to the first."""
    at = np.arctan2(points[:, 0], points[:, 1])
    radius = np.where(angle_between(at, angle[:, None]) < 0.12, np.linalg.norm(points, axis=-1), 0).max(1)
    return np.where(radius > 0, radius, np.median(radius[radius > 0]))


def _skirt_anchors(body: RestBody, points: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Anchors [M, 5] and their weights [M, 5] of a skirt's points; `y` are their heights on the mean body."""
    trunk = np.nonzero(
        (np.abs(body.template[:, 0]) < 0.24) & (body.template[:, 1] > -0.3) & (body.template[:, 1] < 0.1)
    )[0]
    beside = trunk[cKDTree(body.points[trunk]).query(points)[1]]
    legs = [vertex_on_joint(body, joint) for joint in ("left_hip", "right_hip", "left_knee", "right_knee")]
    on_legs = smoothstep(y, -0.12, -0.38)
    left = smoothstep(points[:, 0], -0.16, 0.16)
    shin = 0.85 * smoothstep(y, -0.6, -0.85)
    weights = np.stack(
        [
            1 - on_legs,
            on_legs * left * (1 - shin),
            on_legs * (1 - left) * (1 - shin),
            on_legs * left * shin,
            on_legs * (1 - left) * shin,
        ],
        -1,
    )
    anchors = np.concatenate([beside[:, None], np.tile(legs, (len(points), 1))], 1)
    return anchors, weights
