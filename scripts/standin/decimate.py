"""Decimation of a closed surface by half-edge collapses, in mirrored pairs.

A vertex is always collapsed onto an existing one, so that weights, shapes and texture coordinates are selected by
index. The cost is the quadric error (Garland and Heckbert, 1997) over several bodies, plus a term of the edge length
that keeps the mesh even.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from scripts.standin.halfedge import CollapsibleMesh
from scripts.standin.surface import Surface

MAX_VALENCE = 11
MAX_EDGE = 0.045  # metres, in the mean body
MIN_NORMAL_COSINE = 0.3  # between the normals of a face before and after a collapse
MIN_AREA_RATIO = 0.22  # twice the area over the squared longest edge; excludes slivers
LENGTH_WEIGHT = 1e-3
MAX_ROUNDS = 6


@dataclass(frozen=True)
class DecimationTask:
    """Bodies and vertex weights of a decimation; all mirror symmetric."""

    positions: Float[np.ndarray, "S V 3"]
    """S bodies, the mean body first; exactly symmetric."""
    mirror: Int[np.ndarray, " V"]
    importance: Float[np.ndarray, " V"]
    """Factor on the cost of removing a vertex."""
    hidden: Bool[np.ndarray, " V"]
    """Vertices that are removed first at any cost, such as those inside of the mouth."""
    pinned: Bool[np.ndarray, " V"]
    """Vertices that are kept."""


@dataclass(frozen=True)
class Decimated:
    """The decimated mesh; its faces use new indices."""

    kept: Int[np.ndarray, " v"]
    """Old index of each vertex."""
    surface: Surface
    stuck: dict[int, list[int]]
    """Hidden vertices that could not be removed, and the visible vertices around them (old indices)."""


def decimate(surface: Surface, task: DecimationTask, target: int) -> Decimated:
    """Collapse vertices until `target` remain.

    Raises:
        RuntimeError: If no further collapse is possible before that.
    """
    run = _Decimation(surface, task)
    run.reduce_to(target)
    alive = np.array([bool(faces) for faces in run.mesh.vertex_faces])
    kept = np.flatnonzero(alive)
    new_index = np.full(len(alive), -1)
    new_index[kept] = np.arange(len(kept))
    left = [index for index, face in enumerate(run.mesh.faces) if face is not None]
    stuck = {int(u): sorted(x for x in run.mesh.neighbors(u) if not task.hidden[x]) for u in kept if task.hidden[u]}
    smaller = Surface(
        faces=new_index[np.array([run.mesh.faces[index] for index in left])],
        uv_faces=np.array([run.mesh.uvs[index] for index in left]),
        parts=surface.parts[left],
    )
    return Decimated(kept, smaller, stuck)


class _Decimation:
    def __init__(self, surface: Surface, task: DecimationTask):
        num_vertices = task.positions.shape[1]
        self.mesh = CollapsibleMesh(surface.faces, surface.uv_faces, num_vertices)
        self.task = task
        self.mirror = task.mirror.tolist()
        self.homogeneous = np.concatenate([task.positions, np.ones((*task.positions.shape[:2], 1))], axis=-1)
        self.quadrics = _vertex_quadrics(task.positions, surface.faces)
        middle = task.mirror == np.arange(num_vertices)
        self.side = np.where(middle, 0, np.sign(task.positions[0, :, 0])).astype(int)
        self.version = [0] * num_vertices
        self.count = num_vertices
        # Candidates of the left half and the middle only; the right half mirrors the left.
        self.heap: list[tuple[float, int, int, int, int]] = []

    def reduce_to(self, target: int) -> None:
        rounds = 0
        while self.count > target:
            if not self.heap:
                rounds += 1
                if rounds > MAX_ROUNDS:
                    raise RuntimeError(f"stuck at {self.count} vertices, wanted {target}")
                self._push(u for u in range(len(self.version)) if self.side[u] >= 0 and self._is_alive(u))
                continue
            _, u, v, version_u, version_v = heapq.heappop(self.heap)
            if (
                self.version[u] != version_u
                or self.version[v] != version_v
                or not (self._is_alive(u) and self._is_alive(v))
            ):
                continue
            size = 1 if self.side[u] == 0 else 2
            if self.count - size >= target and self._try_collapse(u, v):
                self.count -= size

    def _is_alive(self, vertex: int) -> bool:
        return bool(self.mesh.vertex_faces[vertex])

    def _try_collapse(self, u: int, v: int) -> bool:
        """Collapse u onto v, and their mirror images unless u is in the middle."""
        if not self._is_allowed(u, v):
            return False
        if self.side[u] == 0:
            self._collapse(u, v)
        else:
            image_u, image_v = self.mirror[u], self.mirror[v]
            if image_u in self.mesh.neighbors(u) or not self._is_allowed(image_u, image_v):
                return False
            saved_quadric = self.quadrics[v].copy()
            undo = self._collapse(u, v)
            if not self._is_allowed(image_u, image_v):  # the first collapse of the pair has made the second impossible
                self.mesh.restore(undo)
                self.quadrics[v] = saved_quadric
                return False
            self._collapse(image_u, image_v)
        changed = {v} | self.mesh.neighbors(v)
        for x in changed:
            self.version[x] += 1
        self._push(x for x in sorted(changed) if self.side[x] >= 0)
        return True

    def _collapse(self, u: int, v: int):
        self.quadrics[v] += self.quadrics[u]
        return self.mesh.collapse(u, v)

    def _push(self, vertices: Iterator[int]) -> None:
        for u in vertices:
            on_seam = self.mesh.is_on_seam(u)
            ring = sorted(self.mesh.neighbors(u))
            is_junction = on_seam and sum(self.mesh.is_seam_edge(u, x) for x in ring) != 2
            for v in ring:
                if self._is_candidate(u, v, on_seam, is_junction):
                    heapq.heappush(self.heap, (self._cost(u, v), u, v, self.version[u], self.version[v]))

    def _is_candidate(self, u: int, v: int, on_seam: bool, is_junction: bool) -> bool:
        """Conditions that depend only on topology, seams and the task."""
        hidden, pinned = self.task.hidden, self.task.pinned
        if self.side[u] * self.side[v] < 0 or (self.side[u] == 0 and self.side[v] != 0):
            return False  # across the middle, or away from it
        if hidden[u]:
            return True
        if hidden[v] or pinned[u] or pinned[v]:
            return False
        return not on_seam or (not is_junction and self.mesh.is_seam_edge(u, v))

    def _cost(self, u: int, v: int) -> float:
        positions = self.task.positions
        squared_length = ((positions[:, u] - positions[:, v]) ** 2).sum(1).mean()
        if self.task.hidden[u]:
            cost = -1e3 + np.sqrt(squared_length)
        else:
            point = self.homogeneous[:, v]
            error = np.einsum("si,sij,sj->s", point, self.quadrics[u] + self.quadrics[v], point).mean()
            cost = (max(error, 0.0) + LENGTH_WEIGHT * squared_length**2) * self.task.importance[u]
        # Rounded to nine digits, so that ties are broken by vertex indices on all machines.
        return float(f"{cost:.8e}")

    def _is_allowed(self, u: int, v: int) -> bool:
        """Conditions that depend on earlier collapses."""
        mesh = self.mesh
        if v not in mesh.neighbors(u) or not mesh.keeps_topology(u, v):
            return False
        ring_u, ring_v = mesh.neighbors(u), mesh.neighbors(v)
        if len(ring_u) + len(ring_v) - 4 > MAX_VALENCE:
            return False
        if self.task.hidden[u]:
            return True
        return all(len(mesh.neighbors(x)) > 4 for x in ring_u & ring_v) and self._faces_stay_valid(u, v)

    def _faces_stay_valid(self, u: int, v: int) -> bool:
        """True if no face flips in any body, and none becomes a sliver or too large in the mean body."""
        before = np.array(
            [self.mesh.faces[face] for face in self.mesh.vertex_faces[u] if v not in self.mesh.faces[face]]
        )
        after = np.where(before == u, v, before)
        normals_before, _ = _normals(self.task.positions[:, before])
        normals_after, longest = _normals(self.task.positions[:, after])
        sizes_before, sizes_after = (np.linalg.norm(x, axis=-1) for x in (normals_before, normals_after))
        cosines = (normals_before * normals_after).sum(-1)
        return bool(
            (cosines >= MIN_NORMAL_COSINE * sizes_before * sizes_after).all()
            and (sizes_after[0] >= MIN_AREA_RATIO * longest[0] ** 2).all()
            and (longest[0] <= MAX_EDGE).all()
        )


def _normals(corners: Float[np.ndarray, "S F 3 3"]) -> tuple[Float[np.ndarray, "S F 3"], Float[np.ndarray, "S F"]]:
    """Normals with a length of twice the area, and the longest edge of each face."""
    edges = corners - np.roll(corners, 1, axis=-2)
    return np.cross(edges[..., 1, :], edges[..., 2, :]), np.linalg.norm(edges, axis=-1).max(-1)


def _vertex_quadrics(
    positions: Float[np.ndarray, "S V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V S 4 4"]:
    """Quadrics of squared distances to the planes of each vertex's faces, weighted by area."""
    quadrics = np.zeros((positions.shape[1], len(positions), 4, 4))
    for body, points in enumerate(positions):
        corners = points[faces]
        normals, _ = _normals(corners)
        doubled_areas = np.linalg.norm(normals, axis=1, keepdims=True)
        normals = normals / np.maximum(doubled_areas, 1e-12)
        planes = np.concatenate([normals, -(normals * corners[:, 0]).sum(1, keepdims=True)], axis=1)
        face_quadrics = 0.5 * doubled_areas[..., None] * planes[:, :, None] * planes[:, None, :]
        for corner in range(3):
            np.add.at(quadrics[:, body], faces[:, corner], face_quadrics)
    return quadrics
