"""The Human Gaussian Graph: queries on the body's vertices gather what the Gaussians know, and share it along the mesh.

Liu et al., Human Gaussian Graph (ICCV 2025), Sec. 3.3.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from core.model.edges import GaussianVertexEdges, edge_capacity
from core.ops.feed_forward import FeedForwardWeights, residual_feed_forward
from core.ops.neighbor_attention import ReverseNeighbors, packed_neighbor_attention, reverse_neighbors
from core.ops.norm_linear import norm_linear
from core.ops.segment_attention import MAX_QUERIES, packed_segment_attention
from core.options import GraphOptions
from core.runtime.cuda_graphs import CudaGraphCache
from smpl_renderer.connectivity import Connectivity
from smpl_renderer.errors import InputError


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

    def after(
        self, x: Float[Tensor, "*batch D"], update: Float[Tensor, "*batch D"], out: nn.Linear
    ) -> Float[Tensor, "*batch D"]:
        """What follows attention: the mapped update is added, and then what this network makes of the sum."""
        norm, first, _, last, dropout = self
        if self.training and dropout.p > 0:
            x = x + dropout(out(update))
            return x + self(x)
        own = norm.weight, norm.bias, first.weight, first.bias, last.weight, last.bias
        return residual_feed_forward(x, update, FeedForwardWeights(out.weight, out.bias, *own))


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
        self.feed_forward = FeedForward(channels, options.ffn_factor, options.dropout)

    def forward(
        self, x: Float[Tensor, "B V Q D"], key_values: Float[Tensor, "E 2*D"], crow: Int[Tensor, "BV+1"]
    ) -> Float[Tensor, "B V Q D"]:
        """One round, with what `key_value` makes of the keys: for all layers at once, see `BodyGraph`."""
        queries, x = norm_linear(x, self.norm.weight, self.norm.bias, self.query.weight, self.query.bias)
        queries = queries.flatten(0, 1).unflatten(-1, (self.heads, -1))
        key_values = key_values.unflatten(-1, (2, self.heads, -1))
        update = packed_segment_attention(queries, key_values, crow).flatten(-2).view(x.shape)
        return self.feed_forward.after(x, update, self.out)


class InterNode(nn.Module):
    """Each query attends to the queries of the same rank on the neighbouring vertices."""

    def __init__(self, options: GraphOptions):
        super().__init__()
        channels = options.features
        self.heads = options.heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.feed_forward = FeedForward(channels, options.ffn_factor, options.dropout)

    def forward(
        self,
        x: Float[Tensor, "B V Q D"],
        neighbors: Int[Tensor, "V K"],
        mask: Bool[Tensor, "V K"],
        sources: ReverseNeighbors,
    ) -> Float[Tensor, "B V Q D"]:
        linear = self.query_key_value
        packed, x = norm_linear(x, self.norm.weight, self.norm.bias, linear.weight, linear.bias)
        packed = packed.unflatten(-1, (3, self.heads, -1))
        update = packed_neighbor_attention(packed, neighbors, mask, sources).flatten(-2)
        return self.feed_forward.after(x, update, self.out)


class BodyGraph(nn.Module):
    """L rounds of intra-node and inter-node attention over the vertices of a body.

    On a CUDA device its launches are recorded and played back (`graph_cache`), but for training with dropout.

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
        sources = reverse_neighbors(connectivity.neighbors, connectivity.mask)
        self.register_buffer("sources", sources.vertices, persistent=False)
        self.register_buffer("source_crow", sources.crow, persistent=False)
        self.vertex_embedding = nn.Parameter(0.1 * torch.randn(len(connectivity.neighbors), 1, channels))
        self.query_embedding = nn.Parameter(0.1 * torch.randn(options.queries, channels))
        self.embed_keys = (
            nn.Sequential(nn.Linear(key_channels, channels), nn.LayerNorm(channels)) if options.intra else None
        )
        self.intra = nn.ModuleList(IntraNode(options) for _ in range(options.layers) if options.intra)
        self.inter = nn.ModuleList(InterNode(options) for _ in range(options.layers) if options.inter)
        self.graph_cache = CudaGraphCache()
        self._draws = options.dropout > 0

    @property
    def num_vertices(self) -> int:
        return len(self.neighbors)

    def forward(self, keys: Float[Tensor, "E K"], edges: GaussianVertexEdges) -> Float[Tensor, "B V Q D"]:
        """What the queries know at the end.

        Args:
            keys: Descriptions of the tied Gaussians, in the order of the edges.
            ties: Whose they are.
        """
        fixed = not (self.training and self._draws) and len(self.query_embedding) <= MAX_QUERIES
        if fixed and self.graph_cache.can_capture(keys):
            keys = pad(keys, (0, 0, 0, edge_capacity(len(keys)) - len(keys)))
            return self.graph_cache(self, self._layers, keys, edges.crow)
        return self._layers(keys, edges.crow)

    def _layers(self, keys: Float[Tensor, "E K"], crow: Int[Tensor, "BV+1"]) -> Float[Tensor, "B V Q D"]:
        num_persons = (len(crow) - 1) // self.num_vertices
        x = (self.vertex_embedding + self.query_embedding).expand(num_persons, -1, -1, -1)
        sources = ReverseNeighbors(self.sources, self.source_crow)
        if self.intra:
            maps = [layer.key_value for layer in self.intra]  # one product for all layers
            weight, bias = (torch.cat([getattr(own, name) for own in maps]) for name in ("weight", "bias"))
            key_values = linear(self.embed_keys(keys), weight, bias).chunk(len(maps), -1)
        for layer in range(max(len(self.intra), len(self.inter))):
            if self.intra:
                x = self.intra[layer](x, key_values[layer], crow)
            if self.inter:
                x = self.inter[layer](x, self.neighbors, self.neighbor_mask, sources)
        return x
