"""Camera effects (colour response, blur, noise) and masks like those of matting.

Runs on the device of the images. Random numbers come from one table, read at an offset of each image, so that they are
equal on all devices.
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
"""Standard deviation of the read noise in electrons."""
MATTE_CELL = 16
"""Pixels between the nodes of the noise along the edges of a mask."""
MAX_BLUR, MAX_MATTE_WIDTH = 0.5, 0.8
_TABLE = 1 << 22


@dataclass(frozen=True)
class CameraResponses:
    """Deviations of C cameras from ideal ones."""

    gains: Float[Tensor, "C 3"]
    """Exposure and white balance: factors on linear light."""
    gammas: Float[Tensor, " C"]
    """Exponent of the tone curve relative to the display's."""
    blurs: Float[Tensor, " C"]
    """Standard deviation of the blur of the lens, in pixels of the file."""
    wells: Float[Tensor, " C"]
    """Electrons of a white pixel; fewer electrons give more noise."""
    matte_widths: Float[Tensor, " C"]
    """Standard deviation of the blur of mask edges, in pixels of the file."""
    matte_shifts: Float[Tensor, " C"]
    """Shift of mask edges, positive outwards; 0.25 is about a quarter of a pixel."""


@functools.lru_cache(maxsize=64)  # used in each frame of a capture, and a copy to a GPU waits for all queued work
def sample_responses(
    seed: int, split: str, index: int, names: tuple[str, ...], device: torch.device
) -> CameraResponses:
    """Draw the cameras of a capture; each depends on its name and on no other camera."""
    streams = [random_stream(seed, split, index, f"camera/{name}") for name in names]

    def drawn(values: list) -> Tensor:
        return torch.tensor(np.array(values), dtype=torch.float32, device=device)

    return CameraResponses(
        gains=drawn([rng.uniform(0.97, 1.03) * rng.uniform([0.98, 1.0, 0.98], [1.02, 1.0, 1.02]) for rng in streams]),
        gammas=drawn([rng.uniform(0.98, 1.02) for rng in streams]),
        blurs=drawn([rng.uniform(0.3, MAX_BLUR) for rng in streams]),
        wells=drawn([np.exp(rng.uniform(np.log(6_000), np.log(16_000))) for rng in streams]),
        matte_widths=drawn([rng.uniform(0.4, MAX_MATTE_WIDTH) for rng in streams]),
        matte_shifts=drawn([rng.uniform(-0.2, 0.1) for rng in streams]),
    )


@dataclass(frozen=True)
class ImageNoise:
    """Offsets into the table of random numbers of the images of one frame, and the rare errors of their masks."""

    grain: list[int]
    """Offsets of the noise of pixels."""
    edges: list[int]
    """Offsets of the noise of mask edges."""
    slips: list[tuple[int, int]]
    """Displacement (down, right) of a mask in pixels where its edge is worst; (0, 0) for most."""


def sample_noise(seed: int, split: str, index: int, names: tuple[str, ...], frame: int) -> ImageNoise:
    """Draw the noise of the images of one frame."""
    grain, edges, slips = [], [], []
    for name in names:
        rng = random_stream(seed, split, index, f"picture/{name}/{frame}")
        grain.append(int(rng.integers(_TABLE)))
        edges.append(int(rng.integers(_TABLE)))
        slip = tuple(int(x) for x in rng.integers(-3, 4, 2))
        slips.append(slip if rng.random() < 0.3 else (0, 0))
    return ImageNoise(grain, edges, slips)


@functools.cache
def _table(device: torch.device) -> Float[Tensor, " N"]:
    """Normal deviates, the table repeated twice: a full table follows every offset of the first copy."""
    values = np.random.default_rng(0).standard_normal(_TABLE, dtype=np.float32)
    return torch.from_numpy(values).to(device).repeat(2)


def _normal_deviates(offsets: list[int], shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "C *shape"]:
    table, count = _table(device), int(np.prod(shape))
    if count <= _TABLE:
        return torch.stack([table[offset : offset + count] for offset in offsets]).reshape(-1, *shape)
    index = torch.arange(count, device=device) % _TABLE
    return torch.stack([table[offset + index] for offset in offsets]).reshape(-1, *shape)


def expose(
    colors: Float[Tensor, "C H W 3"], responses: CameraResponses, offsets: list[int]
) -> Float[Tensor, "C H W 3"]:
    """Apply blur, exposure and white balance, shot and read noise, and the tone curve, in this order.

    Args:
        colors: Images of ideal cameras, in [0, 1].
        responses: The cameras.
        offsets: `ImageNoise.grain`.
    """
    light = blurred(colors, responses.blurs, MAX_BLUR).clamp(1e-6, 1) ** DISPLAY_GAMMA * responses.gains[:, None, None]
    wells = responses.wells[:, None, None, None]
    # Shot noise: n electrons have a standard deviation of sqrt(n).
    deviation = (light / wells).add_((READ_NOISE / wells) ** 2).sqrt_()
    light = light.addcmul_(deviation, _normal_deviates(offsets, colors.shape[1:], colors.device))
    return light.clamp_(1e-6, 1) ** (responses.gammas / DISPLAY_GAMMA)[:, None, None, None]


def matte(coverage: Float[Tensor, "C H W"], responses: CameraResponses, noise: ImageNoise) -> Float[Tensor, "C H W"]:
    """Masks like those of matting: edges are ramps of 1 to 3 pixels, slightly shifted, in few places displaced.

    Pixels farther than that from an edge are unchanged.
    """
    height, width = coverage.shape[1:]
    nodes = (height // MATTE_CELL + 2, width // MATTE_CELL + 2)
    rough = _normal_deviates(noise.edges, nodes, coverage.device)
    rough = torch.nn.functional.interpolate(
        rough[:, None], (nodes[0] * MATTE_CELL, nodes[1] * MATTE_CELL), mode="bilinear"
    )[:, 0, :height, :width]
    soft = blurred(coverage[..., None], responses.matte_widths, MAX_MATTE_WIDTH)[..., 0]
    if any(slip != (0, 0) for slip in noise.slips):
        slipped = torch.stack([torch.roll(s, slip, (0, 1)) for s, slip in zip(soft, noise.slips)])
        soft = torch.lerp(soft, slipped, ((rough.abs() - 1.4) / 0.3).clamp(0, 1))
    shift = (responses.matte_shifts[:, None, None] + 0.06 * rough).clamp(-0.25, 0.25)
    return (soft + 4 * shift * soft * (1 - soft)).clamp(0, 1)


def blurred(
    images: Float[Tensor, "C H W K"], deviations: Float[Tensor, " C"], largest: float
) -> Float[Tensor, "C H W K"]:
    """Blur each image with a Gaussian of its own standard deviation, truncated at three times the `largest`."""
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
