"""Scenes of random Gaussians that rasterizers are timed on, and cameras around them."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from core.types.cameras import Cameras, look_at
from core.types.gaussians import Gaussians

CROWD = 20  # people


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


def box(count: int, seed: int) -> Gaussians:
    """`count` Gaussians spread through a box of 2 x 2 x 2 m, most of them inside the images; half are translucent."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.rand(count, 3, generator=generator) - 1
    opacities = torch.rand(count, generator=generator)
    scales = 0.02 * (13_000 / count) ** (1 / 3) * torch.exp(0.5 * torch.randn(count, 3, generator=generator))
    return replace(body_cloud(count, seed), means=means, opacities=opacities, scales=scales)


def crowd(count: int, seed: int) -> Gaussians:
    """`CROWD` people of equal numbers of Gaussians, on a disk of 2 m; those in front hide others."""
    generator = torch.Generator().manual_seed(seed)
    gaussians = body_cloud(count, seed)
    angles = 2 * math.pi * torch.rand(CROWD, generator=generator)
    radii = 2 * torch.rand(CROWD, generator=generator).sqrt()
    places = torch.stack([radii * angles.sin(), torch.zeros(CROWD), radii * angles.cos()], -1)
    person = torch.arange(count) % CROWD
    return replace(gaussians, means=0.5 * gaussians.means + places[person], scales=0.5 * gaussians.scales)


def screen(count: int, seed: int) -> Gaussians:
    """`count` Gaussians as `box`, of which 1 % are a metre wide and faint, each covering most of an image."""
    gaussians = box(count, seed)
    wide = torch.arange(count) % 100 == 0
    return replace(
        gaussians,
        scales=torch.where(wide[:, None], 1.0, gaussians.scales),
        opacities=torch.where(wide, 0.02, gaussians.opacities),
    )


SCENES: dict[str, Callable[[int, int], Gaussians]] = {"body": body_cloud, "box": box, "crowd": crowd, "screen": screen}
"""Functions of the number of Gaussians and a seed."""


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
