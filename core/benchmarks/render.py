"""Times of the rasterizers on a body-shaped cloud of Gaussians."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from core.benchmarks.common import median_ms, peak_mb, report
from core.cameras import Cameras, look_at
from core.device import DeviceName, pick_device
from core.gaussians import Gaussians
from core.render import available_backends, rasterize
from smpl_renderer.errors import InputError

SCENES = 3  # inputs taken in turn, so that no call finds its own data in a cache


class Limb(NamedTuple):
    """A capsule: from one point to another, and its radius. Metres, y up, the pelvis at the origin."""

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
"""A person with arms half raised: what the avatars are to a rasterizer."""


@dataclass(frozen=True)
class RenderTiming:
    """Medians in milliseconds, all views together; the memory is what a call needs at its peak, beyond its inputs."""

    backend: str
    gaussians: int
    views: int
    size: int
    forward_ms: float
    forward_backward_ms: float
    peak_mb: float | None


def render(
    backends: tuple[str, ...] = (),
    gaussians: tuple[int, ...] = (13_000, 28_000),
    views: tuple[int, ...] = (1, 8),
    size: int = 512,
    repeats: int | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Rasterize a body-shaped cloud of Gaussians from a ring of cameras, forward, and with a loss's backward pass.

    Args:
        backends: By default all that can run here.
        gaussians: How many.
        views: Cameras in one call.
        size: Width and height of a picture, in pixels.
        repeats: Timed calls of each case; by default 20 on a GPU and 5 on a CPU.
        device: Where.
        out: Write the numbers as JSON to this file, too.
    """
    where = pick_device(device)
    names = backends or (available_backends() if where.type == "cuda" else ("torch",))
    repeats = repeats or (20 if where.type == "cuda" else 5)
    cases = [(name, n, v) for n in gaussians for v in views for name in names]
    timings = [time_render(*case, size, repeats, where) for case in tqdm(cases, desc="render", unit="case")]
    header = ["backend", "Gaussians", "views", "pixels", "forward ms", "forward + backward ms", "peak MB"]
    print(report("render", header, timings, where, out))


def time_render(backend: str, count: int, views: int, size: int, repeats: int, device: torch.device) -> RenderTiming:
    """Time one backend at one job."""
    if count < 1 or views < 1 or size < 1:
        raise InputError("gaussians, views and size must be at least 1")
    cameras = ring(views, size).to(device)
    scenes = [body_cloud(count, seed).map(lambda x: x.to(device).requires_grad_()) for seed in range(SCENES)]
    target = torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def forward(i: int) -> Tensor:
        return rasterize(scenes[i % SCENES], cameras.viewmats, cameras.Ks, size, size, backend=backend).colors

    def forward_without_gradients(i: int) -> None:
        with torch.no_grad():
            forward(i)

    def forward_backward(i: int) -> None:
        loss = (forward(i) - target).square().mean()
        torch.autograd.grad(loss, list(vars(scenes[i % SCENES]).values()))

    forward_ms = median_ms(forward_without_gradients, repeats, device)
    forward_backward_ms = median_ms(forward_backward, repeats, device)
    peak = peak_mb(forward_backward, device)
    return RenderTiming(backend, count, views, size, forward_ms, forward_backward_ms, peak)


def body_cloud(count: int, seed: int) -> Gaussians:
    """`count` Gaussians of random colours on the skin of `FIGURE`, the smaller the more, most of them nearly opaque."""
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
    """Cameras around the figure, 2.4 m away and slightly above, which see all of it."""
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
