"""The Human Gaussian Graph: edges between Gaussians and vertices, and attention along them and along the mesh.

Liu et al., Human Gaussian Graph (ICCV 2025), Sec. 3.3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from core.avatar.avatar import at_vertices
from core.model.frame_gaussians import FrameGaussians
from core.model.patches import PatchAttention, PatchPooling, SurfacePatches
from core.ops.dense_layers import FeedForwardWeights, norm_linear, residual_feed_forward
from core.ops.graph_attention import (
    MAX_QUERIES,
    ReverseNeighbors,
    neighbor_attention,
    reverse_neighbors,
    segment_attention,
)
from core.options import GraphOptions
from core.runtime.cuda_graphs import AsyncCount, CudaGraphCache
from smpl_renderer.connectivity import Connectivity
from smpl_renderer.errors import InputError
from smpl_renderer.types import PosedBody

MIN_CAPACITY = 1 << 12
"""Least number of edges that a captured graph has room for."""

KEY_GEOMETRY_CHANNELS = 3 + 3 + 3 + 1
"""Channels of a key besides the U-Net's features: offset from the vertex, direction to the camera, colour, opacity."""
KEY_OFFSET_UNIT = 0.1
"""Unit of the offsets in keys, in metres."""
MAX_KEY_OFFSET = 0.3
"""Bound of the offsets in keys along each axis, in metres."""


@dataclass(frozen=True)
class GaussianVertexEdges:
    """Edges between Gaussians and vertices, sorted by vertex. The vertices of B subjects are numbered consecutively."""

    gaussian_ids: Int[Tensor, "E"]
    """Index of each edge's Gaussian among all Gaussians of the batch, flattened."""
    crow: Int[Tensor, "BV+1"]
    """The edges of vertex v are `gaussian_ids[crow[v]:crow[v + 1]]`."""

    def gather(self, values: Float[Tensor, "B F N *d"]) -> Float[Tensor, "E *d"]:
        """The values of each edge's Gaussian."""
        return values.flatten(0, 2).index_select(0, self.gaussian_ids)


def build_edges(
    vertex_ids: Int[Tensor, "B F N"], mask: Bool[Tensor, "B F N"], num_vertices: int, count: AsyncCount | None = None
) -> GaussianVertexEdges:
    """Connect the Gaussians of all frames with their vertices.

    Args:
        vertex_ids: Vertex of each Gaussian.
        mask: Gaussians outside of the mask get no edge.
        num_vertices: Vertices of a subject.
        count: Number of Gaussians in the mask. If it was requested earlier, the host need not wait for the device here.
    """
    count = count or AsyncCount(mask)
    subjects = torch.arange(len(vertex_ids), device=vertex_ids.device)[:, None, None]
    total = len(vertex_ids) * num_vertices
    vertices = torch.where(mask, vertex_ids + num_vertices * subjects, total).flatten()  # those outside come last
    vertices, order = vertices.to(torch.int32).sort(stable=True)
    bounds = torch.arange(total + 1, device=mask.device, dtype=torch.int32)
    return GaussianVertexEdges(order[: count.read()], torch.searchsorted(vertices, bounds))


def describe_gaussians(
    frame: FrameGaussians, posed: PosedBody, axes: Float[Tensor, "V 3 3"], edges: GaussianVertexEdges
) -> Float[Tensor, "E K"]:
    """Keys of the graph: a description of each edge's Gaussian.

    Offsets from the vertex and directions to the camera are given along the posed surface's axes, and so do not depend
    on the pose. Offsets are rotated rather than multiplied with the inverse of the skinning matrix: the difference is
    the surface's stretch, and the result is bounded where that matrix is nearly singular.

    Args:
        axes: Axes of the rest pose's surface at each vertex, in columns.
    """
    with torch.autocast(frame.distances.device.type, enabled=False):
        axes = edges.gather(at_vertices(posed.rotations @ axes, frame.vertex_ids))  # [E, 3, 3]
        gaps = frame.gaussians.means - at_vertices(posed.vertices, frame.vertex_ids)
        gaps = edges.gather(gaps / posed.scale[..., None, None]).clamp(-MAX_KEY_OFFSET, MAX_KEY_OFFSET)
        offsets = torch.einsum("eji,ej->ei", axes, gaps) / KEY_OFFSET_UNIT
        directions = torch.einsum("eji,ej->ei", axes, edges.gather(frame.towards_camera))
        rest = [edges.gather(x) for x in (frame.gaussians.colors, frame.gaussians.opacities[..., None])]
        return torch.cat([edges.gather(frame.features).float(), offsets, directions, *rest], -1)


class BodyGraph(nn.Module):
    """L layers of intra-node and inter-node attention over the vertices of a body, and to patches of the whole body.

    On a CUDA device, its launches are captured in CUDA graphs (`graph_cache`), except in training with dropout.

    Args:
        options: Sizes, and which of the two attentions there are.
        key_channels: Channels of a key.
        connectivity: The mesh's neighbourhoods.
        patches: Patches of the body, if queries attend to them.
    Raises:
        InputError: If the options contradict each other.
    """

    def __init__(
        self,
        options: GraphOptions,
        key_channels: int,
        connectivity: Connectivity,
        patches: SurfacePatches | None = None,
    ):
        super().__init__()
        if options.queries < 1 or options.heads < 1 or options.features % options.heads:
            raise InputError(
                f"graph: queries and heads must be at least 1, and heads must divide features; got {options.queries} "
                f"queries, {options.heads} heads, {options.features} features"
            )
        channels = options.features
        self.register_buffer("neighbors", connectivity.neighbors, persistent=False)
        self.register_buffer("neighbor_mask", connectivity.mask, persistent=False)
        reverse = reverse_neighbors(connectivity.neighbors, connectivity.mask)
        self.register_buffer("reverse_vertices", reverse.vertices, persistent=False)
        self.register_buffer("reverse_crow", reverse.crow, persistent=False)
        self.vertex_embedding = nn.Parameter(0.1 * torch.randn(len(connectivity.neighbors), 1, channels))
        self.query_embedding = nn.Parameter(0.1 * torch.randn(options.queries, channels))
        self.embed_keys = (
            nn.Sequential(nn.Linear(key_channels, channels), nn.LayerNorm(channels)) if options.intra else None
        )
        self.intra = nn.ModuleList(IntraNode(options) for _ in range(options.layers) if options.intra)
        self.inter = nn.ModuleList(InterNode(options) for _ in range(options.layers) if options.inter)
        if patches is not None:
            self.register_buffer("encoding", patches.encoding, persistent=False)
            self.pooling = PatchPooling(patches)
        self.patch_attention = nn.ModuleList(
            PatchAttention(options) for _ in range(options.layers) if patches is not None
        )
        self.graph_cache = CudaGraphCache()
        self._has_dropout = options.dropout > 0

    @property
    def num_vertices(self) -> int:
        return len(self.neighbors)

    def forward(self, keys: Float[Tensor, "E K"], edges: GaussianVertexEdges) -> Float[Tensor, "B V Q D"]:
        """Features of the Q queries of each vertex.

        Args:
            keys: Description of each edge's Gaussian.
            edges: Edges between Gaussians and vertices.
        """
        is_deterministic = not (self.training and self._has_dropout)
        if is_deterministic and len(self.query_embedding) <= MAX_QUERIES and self.graph_cache.can_capture(keys):
            keys = pad(keys, (0, 0, 0, edge_capacity(len(keys)) - len(keys)))
            return self.graph_cache(self, self._layers, keys, edges.crow)
        return self._layers(keys, edges.crow)

    def _layers(self, keys: Float[Tensor, "E K"], crow: Int[Tensor, "BV+1"]) -> Float[Tensor, "B V Q D"]:
        num_subjects = (len(crow) - 1) // self.num_vertices
        x = (self.vertex_embedding + self.query_embedding).expand(num_subjects, -1, -1, -1)
        reverse = ReverseNeighbors(self.reverse_vertices, self.reverse_crow)
        if self.intra:
            maps = [layer.key_value for layer in self.intra]  # one product for all layers
            weight, bias = (torch.cat([getattr(own, name) for own in maps]) for name in ("weight", "bias"))
            key_values = linear(self.embed_keys(keys), weight, bias).chunk(len(maps), -1)
        counts = crow.diff().view(num_subjects, -1).float() if self.patch_attention else None
        for layer in range(max(len(self.intra), len(self.inter), len(self.patch_attention))):
            if self.intra:
                x = self.intra[layer](x, key_values[layer], crow)
            if self.patch_attention:
                x = self.patch_attention[layer](x, counts, self.encoding, self.pooling)
            if self.inter:
                x = self.inter[layer](x, self.neighbors, self.neighbor_mask, reverse)
        return x


def edge_capacity(num_edges: int) -> int:
    """Number of edges that a captured graph has room for: at most half as many again, beyond some thousands.

    The number of different capacities is small, and so is the number of captured graphs.
    """
    step = max(MIN_CAPACITY, 1 << max(0, num_edges.bit_length() - 2))
    return max(step, -(-num_edges // step) * step)


class IntraNode(nn.Module):
    """Attention of each vertex's queries over the Gaussians, of all frames, with an edge to that vertex.

    A vertex without Gaussians gets no update from this attention, not even a bias.
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
        """One update of the queries. `BodyGraph` applies `key_value` to the keys, for all layers at once."""
        queries, x = norm_linear(x, self.norm.weight, self.norm.bias, self.query.weight, self.query.bias)
        queries = queries.flatten(0, 1).unflatten(-1, (self.heads, -1))
        key_values = key_values.unflatten(-1, (2, self.heads, -1))
        update = segment_attention(queries, key_values, crow).flatten(-2).view(x.shape)
        return self.feed_forward.add_update(x, update, self.out)


class InterNode(nn.Module):
    """Attention of each query over the queries of the same rank on the neighbouring vertices."""

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
        reverse: ReverseNeighbors,
    ) -> Float[Tensor, "B V Q D"]:
        qkv_map = self.query_key_value
        qkv, x = norm_linear(x, self.norm.weight, self.norm.bias, qkv_map.weight, qkv_map.bias)
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        update = neighbor_attention(qkv, neighbors, mask, reverse).flatten(-2)
        return self.feed_forward.add_update(x, update, self.out)


class FeedForward(nn.Sequential):
    """LayerNorm and two linear maps with a GELU between them."""

    def __init__(self, channels: int, factor: int, dropout: float):
        super().__init__(
            nn.LayerNorm(channels),
            nn.Linear(channels, factor * channels),
            nn.GELU(),
            nn.Linear(factor * channels, channels),
            nn.Dropout(dropout),
        )

    def add_update(
        self, x: Float[Tensor, "*batch D"], update: Float[Tensor, "*batch D"], out: nn.Linear
    ) -> Float[Tensor, "*batch D"]:
        """Add attention's update, mapped by `out`, to x, and to this sum what the network computes from it."""
        norm, first, _, last, dropout = self
        if self.training and dropout.p > 0:
            x = x + dropout(out(update))
            return x + self(x)
        own = norm.weight, norm.bias, first.weight, first.bias, last.weight, last.bias
        return residual_feed_forward(x, update, FeedForwardWeights(out.weight, out.bias, *own))
