"""Nearest vertex of each point."""

import importlib.util
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from smpl_renderer.dispatch import can_use_kernels
from smpl_renderer.errors import InputError

CHUNK = 1 << 25
"""Distances that the reference holds at once."""

NearestSearch = Literal["auto", "torch_cluster", "pytorch3d"]
"""Ways to search. `auto`: a k-d tree on a CPU, and a kernel that tries all vertices on a CUDA device. `torch_cluster`,
`pytorch3d`: by these packages. All find the same vertices, except for ties."""


def check_nearest_search(search: str) -> None:
    """Check that a search exists and is installed.

    Raises:
        InputError: If it does not exist, or is not installed.
    """
    if search not in get_args(NearestSearch):
        raise InputError(f"nearest must be one of {', '.join(get_args(NearestSearch))}, got {search}")
    if search != "auto" and importlib.util.find_spec(search) is None:
        raise InputError(f"nearest {search} is not installed; see requirements-cuda.txt, or choose auto")


def nearest_vertices_reference(
    points: Float[Tensor, "S N 3"], vertices: Float[Tensor, "S V 3"], mask: Bool[Tensor, "S N"] | None = None
) -> Int[Tensor, "S N"]:
    """Define `nearest_vertices_of_sets` in plain PyTorch, for any device and dtype."""
    found = []
    for own_points, own_vertices in zip(points, vertices):
        for chunk in own_points.split(max(1, CHUNK // len(own_vertices))):
            distances = (chunk[:, None] - own_vertices).square().sum(-1)
            least = distances.amin(1, keepdim=True)
            found.append((distances == least).to(torch.uint8).argmax(1))  # of equals, the lowest index
    ids = torch.cat(found).view(points.shape[:2]) if found else points.new_empty(points.shape[:2], dtype=torch.int64)
    return ids if mask is None else ids * mask


def nearest_vertices_of_sets(
    points: Float[Tensor, "S N 3"], vertices: Float[Tensor, "S V 3"], mask: Bool[Tensor, "S N"] | None = None
) -> Int[Tensor, "S N"]:
    """Index of the vertex nearest to each point, by trying all: fast on a GPU. Of equally near vertices, the first.

    Args:
        points: S sets of points.
        vertices: Vertices of each set.
        mask: Points outside of the mask get index 0, and cost nothing where they are adjacent.
    """
    if can_use_kernels(points, vertices):
        from core.ops.nearest_vertices_kernel import launch_nearest

        return launch_nearest(points.contiguous(), vertices.contiguous(), mask if mask is None else mask.contiguous())
    return nearest_vertices_reference(points, vertices, mask)


@torch.no_grad()
def nearest_vertices(
    points: Float[Tensor, "*batch N 3"],
    vertices: Float[Tensor, "*batch V 3"],
    mask: Bool[Tensor, "*batch N"] | None = None,
    search: NearestSearch = "auto",
) -> Int[Tensor, "*batch N"]:
    """Index of the vertex nearest to each point; without gradients.

    Args:
        points: Sets of points.
        vertices: One set of vertices for each set of points.
        mask: Points outside of the mask get index 0 and cost little. Points that are not finite get index 0, too.
        search: One that `check_nearest_search` accepts.
    """
    shape = points.shape[:-1]
    points = points.detach().float().reshape(shape[:-1].numel(), -1, 3)
    vertices = vertices.detach().float().reshape(len(points), -1, 3)
    mask = None if mask is None else mask.reshape(points.shape[:2])
    if search == "auto":
        ids = (_by_tree if points.device.type == "cpu" else nearest_vertices_of_sets)(points, vertices, mask)
    else:
        ids = {"torch_cluster": _by_torch_cluster, "pytorch3d": _by_pytorch3d}[search](points, vertices)
        ids = ids if mask is None else ids * mask
    return ids.view(shape)


def _by_tree(points: Tensor, vertices: Tensor, mask: Tensor | None) -> Tensor:
    ids = torch.zeros(points.shape[:2], dtype=torch.int64)
    finite = points.isfinite().all(-1)  # a tree refuses other points; the kernel gives them index 0
    for i, (own_points, own_vertices) in enumerate(zip(points, vertices)):
        inside = finite[i] if mask is None else finite[i] & mask[i]
        found = cKDTree(own_vertices.numpy()).query(own_points[inside].numpy())[1]
        ids[i, inside] = torch.from_numpy(found).to(torch.int64)
    return ids


def _by_torch_cluster(points: Tensor, vertices: Tensor) -> Tensor:
    from torch_cluster import nearest

    sets = torch.arange(len(points), device=points.device)
    set_of_point, set_of_vertex = (sets.repeat_interleave(x.shape[1]) for x in (points, vertices))
    ids = nearest(points.flatten(0, 1), vertices.flatten(0, 1), set_of_point, set_of_vertex)
    return ids.view(points.shape[:2]) - vertices.shape[1] * sets[:, None]


def _by_pytorch3d(points: Tensor, vertices: Tensor) -> Tensor:
    from pytorch3d.ops import knn_points

    return knn_points(points, vertices, K=1).idx[..., 0]
