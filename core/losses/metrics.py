"""Image quality: PSNR and SSIM of RGB pictures in [0, 1], one number per picture. LPIPS is in `core.losses.lpips`."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from smpl_renderer.dispatch import use_kernels

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
PSNR_CEILING = 100.0  # dB, for equal pictures: the mean over pictures stays finite


def quantize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What an 8-bit file keeps of a picture: clamped to [0, 1], rounded to 255ths. Measure predictions after it."""
    return (images.clamp(0, 1) * 255).round() / 255


def psnr(
    predicted: Float[Tensor, "*batch 3 H W"],
    target: Float[Tensor, "*batch 3 H W"],
    mask: Bool[Tensor, "*batch 1 H W"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio of each picture in dB; with a mask (see `box_mask`), of its pixels only."""
    squared = (predicted - target).square()
    if mask is None:
        error = squared.mean((-3, -2, -1))
    else:
        error = (squared * mask).sum((-3, -2, -1)) / (3 * mask.sum((-3, -2, -1))).clamp(min=1)
    return -10 * torch.log10(error.clamp(min=10 ** (-PSNR_CEILING / 10)))


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


def person_boxes(alphas: Float[Tensor, "*batch 1 H W"], padding: float = 0.05) -> Int[Tensor, "*batch 4"]:
    """Box of each mask as (left, top, right, bottom) in pixels, right and bottom excluded.

    `padding` is added on every side, as a share of the box's longer side, as far as the picture reaches. An empty mask
    gives the whole picture.
    """
    height, width = alphas.shape[-2:]
    inside = alphas[..., 0, :, :] > 0.5
    left, right = _extent(inside.any(-2))
    top, bottom = _extent(inside.any(-1))
    pad = (padding * torch.maximum(right - left, bottom - top)).ceil().long()
    boxes = [(left - pad).clamp(min=0), (top - pad).clamp(min=0), right + pad, bottom + pad]
    return torch.stack([*boxes[:2], boxes[2].clamp(max=width), boxes[3].clamp(max=height)], -1)


def _extent(flags: Bool[Tensor, "*batch n"]) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch"]]:
    """First and one past the last set flag of each row; all of the row if none is set."""
    flags = flags | ~flags.any(-1, keepdim=True)
    first = flags.int().argmax(-1)
    last = flags.shape[-1] - flags.flip(-1).int().argmax(-1)
    return first, last


def box_mask(boxes: Int[Tensor, "*batch 4"], height: int, width: int) -> Bool[Tensor, "*batch 1 H W"]:
    """The pixels inside each box, for `psnr`."""
    left, top, right, bottom = boxes[..., None].unbind(-2)
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return (rows[..., :, None] & columns[..., None, :])[..., None, :, :]


def psnr_in_box(
    predicted: Float[Tensor, "*batch 3 H W"],
    target: Float[Tensor, "*batch 3 H W"],
    alphas: Float[Tensor, "*batch 1 H W"],
) -> Float[Tensor, "*batch"]:
    """PSNR inside the padded box of the person (`person_boxes` of the target's mask), without the easy white around."""
    return psnr(predicted, target, box_mask(person_boxes(alphas), *target.shape[-2:]))
