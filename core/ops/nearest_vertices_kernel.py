"""Kernel of the search for nearest vertices. A block of points is compared with all vertices; no distance is stored.

Reference: `nearest_vertices_reference` in `core/ops/nearest_vertices.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

POINTS, VERTICES = 32, 64


@triton.jit
def _nearest_kernel(
    points, vertices, mask, ids, num_points, num_vertices, MASKED: tl.constexpr, POINTS: tl.constexpr,
    VERTICES: tl.constexpr,
):  # fmt: skip
    own_set = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    live = p < num_points
    row = own_set * num_points + p
    wanted = live
    if MASKED:
        wanted = tl.load(mask + row, live, 0).to(tl.int1)
    x = tl.load(points + row * 3, live, 0.0)
    y = tl.load(points + row * 3 + 1, live, 0.0)
    z = tl.load(points + row * 3 + 2, live, 0.0)
    best = tl.full([POINTS, VERTICES], float("inf"), tl.float32)
    best_id = tl.zeros([POINTS, VERTICES], tl.int32)
    stop = tl.where(tl.max(wanted.to(tl.int32), 0) > 0, num_vertices, 0)  # a block outside of the mask costs nothing
    for start in range(0, stop, VERTICES):
        v = start + tl.arange(0, VERTICES)
        at = vertices + (own_set * num_vertices + v) * 3
        dx = x[:, None] - tl.load(at, v < num_vertices, float("inf"))[None, :]
        dy = y[:, None] - tl.load(at + 1, v < num_vertices, 0.0)[None, :]
        dz = z[:, None] - tl.load(at + 2, v < num_vertices, 0.0)[None, :]
        distance = dx * dx + dy * dy + dz * dz
        closer = distance < best
        best = tl.where(closer, distance, best)
        best_id = tl.where(closer, v[None, :], best_id)
    least = tl.min(best, 1)
    candidates = tl.where(best == least[:, None], best_id, num_vertices)  # of equals, the lowest index
    tl.store(ids + row, tl.where(wanted, tl.min(candidates, 1), 0).to(tl.int64), live)


def launch_nearest(points: Tensor, vertices: Tensor, mask: Tensor | None) -> Tensor:
    """Indices [S, N] of the nearest of vertices [S, V, 3] to points [S, N, 3], all float32; 0 outside of the mask."""
    num_sets, num_points = points.shape[:2]
    ids = torch.empty(num_sets, num_points, dtype=torch.int64, device=points.device)
    if ids.numel():
        with torch.cuda.device_of(points):
            _nearest_kernel[(triton.cdiv(num_points, POINTS), num_sets)](
                points, vertices, mask if mask is not None else points, ids, num_points, vertices.shape[1],
                MASKED=mask is not None, POINTS=POINTS, VERTICES=VERTICES, num_warps=4,
            )  # fmt: skip
    return ids
