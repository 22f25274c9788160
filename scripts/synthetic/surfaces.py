"""Meshes of a person's layers, skinned to the vertices of a body model, and the geometry that builds them.

Rest pose, metres, y up, facing +z, left is +x. Runs once per person, in NumPy.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from smpl_renderer.body_model import JOINT_NAMES, BodyModel


@dataclass(frozen=True)
class Surface:
    """One layer of a person: skin, a garment, hair, a shoe."""

    points: Float[np.ndarray, "M 3"]
    """Rest-pose positions of this person."""
    paint: Float[np.ndarray, "M 3"]
    """Points of the mean body at which colours are evaluated, in the order of `points`."""
    faces: Int[np.ndarray, "F 3"]
    anchors: Int[np.ndarray, "M K"]
    """Body vertices whose transforms are blended at a point."""
    anchor_weights: Float[np.ndarray, "M K"]
    two_sided: Bool[np.ndarray, " F"]
    """Faces that are visible from both sides."""
    material: str
    """One of `materials.MATERIALS`."""


@dataclass(frozen=True)
class RestBody:
    """A person's body in the rest pose, with the quantities that clothes are built from."""

    points: Float[np.ndarray, "V 3"]
    template: Float[np.ndarray, "V 3"]
    """Vertices of the mean body."""
    faces: Int[np.ndarray, "F 3"]
    normals: Float[np.ndarray, "V 3"]
    """Outward unit normals, smoothed so that offset surfaces do not intersect themselves in creases."""
    average: sp.csr_matrix
    """Averaging matrix over the neighbours of each vertex, [V, V]."""
    lbs_weights: Float[np.ndarray, "V J"]


def rest_body(body: BodyModel, betas: Float[np.ndarray, " S"]) -> RestBody:
    """Body in the rest pose for some shape coefficients."""
    template = body.v_template.double().cpu().numpy()
    faces = body.faces.cpu().numpy()
    points = template + body.shapedirs.double().cpu().numpy() @ betas
    average = neighbor_average(faces, len(template))
    normals = vertex_normals(points, faces)
    for _ in range(4):
        normals = normalized(0.4 * normals + 0.6 * (average @ normals))
    return RestBody(
        points=points,
        template=template,
        faces=faces,
        normals=normals,
        average=average,
        lbs_weights=body.lbs_weights.cpu().numpy(),
    )


def vertex_on_joint(body: RestBody, joint: str) -> int:
    """Index of the vertex with the largest skinning weight of a joint (one of `JOINT_NAMES`)."""
    return int(body.lbs_weights[:, JOINT_NAMES.index(joint)].argmax())


def normalized(vectors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Vectors scaled to unit length; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def neighbor_average(faces: Int[np.ndarray, "F 3"], count: int) -> sp.csr_matrix:
    """Matrix that replaces the value at each vertex by the mean over its neighbours."""
    start, end = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    ones = np.ones(2 * len(start))
    adjacency = sp.csr_matrix((ones, (np.r_[start, end], np.r_[end, start])), shape=(count, count))
    adjacency.data[:] = 1
    degree = np.maximum(np.asarray(adjacency.sum(1)).ravel(), 1)
    return (sp.diags(1 / degree) @ adjacency).tocsr()


def vertex_normals(points: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Area-weighted unit normals of a mesh."""
    corners = points[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(points)
    for corner in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], face_normals[:, axis], len(points))
    return normalized(normals)


def drape(
    body: RestBody,
    floor: Float[np.ndarray, " V"],
    loft: Float[np.ndarray, " V"],
    smoothing: int,
    cling: Float[np.ndarray, " V"] | float = 0.0,
) -> Float[np.ndarray, " V"]:
    """Distance of a cloth from the body at each vertex, in metres.

    Starts at `loft` and is smoothed, which bridges hollows (armpits, the small of the back) as cloth does, but is
    nowhere less than `floor`. Where `cling` is 1 (waistbands, collars) it equals `floor`. Points stay on the normals of
    their vertices, so that layers with more clearance stay outside of layers with less, in any pose.
    """
    clearance = np.maximum(floor, loft)
    for _ in range(smoothing):
        points = offset_points(body, clearance)
        pull = ((body.average @ points - points) * body.normals).sum(-1)
        clearance = np.maximum(clearance + 0.6 * pull, floor)
    return floor + (clearance - floor) * (1 - cling)


def offset_points(body: RestBody, clearance: Float[np.ndarray, " V"]) -> Float[np.ndarray, "V 3"]:
    """Vertices of the body, moved along their normals by `clearance` metres."""
    return body.points + body.normals * clearance[:, None]


def cut(
    faces: Int[np.ndarray, "F 3"], level: Float[np.ndarray, " V"]
) -> tuple[Int[np.ndarray, "M 2"], Float[np.ndarray, "M 2"], Int[np.ndarray, "G 3"]]:
    """Keep the part of a mesh where `level` is negative; triangles are cut along its zero line.

    Returns:
        Each new vertex as two old vertices and their weights (a kept vertex appears twice), and the new faces.
    """
    inside = level < 0
    order = inside[faces].sum(1)
    kept = faces[order == 3]
    # Rotate the corners so that the one on the other side comes first.
    one = _first_corner(faces[order == 1], inside[faces[order == 1]])
    two = _first_corner(faces[order == 2], ~inside[faces[order == 2]])
    edges = np.concatenate([one[:, [0, 1]], one[:, [0, 2]], two[:, [1, 0]], two[:, [2, 0]]])
    unique, inverse = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    old = np.unique(np.concatenate([kept.ravel(), one[:, 0], two[:, 1], two[:, 2]]))
    renumber = np.full(len(level), -1)
    renumber[old] = np.arange(len(old))
    new = inverse.ravel() + len(old)
    on_one_b, on_one_c, on_two_b, on_two_c = np.split(new, np.cumsum([len(one), len(one), len(two)]))
    result = np.concatenate(
        [
            renumber[kept],
            np.stack([renumber[one[:, 0]], on_one_b, on_one_c], 1),
            np.stack([renumber[two[:, 1]], renumber[two[:, 2]], on_two_b], 1),
            np.stack([renumber[two[:, 2]], on_two_c, on_two_b], 1),
        ]
    )
    start, end = level[unique[:, 0]], level[unique[:, 1]]
    share = start / (start - end)
    pairs = np.concatenate([np.stack([old, old], 1), unique])
    weights = np.concatenate([np.tile([1.0, 0.0], (len(old), 1)), np.stack([1 - share, share], 1)])
    return pairs, weights, result


def _first_corner(faces: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Rotate each face so that its marked corner is the first."""
    corner = marked.argmax(1) if len(faces) else np.zeros(0, int)
    return np.stack([faces[np.arange(len(faces)), (corner + k) % 3] for k in range(3)], 1)


def cut_surface(
    body: RestBody,
    points: Float[np.ndarray, "V 3"],
    level: Float[np.ndarray, " V"],
    material: str,
    rim: float = np.inf,
    paint: Float[np.ndarray, "V 3"] | None = None,
) -> Surface:
    """A layer with the body's topology, cut along the zero line of `level`.

    Args:
        body: Body that the layer covers.
        points: Rest-pose positions of the layer at the body's vertices.
        level: Negative where the layer is kept; about metres from the cut.
        material: See `Surface.material`.
        rim: Distance from the cut up to which the inside of the layer is visible.
        paint: Paint coordinates at the body's vertices; by default those of the mean body.
    """
    pairs, weights, faces = cut(body.faces, level)

    def blend(values):
        return (weights[..., None] * values[pairs]).sum(1)

    near_rim = (weights * level[pairs]).sum(1) > -rim
    return Surface(
        points=blend(points),
        paint=blend(body.template if paint is None else paint),
        faces=faces,
        anchors=pairs,
        anchor_weights=weights,
        two_sided=near_rim[faces].any(1),
        material=material,
    )


def sweep(
    path: Float[np.ndarray, "R 3"], radii: Float[np.ndarray, "R 2"], up: tuple[float, float, float], sides: int = 10
) -> tuple[Float[np.ndarray, "M 3"], Int[np.ndarray, "F 3"]]:
    """Points and faces of a tube along a path; faces are oriented outwards.

    Args:
        path: Centre of each ring; nowhere parallel to `up`.
        radii: Half widths of each ring, across `up` and along it.
        up: Approximate direction of the second half width.
        sides: Number of points of a ring.
    """
    tangents = normalized(np.gradient(path, axis=0))
    across = normalized(np.cross(np.asarray(up), tangents))
    upward = np.cross(tangents, across)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.cos(angle)[None, :, None] * (radii[:, :1] * across)[:, None]
    ring = ring + np.sin(angle)[None, :, None] * (radii[:, 1:] * upward)[:, None]
    return (path[:, None] + ring).reshape(-1, 3), tube_faces(len(path), sides)[:, ::-1]


def tube_faces(rows: int, columns: int, closed: bool = True) -> Int[np.ndarray, "F 3"]:
    """Triangles between rings of vertices; rings run from top to bottom, columns from +z over +x."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    a = (row * columns + column).ravel()
    b = (row * columns + (column + 1) % columns).ravel()
    c, d = a + columns, b + columns
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def anchored_surface(
    points: Float[np.ndarray, "M 3"],
    paint: Float[np.ndarray, "M 3"],
    faces: Int[np.ndarray, "F 3"],
    anchors: Int[np.ndarray, " M"] | int,
    material: str,
) -> Surface:
    """A layer each point of which is skinned to one body vertex."""
    anchors = np.broadcast_to(anchors, len(points))
    weights, two_sided = np.ones((len(points), 1)), np.ones(len(faces), bool)
    return Surface(points, paint, faces, anchors[:, None], weights, two_sided, material)
