"""The Human Gaussian Graph: queries on the body's vertices gather what the Gaussians know, and share it along the mesh.

Liu et al., Human Gaussian Graph (ICCV 2025), Sec. 3.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.ops.neighbor_attention import neighbor_attention
from core.ops.segment_attention import segment_attention
from core.options import GraphOptions
from smpl_renderer.connectivity import Connectivity
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class Ties:
    """The edges between Gaussians and vertices, sorted by vertex; the vertices of all persons are counted through."""

    gaussians: Int[Tensor, "E"]
    """Positions of the tied Gaussians among all Gaussians of the batch, flattened."""
    crow: Int[Tensor, "BV+1"]
    """The edges of vertex n are `gaussians[crow[n]:crow[n + 1]]`."""

    def take(self, values: Float[Tensor, "B F M *d"]) -> Float[Tensor, "E *d"]:
        """The values of the tied Gaussians, in the order of the edges."""
        return values.flatten(0, 2).index_select(0, self.gaussians)


def tie(vertex_ids: Int[Tensor, "B F M"], mask: Bool[Tensor, "B F M"], num_vertices: int) -> Ties:
    """Tie the Gaussians of all moments to their vertices; those outside the mask are left out."""
    persons = torch.arange(len(vertex_ids), device=vertex_ids.device)[:, None, None]
    gaussians = mask.flatten().nonzero()[:, 0]
    vertices = (vertex_ids + num_vertices * persons).flatten()[gaussians]
    counts = torch.bincount(vertices, minlength=len(vertex_ids) * num_vertices)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Ties(gaussians[torch.argsort(vertices, stable=True)], crow)


class FeedForward(nn.Sequential):
    """The usual two layers, with the norm before them."""

    def __init__(self, channels: int, factor: int, dropout: float):
        super().__init__(
            nn.LayerNorm(channels),
            nn.Linear(channels, factor * channels),
            nn.GELU(),
            nn.Linear(factor * channels, channels),
            nn.Dropout(dropout),
        )


class IntraNode(nn.Module):
    """Each vertex's queries attend to the Gaussians, of all moments, that are tied to it.

    A vertex without Gaussians gets no update from them, not even a bias.
    """

    def __init__(self, options: GraphOptions):
        super().__init__()
        channels = options.features
        self.heads = options.heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels, bias=False)
        self.dropout = nn.Dropout(options.dropout)
        self.feed_forward = FeedForward(channels, options.ffn_factor, options.dropout)

    def forward(
        self, x: Float[Tensor, "B V Q D"], keys: Float[Tensor, "E D"], crow: Int[Tensor, "BV+1"]
    ) -> Float[Tensor, "B V Q D"]:
        queries = self.query(self.norm(x)).flatten(0, 1).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(keys).unflatten(-1, (2, self.heads, -1)).unbind(1)
        update = segment_attention(queries, key, value, crow).flatten(-2).view(x.shape)
        x = x + self.dropout(self.out(update))
        return x + self.feed_forward(x)


class InterNode(nn.Module):
    """Each query attends to the queries of the same rank on the neighbouring vertices."""

    def __init__(self, options: GraphOptions):
        super().__init__()
        channels = options.features
        self.heads = options.heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(options.dropout)
        self.feed_forward = FeedForward(channels, options.ffn_factor, options.dropout)

    def forward(
        self, x: Float[Tensor, "B V Q D"], neighbors: Int[Tensor, "V K"], mask: Bool[Tensor, "V K"]
    ) -> Float[Tensor, "B V Q D"]:
        query, key, value = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(3)
        update = neighbor_attention(query, key, value, neighbors, mask).flatten(-2)
        x = x + self.dropout(self.out(update))
        return x + self.feed_forward(x)


class BodyGraph(nn.Module):
    """L rounds of intra-node and inter-node attention over the vertices of a body.

    Args:
        options: Sizes, and which of the two attentions there are.
        key_channels: Numbers that describe a Gaussian.
        connectivity: The mesh's neighbourhoods, and with them its number of vertices.
    Raises:
        InputError: If the options contradict each other.
    """

    def __init__(self, options: GraphOptions, key_channels: int, connectivity: Connectivity):
        super().__init__()
        if options.queries < 1 or options.heads < 1 or options.features % options.heads:
            raise InputError(
                f"graph: queries and heads must be at least 1, heads divide features; got {options.queries} queries, "
                f"{options.heads} heads, {options.features} features"
            )
        channels = options.features
        self.register_buffer("neighbors", connectivity.neighbors, persistent=False)
        self.register_buffer("neighbor_mask", connectivity.mask, persistent=False)
        self.vertex_embedding = nn.Parameter(0.1 * torch.randn(len(connectivity.neighbors), 1, channels))
        self.query_embedding = nn.Parameter(0.1 * torch.randn(options.queries, channels))
        self.embed_keys = (
            nn.Sequential(nn.Linear(key_channels, channels), nn.LayerNorm(channels)) if options.intra else None
        )
        self.intra = nn.ModuleList(IntraNode(options) for _ in range(options.layers) if options.intra)
        self.inter = nn.ModuleList(InterNode(options) for _ in range(options.layers) if options.inter)

    @property
    def num_vertices(self) -> int:
        return len(self.neighbors)

    def forward(self, keys: Float[Tensor, "E K"], ties: Ties) -> Float[Tensor, "B V Q D"]:
        """What the queries know at the end.

        Args:
            keys: Descriptions of the tied Gaussians, in the order of the edges.
            ties: Whose they are.
        """
        num_persons = (len(ties.crow) - 1) // self.num_vertices
        x = (self.vertex_embedding + self.query_embedding).expand(num_persons, -1, -1, -1)
        if self.embed_keys is not None:
            keys = self.embed_keys(keys)
        for layer in range(max(len(self.intra), len(self.inter))):
            if self.intra:
                x = self.intra[layer](x, keys, ties.crow)
            if self.inter:
                x = self.inter[layer](x, self.neighbors, self.neighbor_mask)
        return x
