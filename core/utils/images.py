"""Images as bytes and files. Tensors are RGB in [0, 1], channels first; arrays have 8 bits, channels last."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from smpl_renderer.files import atomic_path


def to_bytes(image: Float[Tensor, "3 H W"]) -> np.ndarray:
    """Convert an image to 8 bits per channel, `[H, W, 3]`; values are clamped to [0, 1] and rounded."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be [3, H, W], got {tuple(image.shape)}; pass one RGB image, channels first")
    return image.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().contiguous().numpy()


def from_bytes(pixels: np.ndarray) -> Float[Tensor, "3 H W"]:
    """Convert an image of 8 bits per channel to floats: the inverse of `to_bytes`."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255


def save_image(path: Path, image: Float[Tensor, "3 H W"]) -> None:
    """Write an image atomically; the suffix of `path` selects the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_bytes(image)).save(temporary)


def to_rgba_bytes(image: Float[Tensor, "3 H W"], alpha: Float[Tensor, "1 H W"]) -> np.ndarray:
    """Convert an image that was composed on white to 8 bits per channel with straight alpha, `[H, W, 4]`."""
    straight = 1 - (1 - image) / alpha.clamp_min(1 / 255)
    return np.dstack([to_bytes(straight), to_bytes(alpha.expand(3, -1, -1))[..., :1]])


def save_rgba(path: Path, image: Float[Tensor, "3 H W"], alpha: Float[Tensor, "1 H W"]) -> None:
    """Write an image that was composed on white as PNG with straight alpha.

    Args:
        image: Colours composed on white.
        alpha: Coverage of each pixel; where it is 1 everywhere, the file holds the image as it is.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(to_rgba_bytes(image, alpha), "RGBA").save(temporary, format="PNG")
