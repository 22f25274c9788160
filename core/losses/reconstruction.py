"""Training losses: renderings against target images, and the distance of frame Gaussians from the body."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.losses.lpips import LPIPS
from core.losses.ssim import ssim
from core.options import LossOptions
from core.utils.resample import resample_area

Terms = dict[str, Tensor]
"""Unweighted losses by name, each a scalar. Those that have a weight are named as in `LossOptions`."""


def reconstruction_loss(
    colors: Float[Tensor, "*batch 3 H W"],
    alphas: Float[Tensor, "*batch 1 H W"],
    target_colors: Float[Tensor, "*batch 3 H W"],
    target_alphas: Float[Tensor, "*batch 1 H W"],
    options: LossOptions,
    lpips: LPIPS | None = None,
    crop_index: int = 0,
) -> Terms:
    """Compare renderings with target images, both on white. Terms of weight 0 are not computed.

    Args:
        options: Weights of the terms, and the image size for LPIPS.
        lpips: The perceptual distance; without it that term is omitted.
        crop_index: Index of the crop of the first image for LPIPS, see `crops`; used with `lpips_crops` only.
    Source: HGG, Sec. 3.4: MSE of colours, LPIPS, MSE of silhouettes. The SSIM term is ours.
    """
    terms = {"rgb": F.mse_loss(colors, target_colors)}
    if options.alpha > 0:
        terms["alpha"] = F.mse_loss(alphas, target_alphas)
    if options.ssim > 0:
        terms["ssim"] = 1 - ssim(colors, target_colors).mean()
    if options.lpips > 0 and lpips is not None:
        size = min(options.lpips_size, colors.shape[-1])
        if options.lpips_crops:
            reduced = [crops(x, size, crop_index) for x in (colors, target_colors)]
        else:
            reduced = [resample_area(x, size) for x in (colors, target_colors)]
        terms["lpips"] = lpips(*reduced).mean()
    return terms


def crops(images: Float[Tensor, "*batch F C 3 H H"], size: int, crop_index: int = 0) -> Float[Tensor, "P 3 S S"]:
    """Cut one square of `size` x `size` from each image, at positions that alternate over the images of a subject.

    The positions together cover an image, and overlap where `size` does not divide its side H. The order of the images
    is not kept.

    Args:
        crop_index: Offset of the positions. If it increases by 1 per step, every image is covered in successive steps.
    """
    images = images.flatten(-5, -4)
    side = images.shape[-1]
    count = -(-side // size)
    starts = [round(i * (side - size) / max(1, count - 1)) for i in range(count)]
    corners = [(top, left) for top in starts for left in starts]
    selected = []
    for k in range(len(corners)):
        top, left = corners[(k + crop_index) % len(corners)]
        crop = images[..., k :: len(corners), :, top : top + size, left : left + size]
        selected.append(crop.flatten(0, -4))
    return torch.cat(selected)


def surface_distance_loss(
    distances: Float[Tensor, "B *frames M"], mask: Bool[Tensor, "B *frames M"]
) -> Float[Tensor, ""]:
    """Pull frame Gaussians to the body: mean of (10 d)^3 over the masked ones, d in metres to the nearest vertex.

    Negligible at a centimetre, strong from a decimetre on. The mean over subjects weighs each equally, so that the loss
    does not depend on how subjects are batched; a subject with an empty mask contributes 0.
    """
    cubes = (10 * distances.where(mask, 0)).pow(3)
    return (cubes.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)).mean()


def weighted_sum(terms: Terms, options: LossOptions) -> Tensor:
    """Sum of the terms times their weights, the options of the same names. Entries without a weight are ignored."""
    weights = vars(options)
    return sum(weights[name] * value for name, value in terms.items() if name in weights)
