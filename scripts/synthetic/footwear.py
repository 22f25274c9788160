"""Shoes, boots, sandals and socks as meshes.

Heights y are in metres on the mean body: ankles at -1.09, knees at -0.65.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from scripts.synthetic.curves import smoothstep
from scripts.synthetic.surfaces import (
    RestBody,
    Surface,
    anchored_surface,
    cut_surface,
    offset_points,
    tube_faces,
)


@dataclass(frozen=True)
class Shoes:
    """Shoes and socks."""

    kind: str
    """`shoes`, `boots` or `sandals`."""
    top: float
    """Height y of the rim."""
    sole: float
    """Thickness in metres."""
    socks: float | None = None
    """Height y of the upper end of the socks; None without socks."""


def make_footwear(body: RestBody, shoes: Shoes) -> list[Surface]:
    """Layers of shoes and, where present, of socks."""
    surfaces = _sandals(body, shoes) if shoes.kind == "sandals" else _closed_shoes(body, shoes)
    if shoes.socks is not None:
        y = body.template[:, 1]
        level = np.maximum(y - shoes.socks, shoes.top - 0.03 - y)
        surfaces.append(cut_surface(body, offset_points(body, np.full(len(y), 0.003)), level, "socks"))
    return surfaces


def footwear_hides(shoes: Shoes, template: np.ndarray) -> np.ndarray:
    """Signed distance [V], negative where the skin of the feet is covered."""
    top = -2.0 if shoes.kind == "sandals" else shoes.top
    return template[:, 1] - (top if shoes.socks is None else max(top, shoes.socks))


def footwear_height(shoes: Shoes) -> float:
    """Height y up to which footwear lies under trousers."""
    return max(shoes.top, shoes.top if shoes.socks is None else shoes.socks)


def _sandals(body: RestBody, shoes: Shoes) -> list[Surface]:
    """A strap over the toes, one around the ankle, and a sole under each foot."""
    y, z = body.template[:, 1], body.template[:, 2]
    toes = np.maximum(np.abs(z - 0.14 - 0.3 * (y + 1.13)) - 0.02, y + 1.06)
    ankle = np.maximum(np.abs(y + 1.085 + 0.35 * (z - 0.03)) - 0.011, z - 0.1)
    instep = np.maximum(np.maximum(np.abs(np.abs(body.template[:, 0]) - 0.142) - 0.009, y + 1.07), 0.08 - z)
    level = np.minimum(np.minimum(toes, ankle), np.maximum(instep, z - 0.14))
    points = offset_points(body, np.full(len(y), 0.005))
    surfaces = [cut_surface(body, points, level, "shoes")]
    ground = body.points[:, 1].min()
    for side in (1, -1):
        foot = np.nonzero((side * body.template[:, 0] > 0) & (y < -1.11))[0]
        outline = body.points[foot][:, [0, 2]]
        # Hull vertices in the order of a tube's columns, from z to x.
        hull = outline[ConvexHull(outline).vertices][::-1]
        middle = hull.mean(0)
        hull = middle + (hull - middle) * (1 + 0.006 / np.linalg.norm(hull - middle, axis=1, keepdims=True))
        inner = np.broadcast_to(middle, hull.shape)
        top, bottom = ground + 0.004, ground - shoes.sole
        rings = [np.insert(r, 1, y, axis=1) for r, y in ((inner, top), (hull, top), (hull, bottom), (inner, bottom))]
        points = np.concatenate(rings)
        anchors = foot[cKDTree(body.points[foot]).query(points)[1]]
        paint = body.template[anchors] * [1, 0, 1] + [0, body.template[:, 1].min(), 0]
        surfaces.append(anchored_surface(points, paint, tube_faces(4, len(hull)), anchors, "shoes"))
    return surfaces


def _closed_shoes(body: RestBody, shoes: Shoes) -> list[Surface]:
    """A shaft around each ankle, and the convex hull of each foot on a flat sole."""
    template = body.template
    points = offset_points(body, 0.006 + 0.003 * smoothstep(template[:, 1], -1.08, -1.11))
    foot = template[:, 1] < shoes.top + 0.05
    ground = body.points[:, 1].min() - shoes.sole
    # Soles: points near the ground become flat, with a nearly vertical edge.
    above = template[:, 1] - template[:, 1].min()
    points[:, 1] = np.where(foot, ground + (points[:, 1] - ground) * smoothstep(above, 0.004, 0.016), points[:, 1])
    # Paint coordinates from the height above the ground, so that the sole's border is horizontal.
    paint = np.stack([template[:, 0], template[:, 1].min() + points[:, 1] - ground, template[:, 2]], -1)
    level = template[:, 1] - shoes.top + 0.25 * np.maximum(template[:, 2] - 0.09, 0)
    shaft = np.maximum(level, -1.118 - template[:, 1])
    surfaces = [cut_surface(body, points, shaft, "shoes", 0.03, paint)]
    for side in (1, -1):
        inside = np.nonzero((side * template[:, 0] > 0) & (template[:, 1] < -1.1))[0]
        hull = ConvexHull(points[inside])
        # The orientation of triangles is arbitrary in Qhull.
        a, b, c = (points[inside][hull.simplices[:, k]] for k in range(3))
        inverted = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
        faces = np.where(inverted[:, None], hull.simplices[:, ::-1], hull.simplices)
        surfaces.append(anchored_surface(points[inside], paint[inside], faces, inside, "shoes"))
    return surfaces
