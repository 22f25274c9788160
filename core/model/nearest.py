"""Which vertex of the body a Gaussian belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

CHUNK = 1 << 27
"""Distances held at once."""


@torch.no_grad()
def nearest_vertices(points: Float[Tensor, "P 3"], vertices: Float[Tensor, "V 3"]) -> Int[Tensor, "P"]:
    """The index of the vertex nearest to each point. A choice has no gradient; measure the distance to it for one."""
    points, vertices = points.detach().float(), vertices.detach().float()
    if points.device.type == "cpu":
        return torch.from_numpy(cKDTree(vertices.numpy()).query(points.numpy())[1]).to(torch.int64)
    # |p - v|^2 = |p|^2 + |v|^2 - 2 p.v: the first term is the same for all vertices. In float32, within metres of the
    # origin this errs by micrometres; in TF32, which training allows elsewhere, it would by millimetres.
    squares = vertices.square().sum(1)
    with torch.autocast(points.device.type, enabled=False), _without_tf32():
        chunks = points.split(max(1, CHUNK // len(vertices)))
        return torch.cat([torch.addmm(squares, chunk, vertices.T, alpha=-2).argmin(1) for chunk in chunks])


@contextmanager
def _without_tf32() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
