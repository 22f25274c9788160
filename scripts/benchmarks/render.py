"""Timing of the rasterizers on a body-shaped cloud of Gaussians."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from core.render import available_backends
from core.render.backends import load_backend
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count, ImageSize, Positive
from scripts.benchmarks import render_scale
from scripts.benchmarks.common import host_ms, median_ms, peak_mb, report
from scripts.benchmarks.render_job import RenderJob
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RenderTiming:
    """Medians in milliseconds for all views together. All are None if the device's memory does not suffice."""

    backend: str
    gaussians: int
    views: int
    size: int
    forward_ms: float | None = None
    forward_backward_ms: float | None = None
    graph_ms: float | None = None
    """Both passes replayed from a CUDA graph; None for backends that cannot be captured."""
    host_ms: float | None = None
    """Time of the Python calls of both passes, including any synchronisation."""
    peak_mb: float | None = None
    """Peak memory of a call beyond its inputs."""
    forward_ratio: float | None = None
    """Time of the baseline divided by that of this backend: above 1, this backend is faster."""
    forward_backward_ratio: float | None = None


def render(
    backends: tuple[str, ...] = (),
    gaussians: tuple[Count, ...] = (),
    views: tuple[Count, ...] = (1, 8, 32),
    size: ImageSize | None = None,
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
    scale: bool = False,
    minutes: Positive = 8.0,
    scenes: tuple[str, ...] = (),
) -> None:
    """Rasterize a body-shaped cloud of Gaussians from a ring of cameras, forward, and with a loss's backward pass.

    Args:
        backends: Rasterizers; by default all that are available on the device, on a GPU without the definition
            (`torch`), which is not optimised. `triton:cells` and `triton:pairs` set the binning of `triton`.
        gaussians: Numbers of Gaussians; by default 13,000 and 28,000, with `--scale` up to a million.
        views: Numbers of cameras per call.
        size: Width and height of an image in pixels; by default 512, with `--scale` also 1024.
        repeats: Timed calls of each case; by default 20 on a GPU and 5 on a CPU, with `--scale` fewer if they are long.
        device: Device to time.
        out: Also write the timings to this JSON file; with `--scale`, the measurements in it are continued.
        scale: Time all sizes, binnings and scenes, the most important first, and draw the curves to a PNG file beside
            `out`.
        minutes: Time after which `--scale` starts no further case.
        scenes: Scenes of `--scale`, by default all: `body`, `box`, `crowd` (20 people), `screen` (wide splats).
    """
    where = pick_device(device)
    names = backends or default_backends(where)
    for name in names:
        load_backend(name.partition(":")[0], where)
    if scale:
        names = backends or tuple(n for name in names for n in render_scale.VARIANTS.get(name, (name,)))
        plan = render_scale.plan_cases(gaussians, views, (size,) if size else (), scenes)
        render_scale.measure(names, plan, where, minutes, repeats, out or Path("render_scale.json"))
        return
    gaussians, size = gaussians or (13_000, 28_000), size or 512
    repeats = repeats or (20 if where.type == "cuda" else 5)
    timings = []
    for n, v in tqdm([(n, v) for n in gaussians for v in views], desc="render", unit="case"):
        timings += with_ratios([time_render(name, n, v, size, repeats, where) for name in names])
    baseline = baseline_of(names)
    header = ["backend", "Gaussians", "views", "pixels", "forward ms", "forward + backward ms", "in a CUDA graph ms"]
    header += ["host ms", "peak MB", f"forward vs {baseline}", f"both vs {baseline}"]
    print(report("render", header, timings, where, out))


def default_backends(device: torch.device) -> tuple[str, ...]:
    """All backends that can be loaded; on a GPU without the definition, unless it is the only one."""
    names = []
    for name in available_backends(device):
        try:
            load_backend(name, device)
        except InputError as error:  # an installed package that was compiled for another system
            logger.warning("%s", error)
        else:
            names.append(name)
    others = tuple(name for name in names if name != "torch")
    return others if others and device.type == "cuda" else (*others, "torch")


def baseline_of(names: Sequence[str]) -> str:
    """Backend that the others are compared with: the first peer among `names`, else the definition, else the last."""
    return next((name for name in (*render_scale.PEERS, "torch") if name in names), names[-1])


def with_ratios(timings: list[RenderTiming]) -> list[RenderTiming]:
    """Fill in the ratios of backends that were timed at the same work."""
    names = [timing.backend for timing in timings]
    base = timings[names.index(baseline_of(names))]

    def ratio(reference: float | None, value: float | None) -> float | None:
        return reference / value if reference is not None and value is not None else None

    return [
        replace(
            timing,
            forward_ratio=ratio(base.forward_ms, timing.forward_ms),
            forward_backward_ratio=ratio(base.forward_backward_ms, timing.forward_backward_ms),
        )
        for timing in timings
    ]


def time_render(backend: str, count: int, views: int, size: int, repeats: int, device: torch.device) -> RenderTiming:
    """Time one backend; all timings are None if the device's memory does not suffice."""
    if count < 1 or views < 1 or size < 1:
        raise InputError("gaussians, views and size must be at least 1")
    try:
        job = RenderJob(backend, count, views, size, device)
        measured = (
            median_ms(job.forward_without_gradients, repeats, device),
            median_ms(job.forward_backward, repeats, device),
            job.graph_ms(repeats),
            host_ms(job.forward_backward, repeats, device),
            peak_mb(job.forward_backward, device),
        )
    except torch.cuda.OutOfMemoryError:
        measured = ()
    return RenderTiming(backend, count, views, size, *measured)
