"""Structural similarity (SSIM)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from smpl_renderer.dispatch import use_kernels

SSIM_WINDOW = 11


SSIM_SIGMA = 1.5


SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def ssim(predicted: Float[Tensor, "*batch 3 H W"], target: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch"]:
    """Structural similarity of each picture: Gaussian window of 11 x 11, sigma 1.5, range 1; differentiable.

    Windows that reach past the border do not count, as in the authors' code, scikit-image
    (`gaussian_weights=True, sigma=1.5, use_sample_covariance=False`) and torchmetrics.

    Raises:
        ValueError: If the pictures are smaller than the window.
    Source: Wang et al., Image quality assessment: from error visibility to structural similarity (2004).
    """
    if min(predicted.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs pictures of at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {[*predicted.shape[-2:]]}"
        )
    with torch.autocast(predicted.device.type, enabled=False):  # variances are small differences: bf16 would lose them
        x, y = (images.reshape(-1, *images.shape[-2:]) for images in (predicted, target))
        is_single = x.dtype == y.dtype == torch.float32
        if x.is_cuda and is_single and x.numel() > 0 and not target.requires_grad and use_kernels():
            from core.losses.ssim_kernel import SsimMeans  # needs Triton

            means = SsimMeans.apply(x.contiguous(), y.contiguous())
        else:
            means = ssim_reference(x, y)
        return means.view(*predicted.shape[:-2]).mean(-1)


def ssim_reference(x: Float[Tensor, "n H W"], y: Float[Tensor, "n H W"]) -> Float[Tensor, " n"]:
    """Define `ssim` of single channels in plain PyTorch."""
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack([x, y, x * x, y * y, x * y], 1)).unbind(1)
    var_x, var_y, cov = mean_xx - mean_x**2, mean_yy - mean_y**2, mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    similarity = luminance * (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return similarity.mean((-2, -1))


def _blur(maps: Float[Tensor, "n k H W"]) -> Float[Tensor, "n k h w"]:
    """Mean under the SSIM window, where it fits; the window is separable."""
    groups = maps.shape[1]
    window = ssim_window(maps).expand(groups, 1, 1, SSIM_WINDOW)
    return F.conv2d(F.conv2d(maps, window, groups=groups), window.transpose(-1, -2), groups=groups)


def ssim_window(like: Tensor) -> Float[Tensor, "11"]:
    """Along one axis, of the device and dtype of another tensor."""
    offsets = torch.arange(SSIM_WINDOW, device=like.device, dtype=like.dtype) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return window / window.sum()
