"""Hair as a shell around the skull, cut along the hairline; long styles hang down over neck and back."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from scripts.synthetic.curves import angle_between, smoothstep
from scripts.synthetic.surfaces import (
    RestBody,
    Surface,
    cut,
    cut_surface,
    drape,
    normalized,
    offset_points,
    sweep,
    tube_faces,
    vertex_on_joint,
)
from scripts.synthetic.waves import sample_waves

SKULL = np.array([0.0, 0.44, 0.085])
"""Centre of the skull on the mean body."""
# Height of the hairline on the mean body by angle from the front, in degrees: forehead, temple, in front of the ear,
# above it, behind it, nape.
_HAIRLINE_ANGLES = (0, 35, 58, 72, 84, 96, 112, 126, 140, 180)
_HAIRLINE_HEIGHTS = (0.492, 0.490, 0.468, 0.425, 0.412, 0.432, 0.428, 0.390, 0.368, 0.352)


@dataclass(frozen=True)
class Hair:
    """A hair style."""

    style: str
    """`bald`; `buzz`, `short`, `curly`, `ponytail`, `bun`, which follow the skull; `bob`, `long`, which hang down."""
    volume: float
    """Thickness over the skull in metres."""
    length: float
    """Height y of the ends (bob, long, ponytail)."""
    opening: float
    """Half angle of the opening for the face, in degrees (bob, long)."""
    parting: float
    """x of the parting in metres."""
    fringe: float = 0.0
    """Length of a fringe on the forehead in metres, for styles that follow the skull."""


HANGING = ("bob", "long")


def make_hair(body: RestBody, hair: Hair, rng: np.random.Generator) -> list[Surface]:
    """Layers of a hair style; empty for a bald head."""
    if hair.style == "bald":
        return []
    if hair.style not in HANGING:
        tail = [_tail(body, hair, rng)] if hair.style in ("ponytail", "bun") else []
        return [_cropped_hair(body, hair, rng), *tail]
    columns = 72
    skull = _skull_vertices(body)
    center = SKULL + (body.points[skull] - body.template[skull]).mean(0)
    angle = 2 * np.pi * np.arange(columns) / columns
    # Rows: from the crown over the skull to its equator, then vertically down.
    elevations = np.linspace(90, 0, 14)
    drops = np.arange(0.016, SKULL[1] - hair.length + 1e-6, 0.016)
    template = _shell(body.template, SKULL, angle, elevations, drops, np.zeros(1)).reshape(-1, 3)
    uneven = sample_waves(rng, 0.05, (1, 3, 1), count=12).on_array(template).reshape(-1, columns)
    points = _shell(body.points, center, angle, elevations, drops, hair.volume * (1 + 0.15 * uneven)).reshape(-1, 3)
    return [_cut_shell(body, points, template, _opening(hair, template), columns)]


def _cropped_hair(body: RestBody, hair: Hair, rng: np.random.Generator) -> Surface:
    """Hair that follows the skull: thick on top, thin towards the hairline."""
    template = body.template
    level = hair_covers(hair, template)
    curly = hair.style == "curly"
    uneven = sample_waves(rng, 0.026 if curly else 0.04, count=12).on_array(template)
    bumps = 0.24 if curly else 0.2
    loft = 0.003 + hair.volume * (1 + bumps * uneven) * smoothstep(-level, 0.0, 0.045 if curly else 0.07)
    if hair.style == "short":
        # Combed away from the parting: flat beside it, thicker on the wide side.
        wide = -np.sign(hair.parting) * (template[:, 0] - hair.parting)
        loft = loft * (1 - 0.6 * np.exp(-((wide / 0.012) ** 2)) + 0.35 * smoothstep(wide, 0.0, 0.04))
    floor = np.full(len(template), 0.003)
    clearance = drape(body, floor, np.where(level < 0, loft, 0.003), smoothing=1 if curly else 2)
    return cut_surface(body, offset_points(body, clearance), level, "hair")


def _tail(body: RestBody, hair: Hair, rng: np.random.Generator) -> Surface:
    """A ponytail or a bun on the back of the head."""
    skull = _skull_vertices(body)
    shift = (body.points[skull] - body.template[skull]).mean(0)
    share = np.linspace(0, 1, 14)
    if hair.style == "bun":
        height = 0.47 + 1.2 * hair.fringe
        path = np.array([0, height, -0.012]) + np.linspace(-0.042, 0.042, 14)[:, None] * [0, 0.35, -0.94]
        radii = np.sqrt(np.maximum(1 - (2 * share - 1) ** 2, 0.002)) * 0.042
    else:
        root = np.array([0, 0.475, -0.005])
        fall = np.maximum(root[1] - hair.length, 0.1)
        drop = 0.01 * np.sin(np.pi * share) - fall * share**1.6
        path = root + np.stack([0 * share, drop, -0.085 * np.sin(1.9 * share)], -1)
        radii = 0.03 * np.interp(share, [0, 0.08, 0.35, 0.8, 1], [0.6, 0.5, 1.0, 0.8, 0.15])
    rings = np.stack([radii, 0.9 * radii], -1)
    template, faces = sweep(path, rings, up=(0.9, 0, 0.1), sides=14)
    uneven = sample_waves(rng, 0.03, count=8).on_array(template)
    template = template + 0.003 * uneven[:, None] * normalized(template - np.repeat(path, 14, 0))
    points = template + shift
    return _anchored_to_head_and_back(body, points, template, faces, 0.7 * smoothstep(template[:, 1], 0.36, 0.2))


def _anchored_to_head_and_back(
    body: RestBody, points: np.ndarray, paint: np.ndarray, faces: np.ndarray, on_back: np.ndarray
) -> Surface:
    """Hair skinned to the head and, with weight `on_back` [M], to the nearest vertex of the back."""
    x, y, z = np.abs(body.template[:, 0]), body.template[:, 1], body.template[:, 2]
    back = np.nonzero((y < 0.3) & (z < 0.06) & (x < 0.16))[0]
    beside = back[cKDTree(body.points[back]).query(points)[1]]
    return Surface(
        points=points,
        paint=paint,
        faces=faces,
        anchors=np.stack([np.full(len(points), vertex_on_joint(body, "head")), beside], -1),
        anchor_weights=np.stack([1 - on_back, on_back], -1),
        two_sided=np.ones(len(faces), bool),
        material="hair",
    )


def hair_covers(hair: Hair, template: np.ndarray) -> np.ndarray:
    """Signed distance [V], negative where hair covers the skin of the head."""
    x, y = np.abs(template[:, 0]), template[:, 1]
    if hair.style == "bald":
        return np.ones(len(template))
    if hair.style not in HANGING:
        ear = np.minimum(x - 0.0765, 0.44 - y)
        elsewhere = np.maximum(0.3 - y, x - 0.2)
        # Locks of different lengths.
        locks = 0.003 * np.sin(150 * template[:, 0] + 300 * hair.parting) + 0.002 * np.sin(331 * template[:, 0])
        locks = locks if hair.volume > 0.004 else 0.0
        fringe = (hair.fringe + locks) * smoothstep(_angle_from_front(template), 70, 35)
        return np.maximum.reduce([_hairline(template) - fringe - y, ear, elsewhere])
    scalp = np.where((x > 0.0745) & (y > 0.35), -1.0, 0.41 - y)
    return np.maximum(_opening(hair, template), scalp)


def _skull_vertices(body: RestBody) -> np.ndarray:
    return (body.template[:, 1] > 0.45) & (np.abs(body.template[:, 0]) < 0.2)


def _shell(vertices, center, angle, elevations, drops, volume) -> np.ndarray:
    """Rings of points [rows, columns, 3] around the skull and, below it, around neck and back.

    Args:
        vertices: Vertices of the body, [V, 3].
        center: Centre of its skull.
        angle: Angle of each column about it, in radians from the front to the left.
        elevations: Elevations of the rows over the skull, in degrees.
        drops: Distances of the rows below the centre, in metres.
        volume: Distance from the body in metres, broadcastable to [rows, columns].
    """
    near = vertices[(vertices[:, 1] > center[1] - 0.25) & (np.abs(vertices[:, 0]) < 0.2)]
    rows = _rings_over_skull(near[near[:, 1] > center[1] - 0.03] - center, center, angle, elevations)
    rows += _rings_below(near, center, angle, rows[-1], drops)
    shell = np.stack(rows)
    outward = shell - center
    outward[len(elevations) :, :, 1] = 0
    outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-9)
    shell = shell + outward * np.broadcast_to(volume, shell.shape[:2])[..., None]
    # Outlines of the body are ragged, hence smoothing across rows and columns below the equator.
    for _ in range(4):
        mean = (np.roll(shell, 1, 1) + np.roll(shell, -1, 1) + shell) / 3
        mean[1:-1] = (mean[2:] + mean[:-2] + mean[1:-1]) / 3
        shell[len(elevations) // 2 :] = mean[len(elevations) // 2 :]
    return shell


def _rings_over_skull(skull, center, angle, elevations) -> list[np.ndarray]:
    """A ring [columns, 3] per elevation around a skull, whose vertices are given relative to its centre."""
    x_axis, z_axis = np.sin(angle), np.cos(angle)
    # Hair does not follow the ears.
    side_limit = np.abs(skull[skull[:, 1] > 0.015, 0]).max()
    skull = skull[np.abs(skull[:, 0]) <= side_limit]
    rows = []
    for elevation in np.deg2rad(elevations):
        direction = np.stack(
            [np.cos(elevation) * x_axis, np.full_like(x_axis, np.sin(elevation)), np.cos(elevation) * z_axis], -1
        )
        alignment = direction @ (skull / np.linalg.norm(skull, axis=-1, keepdims=True)).T
        weight = np.exp(60 * (alignment - 1))
        radius = (weight * np.linalg.norm(skull, axis=-1)).sum(1) / weight.sum(1)
        rows.append(center + direction * (radius * 1.02)[:, None])
    return rows


def _rings_below(near, center, angle, equator, drops) -> list[np.ndarray]:
    """A ring [columns, 3] per drop below the equator, outside of neck and back (vertices `near`)."""
    rows = []
    for drop in drops:
        y = center[1] - drop
        ring = equator.copy()
        ring[:, 1] = y
        # The ring stays outside of the outline of neck and back at this height.
        slice_ = near[np.abs(near[:, 1] - y) < 0.02][:, [0, 2]] - center[[0, 2]]
        taper = 1 - 0.12 * smoothstep(drop, 0.04, 0.16)
        radius = np.linalg.norm(ring[:, [0, 2]] - center[[0, 2]], axis=-1) * taper
        if len(slice_):
            across = np.arctan2(slice_[:, 0], slice_[:, 1])
            beside = angle_between(across, angle[:, None]) < 0.25
            body_radius = np.where(beside, np.linalg.norm(slice_, axis=-1), 0).max(1)
            back = angle_between(angle, 0.0) > np.deg2rad(100)
            radius = np.where(back, np.maximum(radius, np.minimum(body_radius + 0.012, 0.24)), radius)
        ring[:, 0] = center[0] + radius * np.sin(angle)
        ring[:, 2] = center[2] + radius * np.cos(angle)
        rows.append(ring)
    return rows


def _angle_from_front(template: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.arctan2(np.abs(template[:, 0] - SKULL[0]), template[:, 2] - SKULL[2]))


def _hairline(template: np.ndarray) -> np.ndarray:
    return np.interp(_angle_from_front(template), _HAIRLINE_ANGLES, _HAIRLINE_HEIGHTS)


def _opening(hair: Hair, template: np.ndarray) -> np.ndarray:
    """Signed distance, negative outside of the opening for the face, which is wider below the chin."""
    angle, y = _angle_from_front(template), template[:, 1]
    forehead = 0.488 - 0.25 * np.minimum(np.abs(template[:, 0] - hair.parting), 0.05)
    half_angle = hair.opening + 45 * smoothstep(y, 0.36, 0.27)
    beside = np.deg2rad(half_angle - angle) * 0.09
    above = forehead - y
    return np.minimum(beside, above)


def _cut_shell(body: RestBody, points, template, level, columns) -> Surface:
    """The part of a shell with negative level, skinned to the head and, lower down, to the back."""
    rows = len(points) // columns
    pairs, weights, faces = cut(tube_faces(rows, columns), level)
    points = (weights[..., None] * points[pairs]).sum(1)
    template = (weights[..., None] * template[pairs]).sum(1)
    return _anchored_to_head_and_back(body, points, template, faces, smoothstep(template[:, 1], 0.33, 0.2))
