"""Collars, hoods, hats and glasses as meshes."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from scripts.synthetic.curves import angle_between, smoothstep
from scripts.synthetic.fabrics import Color, Fabric
from scripts.synthetic.faces import EYE
from scripts.synthetic.garments import Top
from scripts.synthetic.hair import SKULL
from scripts.synthetic.patterns import neckline_height
from scripts.synthetic.surfaces import (
    RestBody,
    Surface,
    anchored_surface,
    cut_surface,
    drape,
    offset_points,
    sweep,
    tube_faces,
    vertex_on_joint,
)


@dataclass(frozen=True)
class Hat:
    """A beanie or a cap."""

    style: str
    """`beanie` or `cap`."""
    line: float
    """Height y of its rim over the forehead."""
    fabric: Fabric
    brim: Color
    """Colour of the brim and of the cuff above the rim."""
    cuff: float
    """Height of the cuff in metres."""


@dataclass(frozen=True)
class Glasses:
    """A pair of glasses."""

    width: float
    """Half width of a lens in metres."""
    height: float
    """Half height of a lens in metres."""
    frame: Color
    dark: bool
    """Opaque lenses: sunglasses."""


def make_collar(body: RestBody, top: Top, clearance: np.ndarray, material: str) -> list[Surface]:
    """Collar or hood of a garment at a distance of `clearance` [V] from the body; empty if it has neither."""
    if top.collar == "shirt":
        return [_shirt_collar(body, top, clearance, material)]
    if top.collar == "hood":
        return [_hood(body, top, clearance, material)]
    return []


def _shirt_collar(body: RestBody, top: Top, clearance: np.ndarray, material: str) -> Surface:
    """Shirt collar: a folded band with two points in front, open between them."""
    x, y, z = np.abs(body.template[:, 0]), body.template[:, 1], body.template[:, 2]
    height = neckline_height(x, y, z)
    front = smoothstep(z, 0.03, 0.09)
    below = top.neck - 0.036 - 0.045 * front * np.exp(-(((x - 0.06) / 0.035) ** 2)) - height
    fall = top.neck - height
    gap = front * (0.004 + 0.55 * fall + 0.5 * top.v_depth * np.clip(fall / 0.1, 0, 1)) - x
    level = np.maximum.reduce([below, height - top.neck - 0.006, np.where(front > 0, gap, -1.0), x - 0.17])
    lift = 0.006 + 0.006 * smoothstep(below, -0.05, 0.0)
    return cut_surface(body, offset_points(body, clearance + lift), level, material)


def _hood(body: RestBody, top: Top, clearance: np.ndarray, material: str) -> Surface:
    """A hood on the back: a roll around the neck, thicker behind."""
    x, y, z = body.template[:, 0], body.template[:, 1], body.template[:, 2]
    near = np.nonzero((np.abs(neckline_height(np.abs(x), y, z) - top.neck + 0.025) < 0.02) & (np.abs(x) < 0.16))[0]
    around = np.arctan2(x[near], z[near] - 0.06)
    angles = np.linspace(-np.pi, np.pi, 41)[2:-2] + np.pi  # from the front over the back to the front
    weight = np.exp(-((angle_between(around, angles[:, None]) / 0.25) ** 2))
    weight /= weight.sum(1, keepdims=True)
    offset = offset_points(body, clearance + 0.008)
    path, paint = weight @ offset[near], weight @ body.template[near]
    behind = 0.5 - 0.5 * np.cos(angles)
    radii = np.stack([0.012 + 0.03 * behind, 0.012 + 0.022 * behind], -1)
    path = path + np.stack([0 * behind, -0.012 * behind, -0.02 * behind], -1)
    points, faces = sweep(path, radii, up=(0, 1, 0))
    trunk = np.nonzero((y < 0.3) & (y > 0.1) & (np.abs(x) < 0.2))[0]
    anchors = trunk[cKDTree(body.points[trunk]).query(np.repeat(path, 10, 0))[1]]
    return anchored_surface(points, np.repeat(paint, 10, 0) + points - np.repeat(path, 10, 0), faces, anchors, material)


def make_hat(body: RestBody, hat: Hat, hair: float) -> list[Surface]:
    """Layers of a hat over hair of a thickness of `hair` metres."""
    x, y, z = np.abs(body.template[:, 0]), body.template[:, 1], body.template[:, 2]
    rim = hat.line - 0.25 * np.maximum(SKULL[2] - z, 0) * (hat.style == "beanie")
    level = np.maximum(rim - y, x - 0.2)
    loft = np.where(level < 0.03, hair + 0.006, 0.0)
    if hat.style == "beanie":
        loft = loft + 0.02 * smoothstep(y, 0.48, 0.53)
    clearance = drape(body, loft, loft, smoothing=12)
    surfaces = [cut_surface(body, offset_points(body, clearance), level, "hat")]
    if hat.style == "cap":
        crown = surfaces[0]
        surfaces.append(_brim(body, crown.points[np.abs(crown.paint[:, 1] - hat.line) < 1e-6]))
    return surfaces


def _brim(body: RestBody, rim: np.ndarray) -> Surface:
    """Brim in front of the forehead, starting at the rim [R, 3] of a cap."""
    angle = np.deg2rad(np.linspace(-70, 70, 29))
    direction = np.stack([np.sin(angle), np.cos(angle)], -1)
    center = rim[:, [0, 2]].mean(0)
    around = np.arctan2(rim[:, 0] - center[0], rim[:, 2] - center[1])
    order = np.argsort(around)
    radius = np.interp(angle, around[order], np.linalg.norm(rim[order][:, [0, 2]] - center, axis=1)) - 0.002
    level = np.interp(angle, around[order], rim[order, 1]) + 0.002
    rows = []
    for share in np.linspace(0, 1, 6):
        x, z = radius * (1 - 0.06 * share) * direction.T
        y = level - share * (0.022 + 0.012 * np.sin(angle) ** 2)
        rows.append(np.stack([center[0] + x, y, center[1] + z + 0.075 * share * np.cos(angle) ** 0.6], -1))
    points = np.concatenate(rows)
    # Paint coordinates below the hat's rim, which gives the whole brim one colour (`materials._hat_color`).
    paint = points * [1, 0, 1]
    return anchored_surface(points, paint, tube_faces(6, 29, closed=False), vertex_on_joint(body, "head"), "hat")


def make_glasses(body: RestBody, glasses: Glasses) -> Surface:
    """Glasses: two rims, a bridge, and temples to the ears."""
    template = body.template
    beside = body.points[(template[:, 1] > 0.41) & (template[:, 1] < 0.45), 0]
    angle = np.linspace(0, 2 * np.pi, 25)
    outline = np.stack([np.cos(angle), np.sin(angle)], -1)
    outline = np.sign(outline) * np.abs(outline) ** 0.7 * [glasses.width, glasses.height]
    parts = []
    for side in (1, -1):
        eye = np.array([side * EYE[0], EYE[1]])
        near = (np.linalg.norm(template[:, :2] - eye, axis=1) < 0.02) & (template[:, 2] > 0.1)
        shift = (body.points[near] - template[near]).mean(0)
        center = np.array([*(eye + [side * 0.002, -0.002] + shift[:2]), body.points[near, 2].max() + 0.008])
        rim = center + np.pad(outline, ((0, 0), (0, 1)))
        hinge = center + [side * glasses.width, 0.006, 0]
        ear = np.array([side * np.abs(beside).max(), hinge[1] + 0.004, center[2] - 0.1])
        parts += [_wire(rim, up=(0, 0, 1)), _wire(hinge + np.linspace(0, 1, 6)[:, None] ** [0.5, 1, 1] * (ear - hinge))]
        if side == 1:
            inner = center + [-glasses.width, 0.004, 0]
            parts.append(_wire(inner - np.linspace(0, 2, 5)[:, None] * [inner[0], 0, 0]))
        if glasses.dark:
            fan = np.stack([np.full(24, 25), np.arange(24), np.arange(24) + 1], 1)
            parts.append((np.concatenate([rim, center[None]]), fan))
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    points = np.concatenate([points for points, _ in parts])
    faces = np.concatenate([corners + start for (_, corners), start in zip(parts, starts)])
    return anchored_surface(points, points, faces, vertex_on_joint(body, "head"), "glasses")


def _wire(path: np.ndarray, up: tuple[float, float, float] = (0, 1, 0)) -> tuple[np.ndarray, np.ndarray]:
    return sweep(path, np.full((len(path), 2), 0.0022), up, sides=6)
