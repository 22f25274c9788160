"""Normals of meshes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def vertex_normals(vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, "V 3"]:
    """Unit normals of the vertices: means of those of their faces, weighted by area; zero for a vertex without area."""
    a, b, c = vertices[faces].unbind(1)
    doubled_areas = torch.linalg.cross(b - a, c - a)
    sums = torch.zeros_like(vertices).index_add(0, faces.flatten(), doubled_areas.repeat_interleave(3, 0))
    return torch.nn.functional.normalize(sums, dim=-1)
