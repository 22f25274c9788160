"""What training minimises: how far renderings are from photographs, and frame Gaussians from the body."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.losses.lpips import LPIPS
from core.losses.ssim import ssim
from core.options import LossOptions
from core.utils.resample import resample_area

Terms = dict[str, Tensor]
"""Unweighted losses by name, each a scalar."""


def reconstruction_loss(
    colors: Float[Tensor, "*batch 3 H W"],
    alphas: Float[Tensor, "*batch 1 H W"],
    target_colors: Float[Tensor, "*batch 3 H W"],
    target_alphas: Float[Tensor, "*batch 1 H W"],
    options: LossOptions,
    lpips: LPIPS | None = None,
    crop_index: int = 0,
) -> Terms:
    """Compare renderings with photographs, both on white. Terms that weigh nothing are not computed.

    Args:
        lpips: The perceptual distance; without it there is no such term.
        turn: Which piece of the first picture it sees, if it sees pieces.
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


def crops(pictures: Float[Tensor, "*batch F C 3 H H"], size: int, crop_index: int = 0) -> Float[Tensor, "P 3 S S"]:
    """One square of each picture: of neighbours among a person's F*C different ones, which together cover a picture.

    They overlap where `size` does not divide the picture's. The order of pictures is not kept.

    Args:
        turn: By how many squares all are turned on; with another one in each step, every picture is seen whole.
    """
    pictures = pictures.flatten(-5, -4)
    side = pictures.shape[-1]
    count = -(-side // size)
    starts = [round(i * (side - size) / max(1, count - 1)) for i in range(count)]
    corners = [(top, left) for top in starts for left in starts]
    squares = []
    for k in range(len(corners)):
        top, left = corners[(k + crop_index) % len(corners)]
        own = pictures[..., k :: len(corners), :, top : top + size, left : left + size]
        squares.append(own.flatten(0, -4))
    return torch.cat(squares)


def surface_distance_loss(
    distances: Float[Tensor, "B *frames M"], mask: Bool[Tensor, "B *frames M"]
) -> Float[Tensor, ""]:
    """Pull frame Gaussians to the body: mean of (10 d)^3 over the masked ones, d in metres to the nearest vertex.

    Nothing at a centimetre, strong from a decimetre on. Every person counts the same, so that it does not matter who
    shares a batch with whom; zero for one whose mask is empty.
    """
    cubes = (10 * distances.where(mask, 0)).pow(3)
    return (cubes.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)).mean()


def weighted_sum(terms: Terms, options: LossOptions) -> Tensor:
    """The loss: every term times its weight, the option of its name. Entries that have no weight do not count."""
    weights = vars(options)
    return sum(weights[name] * value for name, value in terms.items() if name in weights)
