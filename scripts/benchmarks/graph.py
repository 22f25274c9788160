"""Times of the graph, and of the search for nearest vertices that it begins with."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from core.model.edges import build_edges
from core.model.graph import BodyGraph
from core.ops.nearest_vertices import nearest_vertices_of_sets
from core.options import GraphOptions
from core.runtime.async_count import AsyncCount
from core.utils.device import DeviceName, pick_device
from scripts.benchmarks.common import median_ms, peak_mb, report
from scripts.benchmarks.render import body_cloud
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.connectivity import build_connectivity
from smpl_renderer.dispatch import reference_operations
from smpl_renderer.errors import InputError

KEY_CHANNELS = 138  # of preset `big`
FOREGROUND = 7  # pixels of a splat map for each that shows the person

Operations = Literal["reference", "kernels", "recorded"]
"""Plain PyTorch; kernels, each launched by the host; kernels played back from a CUDA graph, as by default on CUDA."""


@dataclass(frozen=True)
class GraphTiming:
    """Medians in milliseconds; the memory is what a call needs at its peak, beyond its inputs."""

    operations: str
    queries: int
    layers: int
    gaussians: int
    dtype: str
    forward_ms: float
    forward_backward_ms: float
    peak_mb: float | None


@dataclass(frozen=True)
class NearestTiming:
    """Medians in milliseconds."""

    operations: str
    points: int
    inside: int
    vertices: int
    ms: float
    peak_mb: float | None


def graph(
    queries: tuple[int, ...] = (20, 4),
    features: int = 128,
    layers: int = 6,
    frames: int = 4,
    gaussians: int = 9_000,
    dtypes: tuple[Literal["bf16", "fp32"], ...] = ("bf16",),
    operations: tuple[Operations, ...] = ("reference", "kernels", "recorded"),
    repeats: int | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Time the graph on the stand-in body, forward, and with a backward pass; and the search for nearest vertices.

    Args:
        queries: Of each vertex; 20 are the paper's, 4 the default.
        features: Channels of queries and keys.
        layers: Each of them intra-node and inter-node attention.
        frames: Moments.
        gaussians: Of each moment, on the person.
        dtypes: `bf16` is autocast's mix with float32.
        operations: Plain PyTorch, kernels (on a CUDA device), and their recording, which is the default there.
        repeats: Timed calls of each case; by default 20 on a GPU and 3 on a CPU.
        device: Where.
        out: Write the numbers as JSON to this file, too.
    """
    where = pick_device(device)
    repeats = repeats or (20 if where.type == "cuda" else 3)
    if min(frames, gaussians, repeats) < 1:
        raise InputError("frames, gaussians and repeats must be at least 1")
    cases = [(name, q, dtype) for dtype in dtypes for q in queries for name in operations]
    timings = []
    for name, q, dtype in tqdm(cases, desc="graph", unit="case"):
        options = GraphOptions(features=features, queries=q, layers=layers)
        timings.append(time_graph(name, options, frames, gaussians, dtype, repeats, where))
    header = ["operations", "queries", "layers", "Gaussians", "dtype", "forward ms", "forward + backward ms", "peak MB"]
    print(report("graph", header, timings, where, out))
    searches = [time_nearest(name, frames, gaussians, repeats, where) for name in operations if name != "recorded"]
    header = ["nearest vertex", "points", "on the person", "vertices", "ms", "peak MB"]
    print(report("nearest", header, searches, where, out))


def time_graph(
    operations: Operations,
    options: GraphOptions,
    frames: int,
    gaussians: int,
    dtype: Literal["bf16", "fp32"],
    repeats: int,
    device: torch.device,
) -> GraphTiming:
    """Time one kind of operations at one job, tying included."""
    torch.manual_seed(0)
    body = load_body(STANDIN_BODY)
    network = BodyGraph(options, KEY_CHANNELS, build_connectivity(body, options.neighbors)).to(device)
    network.graph_cache.enabled = operations == "recorded"
    vertex_ids, mask = (x.to(device) for x in tied_gaussians(frames, gaussians, body.num_vertices, seed=0))
    count = AsyncCount(mask)  # as in the network, where it is there before the U-Net is through
    keys = torch.randn(frames * gaussians, KEY_CHANNELS).to(device).requires_grad_()
    cotangent = torch.randn(1, body.num_vertices, options.queries, options.features).to(device)
    parameters = [keys, *network.parameters()]

    def forward(i: int) -> Tensor:
        with reference_operations() if operations == "reference" else nullcontext():
            edges = build_edges(vertex_ids, mask, body.num_vertices, count)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
                return network(keys, edges)

    def forward_without_gradients(i: int) -> None:
        with torch.no_grad():
            forward(i)

    def forward_backward(i: int) -> None:
        torch.autograd.grad(forward(i), parameters, cotangent)

    forward_ms = median_ms(forward_without_gradients, repeats, device)
    forward_backward_ms = median_ms(forward_backward, repeats, device)
    network.graph_cache.clear()
    forward_backward(0)
    peak = peak_mb(forward_backward, device)  # where there is a recording, while it is made
    total = frames * gaussians
    return GraphTiming(operations, options.queries, options.layers, total, dtype, forward_ms, forward_backward_ms, peak)


def tied_gaussians(frames: int, gaussians: int, num_vertices: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vertices [1, F, M] and a mask of Gaussians; a third of the vertices has none, some have many."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.exp(1.2 * torch.randn(num_vertices, generator=generator))
    weights[torch.rand(num_vertices, generator=generator) < 1 / 3] = 0
    shape = frames, FOREGROUND * gaussians
    vertex_ids = torch.multinomial(weights, math.prod(shape), replacement=True, generator=generator).view(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    start = shape[1] // 3
    mask[:, start : start + gaussians] = True  # together, as in pictures
    return vertex_ids[None], mask[None]


def time_nearest(
    operations: Operations, frames: int, gaussians: int, repeats: int, device: torch.device
) -> NearestTiming:
    """Time the search, of which the reference runs once for all points and then drops those outside."""
    body = load_body(STANDIN_BODY)
    vertices = body.v_template.float().expand(frames, -1, -1).contiguous().to(device)
    points = torch.stack([body_cloud(FOREGROUND * gaussians, seed).means for seed in range(frames)]).to(device)
    _, mask = tied_gaussians(frames, gaussians, body.num_vertices, seed=0)
    mask = mask[0].to(device)

    def search(i: int) -> None:
        with reference_operations() if operations == "reference" else nullcontext():
            nearest_vertices_of_sets(points, vertices, mask)

    ms = median_ms(search, repeats, device)
    return NearestTiming(operations, mask.numel(), int(mask.sum()), body.num_vertices, ms, peak_mb(search, device))
