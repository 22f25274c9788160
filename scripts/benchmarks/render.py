"""Timing of the rasterizers on a body-shaped cloud of Gaussians."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from core.render import available_backends, rasterize
from core.render.backends import load_backend
from core.types.cameras import Cameras, look_at
from core.types.gaussians import Gaussians
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count, ImageSize
from scripts.benchmarks.common import graph_replay, host_ms, median_ms, peak_mb, report
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

SCENES = 3  # inputs used in turn, so that no call finds its own data in a cache
CAPTURABLE = ("triton",)  # backends that do not synchronise, so that a CUDA graph can capture them
PEERS = ("gsplat", "diff_gaussian_rasterization")  # rasterizers of other projects


class Limb(NamedTuple):
    """A capsule between two points, in metres, y up, the pelvis at the origin."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


FIGURE = (
    Limb((0, 0, 0), (0, 0.5, 0), 0.15),
    Limb((0, 0.62, 0), (0, 0.72, 0), 0.1),
    *(Limb((0.18 * s, 0.45, 0), (0.48 * s, 0.2, 0.05), 0.05) for s in (1, -1)),
    *(Limb((0.48 * s, 0.2, 0.05), (0.6 * s, -0.05, 0.15), 0.04) for s in (1, -1)),
    *(Limb((0.1 * s, 0, 0), (0.13 * s, -0.42, 0.02), 0.075) for s in (1, -1)),
    *(Limb((0.13 * s, -0.42, 0.02), (0.14 * s, -0.85, 0), 0.055) for s in (1, -1)),
)
"""A person with half-raised arms, which resembles an avatar."""


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
    gaussians: tuple[Count, ...] = (13_000, 28_000),
    views: tuple[Count, ...] = (1, 8, 32),
    size: ImageSize = 512,
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Rasterize a body-shaped cloud of Gaussians from a ring of cameras, forward, and with a loss's backward pass.

    Args:
        backends: Rasterizers; by default all that are available on the device, on a GPU without the definition
            (`torch`), which is not optimised.
        gaussians: Numbers of Gaussians.
        views: Numbers of cameras per call.
        size: Width and height of an image in pixels.
        repeats: Timed calls of each case; by default 20 on a GPU and 5 on a CPU.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    where = pick_device(device)
    names = backends or default_backends(where)
    for name in names:
        load_backend(name, where)
    repeats = repeats or (20 if where.type == "cuda" else 5)
    timings = []
    for n, v in tqdm([(n, v) for n in gaussians for v in views], desc="render", unit="case"):
        timings += with_ratios([time_render(name, n, v, size, repeats, where) for name in names])
    baseline = _baseline(names)
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


def _baseline(names: Sequence[str]) -> str:
    """Backend that the others are compared with: the first peer among `names`, else the definition, else the last."""
    return next((name for name in (*PEERS, "torch") if name in names), names[-1])


def with_ratios(timings: list[RenderTiming]) -> list[RenderTiming]:
    """Fill in the ratios of backends that were timed at the same work."""
    names = [timing.backend for timing in timings]
    base = timings[names.index(_baseline(names))]

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


class RenderJob:
    """Repeatable rendering: call i uses scene i modulo `SCENES`."""

    def __init__(self, backend: str, count: int, views: int, size: int, device: torch.device):
        self.backend, self.size, self.device = backend, size, device
        self.cameras = ring(views, size).to(device)
        self.scenes = [body_cloud(count, seed).map(lambda x: x.to(device).requires_grad_()) for seed in range(SCENES)]
        self.target = torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def forward(self, i: int) -> Tensor:
        cameras, scene = self.cameras, self.scenes[i % SCENES]
        return rasterize(scene, cameras.viewmats, cameras.Ks, self.size, self.size, backend=self.backend).colors

    @torch.no_grad()
    def forward_without_gradients(self, i: int) -> Tensor:
        return self.forward(i)

    def forward_backward(self, i: int) -> tuple[Tensor, ...]:
        """Gradients of a mean squared error."""
        loss = (self.forward(i) - self.target).square().mean()
        return torch.autograd.grad(loss, list(vars(self.scenes[i % SCENES]).values()))

    def graph_ms(self, repeats: int) -> float | None:
        """Median of both passes in CUDA graphs, one per scene; None if the backend cannot be captured."""
        if self.device.type != "cuda" or self.backend not in CAPTURABLE:
            return None
        try:
            graphs = [graph_replay(self.forward_backward, i) for i in range(SCENES)]
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("backend %s cannot be captured in a CUDA graph: %s", self.backend, error)
            return None
        return median_ms(lambda i: graphs[i % SCENES](i), repeats, self.device)


def body_cloud(count: int, seed: int) -> Gaussians:
    """`count` Gaussians of random colours on the surface of `FIGURE`, whose total area is constant; most are opaque."""
    generator = torch.Generator().manual_seed(seed)
    starts, ends = torch.tensor([limb.start for limb in FIGURE]), torch.tensor([limb.end for limb in FIGURE])
    radii = torch.tensor([limb.radius for limb in FIGURE])
    areas = ((ends - starts).norm(dim=-1) + 2 * radii) * radii
    limb = torch.multinomial(areas, count, replacement=True, generator=generator)
    along = torch.rand(count, 1, generator=generator)
    outward = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return Gaussians(
        means=torch.lerp(starts[limb], ends[limb], along) + outward * radii[limb, None],
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=0.009 * math.sqrt(13_000 / count) * torch.exp(0.35 * torch.randn(count, 3, generator=generator)),
        opacities=torch.sigmoid(2 + 1.5 * torch.randn(count, generator=generator)),
        colors=torch.rand(count, 3, generator=generator),
    )


def ring(views: int, size: int) -> Cameras:
    """Cameras on a ring around the figure, 2.4 m away and slightly above, with all of it in view."""
    elevation, half_fov = 0.3, math.radians(49.1) / 2
    angles = torch.arange(views) * (2 * math.pi / views)
    directions = torch.stack(
        [
            angles.sin() * math.cos(elevation),
            torch.full_like(angles, math.sin(elevation)),
            angles.cos() * math.cos(elevation),
        ],
        -1,
    )
    target = torch.tensor([0, -0.05, 0])
    focal = size / 2 / math.tan(half_fov)
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    viewmats = look_at(target + 2.4 * directions, target.expand(views, 3), torch.tensor([0, 1.0, 0]))
    return Cameras(viewmats, K.expand(views, 3, 3), size, size)
