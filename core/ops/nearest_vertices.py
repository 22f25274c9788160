"""The nearest vertex of each point, by trying all: what suits a GPU."""

import importlib.util
import os
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from smpl_renderer.dispatch import kernels_take
from smpl_renderer.errors import InputError

CHUNK = 1 << 25  # distances held at once


def nearest_vertices_reference(
    points: Float[Tensor, "F P 3"], vertices: Float[Tensor, "F V 3"], mask: Bool[Tensor, "F P"] | None = None
) -> Int[Tensor, "F P"]:
    """Define `nearest_vertices_of_sets` in plain PyTorch, for any device and dtype."""
    found = []
    for own_points, own_vertices in zip(points, vertices):
        for chunk in own_points.split(max(1, CHUNK // len(own_vertices))):
            distances = (chunk[:, None] - own_vertices).square().sum(-1)
            least = distances.amin(1, keepdim=True)
            found.append((distances == least).to(torch.uint8).argmax(1))  # of equals, the lowest number
    ids = torch.cat(found).view(points.shape[:2]) if found else points.new_empty(points.shape[:2], dtype=torch.int64)
    return ids if mask is None else ids * mask


def nearest_vertices_of_sets(
    points: Float[Tensor, "F P 3"], vertices: Float[Tensor, "F V 3"], mask: Bool[Tensor, "F P"] | None = None
) -> Int[Tensor, "F P"]:
    """The index of the vertex nearest to each point of each set; of vertices equally near, the first.

    Args:
        points: In metres, in F sets.
        vertices: Of each set.
        mask: Points outside get 0, and cost nothing where they stand together.
    """
    if kernels_take(points, vertices) and points.dtype == torch.float32:
        from core.ops.nearest_vertices_kernel import nearest

        return nearest(points.contiguous(), vertices.contiguous(), mask if mask is None else mask.contiguous())
    return nearest_vertices_reference(points, vertices, mask)


SEARCH_VARIABLE = "HGG_NEAREST"
"""Environment variable that names the search, where the caller does not."""


Search = Literal["auto", "torch_cluster", "pytorch3d"]


@torch.no_grad()
def nearest_vertices(
    points: Float[Tensor, "*batch P 3"],
    vertices: Float[Tensor, "*batch V 3"],
    mask: Bool[Tensor, "*batch P"] | None = None,
    search: Search | None = None,
) -> Int[Tensor, "*batch P"]:
    """The index of the vertex nearest to each point. A choice has no gradient; measure the distance to it for one.

    Args:
        points: Points in any number of sets.
        vertices: Of each set.
        mask: The others cost little, and get index 0, as do points that are not finite.
        search: `auto` is a k-d tree on a CPU, and a kernel that tries all on a CUDA device. `torch_cluster` and
            `pytorch3d` find the same by the packages of these names. By default what the environment variable
            `HGG_NEAREST` names, else `auto`.
    Raises:
        InputError: If there is no such search, or it is not installed.
    """
    shape = points.shape[:-1]
    points = points.detach().float().reshape(shape[:-1].numel(), -1, 3)
    vertices = vertices.detach().float().reshape(len(points), -1, 3)
    mask = None if mask is None else mask.reshape(points.shape[:2])
    search = search or os.environ.get(SEARCH_VARIABLE) or "auto"
    if search == "auto":
        ids = (_by_tree if points.device.type == "cpu" else nearest_vertices_of_sets)(points, vertices, mask)
    elif search in ("torch_cluster", "pytorch3d"):
        if importlib.util.find_spec(search) is None:
            raise InputError(f"nearest vertices by {search}: it is not installed; unset {SEARCH_VARIABLE}")
        ids = {"torch_cluster": _by_torch_cluster, "pytorch3d": _by_pytorch3d}[search](points, vertices)
        ids = ids if mask is None else ids * mask
    else:
        raise InputError(f"{SEARCH_VARIABLE}: no search is called {search!r}; auto, torch_cluster and pytorch3d are")
    return ids.view(shape)


def _by_tree(points: Tensor, vertices: Tensor, mask: Tensor | None) -> Tensor:
    ids = torch.zeros(points.shape[:2], dtype=torch.int64)
    finite = points.isfinite().all(-1)  # a tree refuses others, which the kernel gives index 0
    for i, (own_points, own_vertices) in enumerate(zip(points, vertices)):
        inside = finite[i] if mask is None else finite[i] & mask[i]
        found = cKDTree(own_vertices.numpy()).query(own_points[inside].numpy())[1]
        ids[i, inside] = torch.from_numpy(found).to(torch.int64)
    return ids


def _by_torch_cluster(points: Tensor, vertices: Tensor) -> Tensor:
    from torch_cluster import nearest

    sets = torch.arange(len(points), device=points.device)
    of_points, of_vertices = (sets.repeat_interleave(x.shape[1]) for x in (points, vertices))
    ids = nearest(points.flatten(0, 1), vertices.flatten(0, 1), of_points, of_vertices)
    return ids.view(points.shape[:2]) - vertices.shape[1] * sets[:, None]


def _by_pytorch3d(points: Tensor, vertices: Tensor) -> Tensor:
    from pytorch3d.ops import knn_points

    return knn_points(points, vertices, K=1).idx[..., 0]
