"""Timing of the graph, and of the nearest-vertex search that precedes it."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from core.model.graph import BodyGraph, build_edges
from core.ops.nearest_vertices import nearest_vertices_of_sets
from core.options import GraphOptions
from core.runtime.cuda_graphs import AsyncCount
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count
from scripts.benchmarks.common import median_ms, peak_mb, report
from scripts.benchmarks.splat_scenes import body_cloud
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.connectivity import build_connectivity
from smpl_renderer.dispatch import reference_operations
from smpl_renderer.errors import InputError

KEY_CHANNELS = 138  # as in preset `big`
PIXELS_PER_FOREGROUND = 7  # ratio of all pixels of a splat map to those on the person

Operations = Literal["reference", "kernels", "cuda-graph"]
"""Plain PyTorch; kernels launched by the host; kernels replayed from a CUDA graph, the default on CUDA."""

EARLIER_NAMES = {"recorded": "cuda-graph"}
"""Earlier names of operations, accepted in this version only."""


@dataclass(frozen=True)
class GraphTiming:
    """Medians in milliseconds. `peak_mb` is the peak memory of a call beyond its inputs."""

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
    """Median in milliseconds. `inside` is the number of points in the mask."""

    operations: str
    points: int
    inside: int
    vertices: int
    ms: float
    peak_mb: float | None


def graph(
    queries: tuple[Count, ...] = (20, 4),
    features: Count = 128,
    layers: Count = 6,
    frames: Count = 4,
    gaussians: Count = 9_000,
    dtypes: tuple[Literal["bf16", "fp32"], ...] = ("bf16",),
    operations: tuple[Operations | Literal["recorded"], ...] = ("reference", "kernels", "cuda-graph"),
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Time the graph on the stand-in body, forward, and with a backward pass; and the nearest-vertex search.

    Args:
        queries: Queries per vertex; the paper uses 20, the default options 4.
        features: Channels of queries and keys.
        layers: Pairs of intra-node and inter-node attention.
        frames: Number of frames.
        gaussians: Gaussians on the person, per frame.
        dtypes: `bf16` is autocast, which keeps some operations in float32.
        operations: Plain PyTorch, kernels (on a CUDA device), and a CUDA graph of these, the default there; `recorded`
            is its earlier name.
        repeats: Timed calls of each case; by default 20 on a GPU and 3 on a CPU.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    where = pick_device(device)
    repeats = repeats or (20 if where.type == "cuda" else 3)
    if min(frames, gaussians, repeats) < 1:
        raise InputError("frames, gaussians and repeats must be at least 1")
    operations = [EARLIER_NAMES.get(name, name) for name in operations]
    cases = [(name, q, dtype) for dtype in dtypes for q in queries for name in operations]
    timings = []
    for name, q, dtype in tqdm(cases, desc="graph", unit="case"):
        options = GraphOptions(features=features, queries=q, layers=layers)
        timings.append(time_graph(name, options, frames, gaussians, dtype, repeats, where))
    header = ["operations", "queries", "layers", "Gaussians", "dtype", "forward ms", "forward + backward ms", "peak MB"]
    print(report("graph", header, timings, where, out))
    searches = [time_nearest(name, frames, gaussians, repeats, where) for name in operations if name != "cuda-graph"]
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
    """Time one kind of operations for given options, including the assignment of Gaussians to vertices."""
    torch.manual_seed(0)
    body = load_body(STANDIN_BODY)
    network = BodyGraph(options, KEY_CHANNELS, build_connectivity(body, options.neighbors)).to(device)
    network.graph_cache.enabled = operations == "cuda-graph"
    vertex_ids, mask = (x.to(device) for x in random_assignment(frames, gaussians, body.num_vertices, seed=0))
    count = AsyncCount(mask)  # as in the network, where it is known before the U-Net has finished
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
    peak = peak_mb(forward_backward, device)  # with a CUDA graph, during its capture
    total = frames * gaussians
    return GraphTiming(operations, options.queries, options.layers, total, dtype, forward_ms, forward_backward_ms, peak)


def random_assignment(frames: int, gaussians: int, num_vertices: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vertex indices [1, F, M] and mask of M Gaussians per frame; a third of the vertices has none, some have many."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.exp(1.2 * torch.randn(num_vertices, generator=generator))
    weights[torch.rand(num_vertices, generator=generator) < 1 / 3] = 0
    shape = frames, PIXELS_PER_FOREGROUND * gaussians
    vertex_ids = torch.multinomial(weights, math.prod(shape), replacement=True, generator=generator).view(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    start = shape[1] // 3
    mask[:, start : start + gaussians] = True  # contiguous, as in images
    return vertex_ids[None], mask[None]


def time_nearest(
    operations: Operations, frames: int, gaussians: int, repeats: int, device: torch.device
) -> NearestTiming:
    """Time the search; the reference searches for all points and then discards those outside the mask."""
    body = load_body(STANDIN_BODY)
    vertices = body.v_template.float().expand(frames, -1, -1).contiguous().to(device)
    points = torch.stack([body_cloud(PIXELS_PER_FOREGROUND * gaussians, seed).means for seed in range(frames)]).to(
        device
    )
    _, mask = random_assignment(frames, gaussians, body.num_vertices, seed=0)
    mask = mask[0].to(device)

    def search(i: int) -> None:
        with reference_operations() if operations == "reference" else nullcontext():
            nearest_vertices_of_sets(points, vertices, mask)

    ms = median_ms(search, repeats, device)
    return NearestTiming(operations, mask.numel(), int(mask.sum()), body.num_vertices, ms, peak_mb(search, device))
