"""Rotation matrices of rotation vectors in few operations: on a GPU, the steps of a fit are bound by their number."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-12
"""Squared angle below which the coefficients are constant."""


def exponential(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """As `axis_angle_to_matrix`: I + sin(t) / t K + (1 - cos(t)) / t^2 K^2, with K the vector's cross product."""
    cross_products, identity = _constants(vectors.device, vectors.dtype)
    halves = 0.5 * vectors.square().sum(-1)[..., None, None].clamp_min(SMALLEST).sqrt()
    ratio = halves.sin() / halves
    cross = (vectors @ cross_products).unflatten(-1, (3, 3))
    return identity + (ratio * halves.cos()) * cross + (0.5 * ratio.square()) * (cross @ cross)


@functools.cache
def _constants(device: torch.device, dtype: torch.dtype) -> tuple[Float[Tensor, "3 9"], Float[Tensor, "3 3"]]:
    """Row-major matrices of the cross products with the unit vectors, and the identity."""
    with torch.inference_mode(False):
        identity = torch.eye(3, dtype=dtype)
        cross_products = torch.stack([torch.linalg.cross(axis.expand(3, 3), identity).T for axis in identity])
        return cross_products.flatten(1).to(device), identity.to(device)
