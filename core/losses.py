"""What training minimises: how far renderings are from photographs, and frame Gaussians from the body."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from core.lpips import LPIPS
from core.metrics import ssim
from core.options import LossOptions

Terms = dict[str, Tensor]
"""Unweighted losses by name, each a scalar."""


def reconstruction_loss(
    colors: Float[Tensor, "*batch 3 H W"],
    alphas: Float[Tensor, "*batch 1 H W"],
    target_colors: Float[Tensor, "*batch 3 H W"],
    target_alphas: Float[Tensor, "*batch 1 H W"],
    options: LossOptions,
    lpips: LPIPS | None = None,
) -> Terms:
    """Compare renderings with photographs, both on white. Terms that weigh nothing are not computed.

    Args:
        lpips: The perceptual distance; without it there is no such term.
    Source: HGG, Sec. 3.4: MSE of colours, LPIPS, MSE of silhouettes. The SSIM term is ours.
    """
    terms = {"rgb": F.mse_loss(colors, target_colors)}
    if options.alpha > 0:
        terms["alpha"] = F.mse_loss(alphas, target_alphas)
    if options.ssim > 0:
        terms["ssim"] = 1 - ssim(colors, target_colors).mean()
    if options.lpips > 0 and lpips is not None:
        reduced = (_reduce(x, options.lpips_size) for x in (colors, target_colors))
        terms["lpips"] = lpips(*reduced).mean()
    return terms


def tie_loss(distances: Float[Tensor, "*batch M"], mask: Bool[Tensor, "*batch M"]) -> Float[Tensor, ""]:
    """Pull frame Gaussians to the body: mean of (10 d)^3 over the masked ones, d in metres to the nearest vertex.

    Nothing at a centimetre, strong from a decimetre on. Zero when the mask is empty.
    """
    cubes = (10 * distances.where(mask, 0)).pow(3)
    return cubes.sum() / mask.sum().clamp(min=1)


def weighted_sum(terms: Terms, options: LossOptions) -> Tensor:
    """The loss: every term times its weight, the option of its name. Entries that have no weight do not count."""
    weights = vars(options)
    return sum(weights[name] * value for name, value in terms.items() if name in weights)


def _reduce(images: Float[Tensor, "*batch 3 H W"], size: int) -> Float[Tensor, "n 3 h w"]:
    """Larger pictures at `size` pixels: averages of areas, so nothing aliases."""
    images = images.flatten(0, -4)
    return F.interpolate(images, size=(size, size), mode="area") if images.shape[-1] > size else images
