"""Resampling of images by area averages."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def average_blocks(images: Float[Tensor, "*batch D H W"], block: int) -> Float[Tensor, "*batch D h w"]:
    """Means over blocks of `block` x `block` pixels; `block` divides the size of the images."""
    return avg_pool2d(images.flatten(0, -4), block).unflatten(0, images.shape[:-3])


def resample_area(images: Float[Tensor, "*batch D H W"], size: int) -> Float[Tensor, "*batch D S S"]:
    """Resample to `size` x `size` pixels, each the mean over its area, which avoids aliasing."""
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    flat = images.flatten(0, -4)
    if height % size == width % size == 0:  # equals the other branch, with half the memory traffic
        resampled = avg_pool2d(flat, (height // size, width // size))
    else:
        resampled = interpolate(flat, size=(size, size), mode="area")
    return resampled.view(*images.shape[:-2], size, size)
