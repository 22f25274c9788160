"""Neighbourhoods of a body's vertices: the vertex-vertex edges of the graph.

A neighbourhood is filled ring by ring (ring r holds the vertices r mesh edges away), and within a ring by distance in
the rest pose. Touching hands are thus no neighbours, and neither are the lips.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import load_torch
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

MAX_ELEMENTS = 2**26
"""Largest number of indices that are read."""
NUM_NEIGHBORS = 18
"""Default size: a vertex, its first ring and most of its second (Liu et al., Human Gaussian Graph, 2025)."""


@dataclass(frozen=True)
class Connectivity:
    """Neighbourhoods of a body's vertices."""

    neighbors: Int[Tensor, "V K"]
    """Indices of neighbours: the vertex itself, its first ring, its second, and so on; padding repeats the vertex."""
    mask: Bool[Tensor, "V K"]
    """False marks padding (in connected components of fewer than K vertices)."""
    crow: Int[Tensor, " V+1"]
    """Row starts of the first rings in CSR form: that of vertex v is `col[crow[v]:crow[v + 1]]`, sorted."""
    col: Int[Tensor, " E"]
    """Column indices of the first rings in CSR form."""
    fingerprint: str
    """Fingerprint of the body."""


def build_connectivity(body: BodyModel, num_neighbors: int = NUM_NEIGHBORS) -> Connectivity:
    """Find the neighbourhoods of a body's vertices (about a second for SMPL).

    Args:
        body: Body model; its faces and mean shape are used.
        num_neighbors: Size K of a neighbourhood, the vertex itself included.
    """
    positions = body.v_template.detach().cpu().double().numpy()
    adjacency = vertex_adjacency(body.faces.cpu().numpy(), len(positions))
    neighbors, mask = ring_neighborhoods(adjacency, positions, num_neighbors)
    return Connectivity(
        neighbors=torch.from_numpy(neighbors),
        mask=torch.from_numpy(mask),
        crow=torch.from_numpy(adjacency.indptr.astype(np.int64)),
        col=torch.from_numpy(adjacency.indices.astype(np.int64)),
        fingerprint=body.fingerprint,
    )


def vertex_adjacency(faces: Int[np.ndarray, "F 3"], num_vertices: int) -> sparse.csr_matrix:
    """Symmetric adjacency matrix of the mesh, of zeros and ones, with sorted indices."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0)
    ones = np.ones(len(ends), dtype=np.int32)
    adjacency = sparse.csr_matrix((ones, (ends[:, 0], ends[:, 1])), shape=(num_vertices, num_vertices))
    adjacency.sort_indices()
    return adjacency


def ring_neighborhoods(
    adjacency: sparse.csr_matrix, positions: Float[np.ndarray, "V 3"], num_neighbors: int
) -> tuple[Int[np.ndarray, "V K"], Bool[np.ndarray, "V K"]]:
    """The first K vertices around each vertex, by ring and then by distance, and a mask that is False at padding."""
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1 (the vertex itself), got {num_neighbors}")
    num_vertices = len(positions)
    ring = sparse.identity(num_vertices, dtype=np.int32, format="csr")
    reached = ring
    pairs = [(np.arange(num_vertices), np.arange(num_vertices), np.zeros(num_vertices, dtype=np.int64))]
    unfilled = np.full(num_vertices, num_neighbors > 1)
    while unfilled.any():
        grown = sparse.diags(unfilled.astype(np.int32), dtype=np.int32) @ (ring @ adjacency)
        grown.data[:] = 1
        ring = grown - grown.multiply(reached)  # vertices not reached before
        ring.eliminate_zeros()
        if ring.nnz == 0:
            break  # no connected component has further vertices
        reached = reached + ring
        vertices, others = ring.nonzero()
        pairs.append((vertices, others, np.full(len(vertices), len(pairs), dtype=np.int64)))
        unfilled &= np.diff(reached.indptr) < num_neighbors

    vertices, others, rings = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    distances = np.linalg.norm(positions[vertices] - positions[others], axis=1)
    order = np.lexsort((others, distances, rings, vertices))
    vertices, others = vertices[order], others[order]
    rank = np.arange(len(vertices)) - np.searchsorted(vertices, vertices)  # position within the run of its vertex
    kept = rank < num_neighbors

    neighbors = np.repeat(np.arange(num_vertices)[:, None], num_neighbors, axis=1)
    mask = np.zeros((num_vertices, num_neighbors), dtype=bool)
    neighbors[vertices[kept], rank[kept]] = others[kept]
    mask[vertices[kept], rank[kept]] = True
    return neighbors, mask


def save_connectivity(path: Path, connectivity: Connectivity) -> None:
    """Write neighbourhoods as a dictionary of tensors, readable by `torch.load(path, weights_only=True)`."""
    with atomic_path(path) as temporary:
        torch.save(asdict(connectivity), temporary)


def _check(connectivity: Connectivity) -> None:
    """Check that neighbourhoods are what `build_connectivity` makes: types, shapes, and indices of vertices.

    Raises:
        ValueError: If they are not.
    """
    neighbors, mask, crow, col = (getattr(connectivity, name) for name in ("neighbors", "mask", "crow", "col"))
    if not all(isinstance(x, torch.Tensor) and x.layout == torch.strided for x in (neighbors, mask, crow, col)):
        raise ValueError("expected dense tensors")
    if [x.dtype for x in (neighbors, mask, crow, col)] != [torch.int64, torch.bool, torch.int64, torch.int64]:
        raise ValueError("tensors are of other types")
    count = len(neighbors)
    if neighbors.ndim != 2 or neighbors.shape != mask.shape or crow.shape != (count + 1,) or col.ndim != 1:
        raise ValueError("shapes contradict each other")
    if max(neighbors.numel(), col.numel()) > MAX_ELEMENTS or min(neighbors.shape) < 1:
        raise ValueError("shapes are empty or too large")
    in_range = all(bool(((x >= 0) & (x < count)).all()) for x in (neighbors, col))
    if not in_range or crow[0] != 0 or crow[-1] != len(col) or bool((crow.diff() < 0).any()):
        raise ValueError("indices are no vertices")
    if not bool(mask[:, 0].all()) or not torch.equal(neighbors[:, 0], torch.arange(count)):
        raise ValueError("each neighbourhood must begin with its vertex")
    if not isinstance(connectivity.fingerprint, str):
        raise ValueError("the fingerprint is no text")


def load_connectivity(path: Path, body: BodyModel | None = None) -> Connectivity:
    """Read a file written by `save_connectivity`.

    Raises:
        InputError: If the file cannot be read, its indices are no vertices, or it belongs to another body than `body`.
    """
    remedy = "write it with vertex_connectivity.py"
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        connectivity = Connectivity(**load_torch(path, kind="vertex neighbourhoods"))
        _check(connectivity)
    except InputError:
        raise
    except Exception as error:  # torch raises many types for a broken file
        raise InputError(f"{path}: holds no vertex neighbourhoods ({type(error).__name__}); {remedy}") from error
    if body is not None and connectivity.fingerprint != body.fingerprint:
        raise InputError(
            f"{path}: belongs to the body {connectivity.fingerprint}, not to {body.name} ({body.fingerprint}); {remedy}"
        )
    return connectivity
