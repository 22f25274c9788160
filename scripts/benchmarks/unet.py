"""Timing of the U-Net with plain and with fused operations."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from core.model.decode import RAW_CHANNELS
from core.model.unet import INPUT_CHANNELS, UNet
from core.options import MODELS
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count
from scripts.benchmarks.common import median_ms, peak_mb, report
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class UNetTiming:
    """Medians in milliseconds. `peak_mb` is the memory of both passes beyond weights and inputs."""

    model: str
    operations: str
    forward_ms: float
    forward_backward_ms: float | None
    peak_mb: float | None
    start_s: float
    """Duration of the first call minus that of later ones: compilation, copies of weights, graph capture."""


def unet(
    models: tuple[str, ...] = ("big", "small", "tiny", "demo"),
    frames: Count = 4,
    views: Count = 4,
    compile: bool = False,
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Run the U-Nets forward, and with a backward pass; on CUDA in bfloat16.

    The rows: plain operations, one frame at a time and all at once; fused operations, also with recomputation; a frozen
    network, also from a CUDA graph; with `--compile`, the plain operations compiled.

    Args:
        models: Presets.
        frames: Number of frames.
        views: Cameras per frame.
        compile: Also time `torch.compile` of the plain operations, which starts within minutes for large models.
        repeats: Timed calls of each case; by default 20 on a GPU and 3 on a CPU.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise InputError(f"unknown model {unknown[0]!r}; choose from {', '.join(MODELS)}")
    where = pick_device(device)
    repeats = repeats or (20 if where.type == "cuda" else 3)
    timings = []
    for name in tqdm(models, desc="unet", unit="model"):
        timings += time_unet(name, frames, views, repeats, where, compile)
    header = ["model", "operations", "forward ms", "forward + backward ms", "peak MB", "start s"]
    print(report("unet", header, timings, where, out))


def time_unet(
    name: str, frames: int, views: int, repeats: int, device: torch.device, compile: bool
) -> Iterator[UNetTiming]:
    """Time one preset with all kinds of operations that the device supports."""
    options = MODELS[name].unet
    torch.manual_seed(0)
    network = UNet(options, RAW_CHANNELS).to(device, memory_format=torch.channels_last)
    size = options.input_size
    x = torch.randn(frames, views, INPUT_CHANNELS, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def frame_by_frame(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*(network(frame) for frame in x.split(1))))

    def measure(operations: str, run: Callable[[Tensor], tuple[Tensor, ...]], trains: bool = True) -> UNetTiming:
        return _time(name, operations, run, x, list(network.parameters()) if trains else [], repeats)

    network.reference = True
    yield measure("plain, frame by frame", frame_by_frame)
    yield measure("plain", network)
    if device.type == "cuda":
        network.reference = False
        yield measure("fused", network)
        network.recompute = True
        yield measure("fused, recomputing", network)
        network.recompute = False
        network.requires_grad_(False)
        yield measure("frozen", network, trains=False)
        network.frozen.graph_cache.enabled = True
        yield measure("frozen, CUDA graph", network, trains=False)
        network.requires_grad_(True)
    if compile:
        network.compile()
        yield measure("compiled", network)
    del network
    gc.collect()


def _time(
    model: str,
    operations: str,
    run: Callable[[Tensor], tuple[Tensor, ...]],
    x: Tensor,
    parameters: list[Tensor],
    repeats: int,
) -> UNetTiming:
    device = x.device

    def outputs() -> tuple[Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return run(x)

    def forward(_: int) -> None:
        with torch.no_grad():
            outputs()

    def forward_backward(_: int) -> None:
        # Cotangents of order one, since zeros or tiny values are not representative.
        torch.autograd.grad(outputs(), parameters, [cotangent.clone() for cotangent in cotangents])

    start = time.perf_counter()
    with torch.no_grad():
        cotangents = [torch.randn_like(output) for output in outputs()]
    if parameters:
        forward_backward(0)
    else:
        forward(0)
    _wait(device)
    start_s = time.perf_counter() - start

    forward_ms = median_ms(forward, repeats, device)
    both_ms = median_ms(forward_backward, repeats, device) if parameters else None
    peak = peak_mb(forward_backward if parameters else forward, device)
    start_s = max(0.0, start_s - (forward_ms + (both_ms or forward_ms)) / 1000)
    return UNetTiming(model, operations, forward_ms, both_ms, peak, start_s)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
