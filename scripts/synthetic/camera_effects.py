"""What cameras make of the light that reaches them: their colours, their blur, their noise; and cut-out masks.

All of it runs on the device of the pictures. Random numbers come from one table, so that they are the same on any
device; each picture reads it from a place of its own.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scripts.synthetic.palette import DISPLAY_GAMMA
from scripts.synthetic.seeding import random_stream

READ_NOISE = 4.0
"""Deviation of what reading a pixel adds, in electrons."""
MATTE_CELL = 16
"""Pixels between the nodes of the unevenness along the edges of a mask."""
MAX_BLUR, MAX_MATTE_WIDTH = 0.5, 0.8
_TABLE = 1 << 22


@dataclass(frozen=True)
class CameraLooks:
    """How the C cameras of a capture differ from ideal ones."""

    gains: Float[Tensor, "C 3"]
    """Exposure and white balance, on linear light."""
    gammas: Float[Tensor, " C"]
    """Of the camera's tone curve over the display's."""
    blurs: Float[Tensor, " C"]
    """Deviation of the lens's blur, in pixels of the file."""
    wells: Float[Tensor, " C"]
    """Electrons that a white pixel holds: the fewer, the more noise."""
    matte_widths: Float[Tensor, " C"]
    """Deviation of the blur of a mask's edge, in pixels of the file."""
    matte_shifts: Float[Tensor, " C"]
    """Shrinks the mask (negative; by a quarter of a pixel or so) or grows it."""


@functools.lru_cache(maxsize=64)  # asked for at every moment of a capture; each copy to a GPU waits for it
def sample_looks(seed: int, split: str, index: int, names: tuple[str, ...], device: torch.device) -> CameraLooks:
    """Draw the cameras of a person's capture; each depends on its name, and on no other camera."""
    streams = [random_stream(seed, split, index, f"camera/{name}") for name in names]

    def drawn(values: list) -> Tensor:
        return torch.tensor(np.array(values), dtype=torch.float32, device=device)

    return CameraLooks(
        gains=drawn([rng.uniform(0.97, 1.03) * rng.uniform([0.98, 1.0, 0.98], [1.02, 1.0, 1.02]) for rng in streams]),
        gammas=drawn([rng.uniform(0.98, 1.02) for rng in streams]),
        blurs=drawn([rng.uniform(0.3, MAX_BLUR) for rng in streams]),
        wells=drawn([np.exp(rng.uniform(np.log(6_000), np.log(16_000))) for rng in streams]),
        matte_widths=drawn([rng.uniform(0.4, MAX_MATTE_WIDTH) for rng in streams]),
        matte_shifts=drawn([rng.uniform(-0.2, 0.1) for rng in streams]),
    )


@dataclass(frozen=True)
class PictureNoise:
    """Where the pictures of one moment read the table of random numbers, and the rare errors of their masks."""

    grain: list[int]
    edges: list[int]
    slips: list[tuple[int, int]]
    """Pixels (down, right) by which a mask slips where its edge is worst; (0, 0) for most."""


def sample_noise(seed: int, split: str, index: int, names: tuple[str, ...], frame: int) -> PictureNoise:
    """Draw what differs from picture to picture."""
    grain, edges, slips = [], [], []
    for name in names:
        rng = random_stream(seed, split, index, f"picture/{name}/{frame}")
        grain.append(int(rng.integers(_TABLE)))
        edges.append(int(rng.integers(_TABLE)))
        slip = tuple(int(x) for x in rng.integers(-3, 4, 2))
        slips.append(slip if rng.random() < 0.3 else (0, 0))
    return PictureNoise(grain, edges, slips)


@functools.cache
def _table(device: torch.device) -> Float[Tensor, " N"]:
    """Normal deviates, the table twice over: every place has a table's length after it."""
    values = np.random.default_rng(0).standard_normal(_TABLE, dtype=np.float32)
    return torch.from_numpy(values).to(device).repeat(2)


def _deviates(places: list[int], shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "C *shape"]:
    table, count = _table(device), int(np.prod(shape))
    if count <= _TABLE:
        return torch.stack([table[place : place + count] for place in places]).reshape(-1, *shape)
    index = torch.arange(count, device=device) % _TABLE
    return torch.stack([table[place + index] for place in places]).reshape(-1, *shape)


def expose(colors: Float[Tensor, "C H W 3"], looks: CameraLooks, places: list[int]) -> Float[Tensor, "C H W 3"]:
    """Take pictures: blur, exposure and white balance, shot and read noise, tone curve; in this order.

    Args:
        colors: What an ideal camera would show, in [0, 1].
        looks: The cameras.
        places: `PictureNoise.grain`.
    """
    light = blurred(colors, looks.blurs, MAX_BLUR).clamp(1e-6, 1) ** DISPLAY_GAMMA * looks.gains[:, None, None]
    wells = looks.wells[:, None, None, None]
    # Of n electrons arrive n +- sqrt(n).
    deviation = (light / wells).add_((READ_NOISE / wells) ** 2).sqrt_()
    light = light.addcmul_(deviation, _deviates(places, colors.shape[1:], colors.device))
    return light.clamp_(1e-6, 1) ** (looks.gammas / DISPLAY_GAMMA)[:, None, None, None]


def matte(coverage: Float[Tensor, "C H W"], looks: CameraLooks, noise: PictureNoise) -> Float[Tensor, "C H W"]:
    """Cut people out as matting does: a ramp of 1 to 3 pixels, a little too wide or too narrow, here and there wrong.

    What is further than that from an edge stays as it is.
    """
    height, width = coverage.shape[1:]
    nodes = (height // MATTE_CELL + 2, width // MATTE_CELL + 2)
    rough = _deviates(noise.edges, nodes, coverage.device)
    rough = torch.nn.functional.interpolate(
        rough[:, None], (nodes[0] * MATTE_CELL, nodes[1] * MATTE_CELL), mode="bilinear"
    )[:, 0, :height, :width]
    soft = blurred(coverage[..., None], looks.matte_widths, MAX_MATTE_WIDTH)[..., 0]
    if any(slip != (0, 0) for slip in noise.slips):
        slipped = torch.stack([torch.roll(s, slip, (0, 1)) for s, slip in zip(soft, noise.slips)])
        soft = torch.lerp(soft, slipped, ((rough.abs() - 1.4) / 0.3).clamp(0, 1))
    shift = (looks.matte_shifts[:, None, None] + 0.06 * rough).clamp(-0.25, 0.25)
    return (soft + 4 * shift * soft * (1 - soft)).clamp(0, 1)


def blurred(
    images: Float[Tensor, "C H W K"], deviations: Float[Tensor, " C"], largest: float
) -> Float[Tensor, "C H W K"]:
    """Blur each picture by a Gaussian of its own, cut off at three times the `largest` deviation."""
    radius = int(np.ceil(3 * largest))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / deviations[:, None]).square())
    weights = weights / weights.sum(1, keepdim=True)
    for axis in (1, 2):
        size = images.shape[axis]
        index = (torch.arange(-radius, size + radius, device=images.device)).clamp(0, size - 1)
        padded = images.index_select(axis, index)
        images = torch.zeros_like(images)
        for k in range(2 * radius + 1):
            images.addcmul_(padded.narrow(axis, k, size), weights[:, k, None, None, None])
    return images
