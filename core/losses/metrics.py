"""Image quality: PSNR of RGB images in [0, 1], one value per image. SSIM and LPIPS: ssim.py and lpips.py."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PSNR_CEILING = 100.0  # dB, for equal images, so that means over images are finite


def quantize(images: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Round images to the values of an 8-bit file: clamped to [0, 1], multiples of 1 / 255. Apply it before metrics."""
    return (images.clamp(0, 1) * 255).round() / 255


def psnr(
    predicted: Float[Tensor, "*batch 3 H W"],
    target: Float[Tensor, "*batch 3 H W"],
    mask: Bool[Tensor, "*batch 1 H W"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio of each image in dB; with a mask (see `box_mask`), of the masked pixels only."""
    squared = (predicted - target).square()
    if mask is None:
        error = squared.mean((-3, -2, -1))
    else:
        error = (squared * mask).sum((-3, -2, -1)) / (3 * mask.sum((-3, -2, -1))).clamp(min=1)
    return -10 * torch.log10(error.clamp(min=10 ** (-PSNR_CEILING / 10)))


def person_boxes(alphas: Float[Tensor, "*batch 1 H W"], padding: float = 0.05) -> Int[Tensor, "*batch 4"]:
    """Bounding box of each mask as (left, top, right, bottom) in pixels, right and bottom excluded.

    Args:
        alphas: Masks; pixels above 0.5 are inside.
        padding: Margin on every side, as a share of the box's longer side, clipped to the image.
    Returns:
        The boxes. An empty mask gives the whole image.
    """
    height, width = alphas.shape[-2:]
    inside = alphas[..., 0, :, :] > 0.5
    left, right = _extent(inside.any(-2))
    top, bottom = _extent(inside.any(-1))
    pad = (padding * torch.maximum(right - left, bottom - top)).ceil().long()
    boxes = [(left - pad).clamp(min=0), (top - pad).clamp(min=0), right + pad, bottom + pad]
    return torch.stack([*boxes[:2], boxes[2].clamp(max=width), boxes[3].clamp(max=height)], -1)


def _extent(flags: Bool[Tensor, "*batch n"]) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch"]]:
    """Index of the first set flag and one past the last, along the last axis; the whole axis if none is set."""
    flags = flags | ~flags.any(-1, keepdim=True)
    first = flags.int().argmax(-1)
    last = flags.shape[-1] - flags.flip(-1).int().argmax(-1)
    return first, last


def box_mask(boxes: Int[Tensor, "*batch 4"], height: int, width: int) -> Bool[Tensor, "*batch 1 H W"]:
    """Mask of the pixels inside each box, for `psnr`."""
    left, top, right, bottom = boxes[..., None].unbind(-2)
    x, y = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    columns, rows = (x >= left) & (x < right), (y >= top) & (y < bottom)
    return (rows[..., :, None] & columns[..., None, :])[..., None, :, :]


def psnr_in_box(
    predicted: Float[Tensor, "*batch 3 H W"],
    target: Float[Tensor, "*batch 3 H W"],
    alphas: Float[Tensor, "*batch 1 H W"],
) -> Float[Tensor, "*batch"]:
    """PSNR inside the padded box of the person, `person_boxes` of the target's mask, where background is rare."""
    return psnr(predicted, target, box_mask(person_boxes(alphas), *target.shape[-2:]))
