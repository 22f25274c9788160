"""Pictures at another size."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def average_blocks(pictures: Float[Tensor, "*batch D H W"], block: int) -> Float[Tensor, "*batch D h w"]:
    """Means over blocks of `block` x `block` pixels, which fill the pictures."""
    return avg_pool2d(pictures.flatten(0, -4), block).unflatten(0, pictures.shape[:-3])


def resample_area(pictures: Float[Tensor, "*batch D H W"], size: int) -> Float[Tensor, "*batch D S S"]:
    """Means over the areas of `size` x `size` new pixels, so that nothing aliases."""
    height, width = pictures.shape[-2:]
    if height == width == size:
        return pictures
    flat = pictures.flatten(0, -4)
    if height % size == width % size == 0:  # the same with half the memory traffic
        resampled = avg_pool2d(flat, (height // size, width // size))
    else:
        resampled = interpolate(flat, size=(size, size), mode="area")
    return resampled.view(*pictures.shape[:-2], size, size)
