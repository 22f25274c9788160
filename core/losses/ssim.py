"""Structural similarity (SSIM)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from core.losses.ssim_window import SSIM_C1, SSIM_C2, SSIM_WINDOW, ssim_window
from smpl_renderer.dispatch import can_use_kernels


def ssim(predicted: Float[Tensor, "*batch 3 H W"], target: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch"]:
    """Structural similarity of each image: Gaussian window of 11 x 11, sigma 1.5, range 1; differentiable.

    Only windows inside the image are used, as in the authors' code, scikit-image (`gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`) and torchmetrics.

    Raises:
        ValueError: If the images are smaller than the window.
    Source: Wang et al., Image quality assessment: from error visibility to structural similarity (2004).
    """
    if min(predicted.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {[*predicted.shape[-2:]]}")
    with torch.autocast(predicted.device.type, enabled=False):  # bf16 loses variances, which are small differences
        x, y = (images.reshape(-1, *images.shape[-2:]) for images in (predicted, target))
        if can_use_kernels(x, constants=[y]):
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
    """Weighted mean under the SSIM window at all positions inside the map; the window is separable."""
    if maps.device.type == "cpu":
        return _CpuBlur.apply(maps)
    groups = maps.shape[1]
    window = ssim_window(maps).expand(groups, 1, 1, SSIM_WINDOW)
    return F.conv2d(F.conv2d(maps, window, groups=groups), window.transpose(-1, -2), groups=groups)


class _CpuBlur(torch.autograd.Function):
    """`_blur` as sums of shifted maps, image by image, which a cache holds: much faster than convolutions on a CPU."""

    @staticmethod
    def forward(ctx, maps):
        window = ssim_window(maps).tolist()
        n, k, height, width = maps.shape
        height, width = height - SSIM_WINDOW + 1, width - SSIM_WINDOW + 1
        blurred, rows = maps.new_empty(n, k, height, width), maps.new_empty(k, maps.shape[2], width)
        for image, result in zip(maps, blurred):
            _weighted_sum([image[..., i : i + width] for i in range(SSIM_WINDOW)], window, rows)
            _weighted_sum([rows[:, i : i + height] for i in range(SSIM_WINDOW)], window, result)
        return blurred

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grads):
        window = ssim_window(grads).tolist()
        n, k, height, width = grads.shape
        margin = SSIM_WINDOW - 1
        result, rows = (
            grads.new_zeros(n, k, height + margin, width + margin),
            grads.new_empty(k, height + margin, width),
        )
        for grad, total in zip(grads, result):
            rows.zero_()
            for i, weight in enumerate(window):
                rows[:, i : i + height].add_(grad, alpha=weight)
            for i, weight in enumerate(window):
                total[..., i : i + width].add_(rows, alpha=weight)
        return result


def _weighted_sum(parts: list[Tensor], weights: list[float], out: Tensor) -> None:
    """Write the weighted sum of `parts` to `out`."""
    torch.mul(parts[0], weights[0], out=out)
    for part, weight in zip(parts[1:], weights[1:]):
        out.add_(part, alpha=weight)
