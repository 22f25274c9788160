"""Window and constants of SSIM. Wang et al., Image quality assessment: from error visibility to structural similarity
(2004)."""

import torch
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5  # pixels
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def ssim_window(like: Tensor) -> Float[Tensor, "11"]:
    """Weights of the Gaussian window along one axis, with the device and dtype of `like`."""
    offsets = torch.arange(SSIM_WINDOW, device=like.device, dtype=like.dtype) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return window / window.sum()
