"""A triangle mesh with reversible collapses of vertices onto neighbours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Undo:
    """The state that a collapse has overwritten."""

    faces: dict[int, tuple[list[int], list[int]]]
    vertex_faces: dict[int, set[int]]


class CollapsibleMesh:
    """Faces with texture corners. Removed faces are None; vertices keep their indices."""

    def __init__(self, faces: Int[np.ndarray, "F 3"], uv_faces: Int[np.ndarray, "F 3"], num_vertices: int):
        self.faces: list[list[int] | None] = faces.tolist()
        self.uvs: list[list[int]] = uv_faces.tolist()
        self.vertex_faces: list[set[int]] = [set() for _ in range(num_vertices)]
        for index, face in enumerate(self.faces):
            for vertex in face:
                self.vertex_faces[vertex].add(index)

    def neighbors(self, vertex: int) -> set[int]:
        return {other for face in self.vertex_faces[vertex] for other in self.faces[face]} - {vertex}

    def uv_at(self, face: int, vertex: int) -> int:
        return self.uvs[face][self.faces[face].index(vertex)]

    def is_on_seam(self, vertex: int) -> bool:
        """True if a vertex lies on a seam of the texture."""
        return len({self.uv_at(face, vertex) for face in self.vertex_faces[vertex]}) > 1

    def is_seam_edge(self, u: int, v: int) -> bool:
        """True if an edge lies on a seam of the texture."""
        shared = [face for face in self.vertex_faces[u] if v in self.faces[face]]
        if len(shared) != 2:
            return True
        a, b = shared
        return self.uv_at(a, u) != self.uv_at(b, u) or self.uv_at(a, v) != self.uv_at(b, v)

    def keeps_topology(self, u: int, v: int) -> bool:
        """Link condition for collapsing u onto v: the surface stays closed and keeps its genus."""
        ring_u, ring_v = self.neighbors(u), self.neighbors(v)
        shared = ring_u & ring_v
        return len(shared) == 2 and len(ring_u | ring_v) >= 6 and all(len(self.neighbors(x)) > 3 for x in shared)

    def collapse(self, u: int, v: int) -> Undo:
        """Collapse u onto its neighbour v: removes their two shared faces, and moves the other faces of u to v."""
        touched = {vertex for face in self.vertex_faces[u] for vertex in self.faces[face]}
        undo = Undo(
            faces={face: (list(self.faces[face]), list(self.uvs[face])) for face in self.vertex_faces[u]},
            vertex_faces={vertex: set(self.vertex_faces[vertex]) for vertex in touched},
        )
        shared = sorted(face for face in self.vertex_faces[u] if v in self.faces[face])
        # Texture corners of u are replaced by those of v on the same side of a seam.
        uv_moves = {self.uv_at(face, u): self.uv_at(face, v) for face in shared}
        fallback = next(iter(uv_moves.values()))
        for face in shared:
            for vertex in self.faces[face]:
                self.vertex_faces[vertex].discard(face)
            self.faces[face] = None
        for face in self.vertex_faces[u]:
            corner = self.faces[face].index(u)
            self.faces[face][corner] = v
            self.uvs[face][corner] = uv_moves.get(self.uvs[face][corner], fallback)
            self.vertex_faces[v].add(face)
        self.vertex_faces[u] = set()
        return undo

    def restore(self, undo: Undo) -> None:
        """Undo the last collapse."""
        for face, (corners, uvs) in undo.faces.items():
            self.faces[face], self.uvs[face] = corners, uvs
        for vertex, faces in undo.vertex_faces.items():
            self.vertex_faces[vertex] = faces
