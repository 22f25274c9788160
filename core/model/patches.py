"""Patches: parts of the body's surface (256 are some 6 cm wide), to whose mean features every query attends.

Attention along the mesh reaches a few rings of neighbours per layer. Attention to patches connects the front with the
back, and one sleeve with the other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from core.model.surface import surface_axes
from core.options import GraphOptions
from smpl_renderer.body_model import BodyModel

OCTAVES = 4
WAVELENGTH = 2.0
"""Longest wavelength of the encoding of positions, in metres; the next ones are a half, a quarter ... of it."""
ENCODING_CHANNELS = 6 * OCTAVES + 3
NORMAL_COST = 0.05
"""Metres that a turn of the normal by one radian counts, where vertices are assigned to patches: sides of a hand, or of
a foot, are apart."""


@dataclass(frozen=True)
class SurfacePatches:
    """The P patches of a body, with up to M vertices each."""

    vertices: Int[Tensor, "P M"]
    """Vertices of each patch; padded."""
    mask: Bool[Tensor, "P M"]
    """Entries of `vertices` that are not padding."""
    encoding: Float[Tensor, "V E"]
    """Sines and cosines of the rest pose's positions, and its normals."""


def split_surface(body: BodyModel, count: int) -> SurfacePatches:
    """Divide the vertices of a body into patches around vertices that lie far apart (farthest point sampling).

    Args:
        count: Number of patches; at most that of the vertices.
    """
    # In NumPy, because networks are also built on PyTorch's device `meta`.
    positions = body.v_template.detach().double().cpu().numpy()
    normals = surface_axes(body)[0][..., 2].detach().double().cpu().numpy()
    points = np.concatenate([positions, NORMAL_COST * normals], -1)
    count = min(count, len(points))
    nearest = np.zeros(len(points), int)
    distances = np.linalg.norm(points - points[0], axis=-1)
    for index in range(1, count):
        own = np.linalg.norm(points - points[distances.argmax()], axis=-1)
        nearest[own < distances] = index
        distances = np.minimum(own, distances)
    sizes = np.bincount(nearest, minlength=count)
    mask = np.arange(sizes.max()) < sizes[:, None]
    vertices = np.zeros(mask.shape, int)
    vertices[mask] = nearest.argsort(kind="stable")
    encoding = torch.from_numpy(_encode(positions, normals)).to(body.v_template.dtype)
    return SurfacePatches(torch.from_numpy(vertices), torch.from_numpy(mask), encoding)


def _encode(positions: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V E"]:
    """Sines and cosines of several wavelengths, whose products depend on distances and on mirrored distances."""
    frequencies = 2 * np.pi / WAVELENGTH * 2.0 ** np.arange(OCTAVES)
    angles = ((positions - positions.mean(0))[..., None] * frequencies).reshape(len(positions), -1)
    return np.concatenate([np.sin(angles), np.cos(angles), normals], -1)


class PatchPooling(nn.Module):
    """Weighted means over the patches of a body."""

    vertices: Tensor
    mask: Tensor
    centers: Tensor
    """Mean encoding of each patch's vertices [P, E]."""

    def __init__(self, patches: SurfacePatches):
        super().__init__()
        self.register_buffer("vertices", patches.vertices, persistent=False)
        self.register_buffer("mask", patches.mask, persistent=False)
        everywhere = torch.ones_like(patches.encoding[:, 0])
        self.register_buffer("centers", self(patches.encoding, everywhere), persistent=False)

    def forward(self, values: Float[Tensor, "*B V C"], weights: Float[Tensor, "*B V"]) -> Float[Tensor, "*B P C"]:
        """Means of the vertices' values. Those of a patch without weights are zero."""
        sums, totals = self.sums(values * weights[..., None], weights)
        return sums / totals.clamp_min(1e-6)[..., None].to(sums.dtype)

    def sums(
        self, values: Float[Tensor, "*B V C"], weights: Float[Tensor, "*B V"]
    ) -> tuple[Float[Tensor, "*B P C"], Float[Tensor, "*B P"]]:
        """Sums of the vertices' values and of their weights."""
        table = self.vertices.flatten()
        own = self.mask.to(values.dtype)[..., None]
        gathered = values.index_select(-2, table).unflatten(-2, self.vertices.shape)
        shares = weights.index_select(-1, table).unflatten(-1, self.vertices.shape)
        return (gathered * own).sum(-2), (shares * self.mask).sum(-1)


class PatchAttention(nn.Module):
    """Attention of each query to all patches of the body. Untrained, it changes nothing.

    Keys are made of the mean features of a patch's queries, and of how many Gaussians its vertices have: a patch that
    no image shows has none.
    """

    def __init__(self, options: GraphOptions):
        super().__init__()
        channels = options.features
        self.heads = options.heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.query_position = nn.Linear(ENCODING_CHANNELS, channels, bias=False)
        self.key_value = nn.Linear(channels + 1, 2 * channels)
        self.key_position = nn.Linear(ENCODING_CHANNELS, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        # Equal maps of positions: near patches are preferred at first.
        self.key_position.load_state_dict(self.query_position.state_dict())
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Float[Tensor, "B V Q D"],
        counts: Float[Tensor, "B V"],
        encoding: Float[Tensor, "V E"],
        pooling: PatchPooling,
    ) -> Float[Tensor, "B V Q D"]:
        """One update of the queries.

        Args:
            counts: Number of Gaussians of each vertex.
            encoding: Encoded positions of the vertices.
        """
        normed = self.norm(x)
        described = torch.cat([normed.mean(2), torch.log1p(counts)[..., None]], -1)
        means = pooling(described, torch.ones_like(counts))
        keys, values = self.key_value(means).chunk(2, -1)
        keys = keys + self.key_position(pooling.centers)
        queries = self.query(normed) + self.query_position(encoding)[:, None]
        split = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (queries.flatten(1, 2), keys, values)]
        update = scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)
        return x + self.out(update).view(x.shape)
