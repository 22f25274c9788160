"""The mirror symmetric triangle mesh of the body, with texture coordinates and named parts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from scripts.standin.makehuman import MakeHuman

PARTS = ("body", "head", "hand.L", "hand.R", "foot.L", "foot.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity")
"""Charts of the texture; `Surface.parts` holds indices into this tuple."""


@dataclass(frozen=True)
class Surface:
    """A closed triangle mesh with texture coordinates per corner."""

    faces: Int[np.ndarray, "F 3"]
    uv_faces: Int[np.ndarray, "F 3"]
    parts: Int[np.ndarray, " F"]

    def vertices_of(self, *names: str) -> Int[np.ndarray, " n"]:
        """Vertices of the faces of some parts."""
        return np.unique(self.faces[np.isin(self.parts, [PARTS.index(name) for name in names])])

    def vertices_only_of(self, *names: str) -> Int[np.ndarray, " n"]:
        """Vertices of the faces of some parts that belong to no other part."""
        return np.setdiff1d(self.vertices_of(*names), self.vertices_of(*(name for name in PARTS if name not in names)))


def body_surface(human: MakeHuman) -> Surface:
    """Triangulate the group `body` of the base mesh, and name its parts."""
    quads, uv_quads = human.groups["body"].vertices, human.groups["body"].uvs
    symmetric = symmetrised(human.vertices, human.mirror)
    first = _splits_at_first_corner(quads, symmetric, human.mirror)
    corners = np.where(first[:, None], [0, 1, 2, 0, 2, 3], [1, 2, 3, 1, 3, 0])
    faces = np.take_along_axis(quads, corners, axis=1).reshape(-1, 3)
    uv_faces = np.take_along_axis(uv_quads, corners, axis=1).reshape(-1, 3)
    return Surface(faces, uv_faces, _name_parts(faces, uv_faces, human))


def symmetrised(
    points: Float[np.ndarray, "*batch N 3"], mirror: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "*batch N 3"]:
    """Mean of points and their mirror images; exactly symmetric, because sums commute."""
    return 0.5 * (points + points[..., mirror, :] * [-1, 1, 1])


def _splits_at_first_corner(
    quads: Int[np.ndarray, "F 4"], symmetric: Float[np.ndarray, "N 3"], mirror: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " F"]:
    """True for quads to be split at the first corner: along the shorter diagonal, symmetrically on both sides."""
    on_left = symmetric[quads, 0].mean(1) >= 0
    left = np.where(on_left[:, None], quads, mirror[quads])
    diagonals = [np.linalg.norm(symmetric[left[:, i]] - symmetric[left[:, i + 2]], axis=1) for i in (0, 1)]
    lower_index = np.minimum(left[:, 0], left[:, 2]) < np.minimum(left[:, 1], left[:, 3])
    return np.where(np.abs(diagonals[0] - diagonals[1]) < 1e-7, lower_index, diagonals[0] < diagonals[1])


def _name_parts(faces: np.ndarray, uv_faces: np.ndarray, human: MakeHuman) -> Int[np.ndarray, " F"]:
    """Name the charts of the texture by their size and position."""
    starts, ends = uv_faces[:, [0, 1]].T.ravel(), uv_faces[:, [1, 2]].T.ravel()
    edges = coo_matrix((np.ones(len(starts)), (starts, ends)), shape=(len(human.uvs),) * 2)
    chart_of_face = connected_components(edges, directed=False)[1][uv_faces[:, 0]]
    parts = np.empty(len(faces), dtype=np.int64)
    for chart in np.unique(chart_of_face):
        inside = chart_of_face == chart
        x, y, _ = human.vertices[np.unique(faces[inside])].mean(0)
        parts[inside] = PARTS.index(_part_name(int(inside.sum()), x, y))
    return parts


def _part_name(num_faces: int, x: float, y: float) -> str:
    if num_faces > 7000:
        return "body"
    if num_faces > 5000:
        return "head"
    if abs(x) < 0.01:
        return "mouth_cavity"
    name = "eye_cavity" if y > 0.5 else "hand" if y > 0 else "foot"
    return f"{name}.{'L' if x > 0 else 'R'}"
