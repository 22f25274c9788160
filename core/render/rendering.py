"""Output of a rasterizer, and helpers that backends share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.types.gaussians import Gaussians
from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Rendering(TensorStructure):
    """Images of Gaussians, composed on a background."""

    colors: Float[Tensor, "*batch C 3 H W"]
    alphas: Float[Tensor, "*batch C 1 H W"]
    """Coverage of each pixel by the Gaussians."""
    depths: Float[Tensor, "*batch C 1 H W"] | None = None
    """Mean depth in metres along the optical axis: sum_k w_k z_k / sum_k w_k with the weights of compositing; 0 where
    alpha is 0."""
    weights: Float[Tensor, "*batch C N"] | None = None
    """Sum of each Gaussian's compositing weights over the pixels of each image, if requested and supported by the
    backend. No gradient."""

    @property
    def images(self) -> dict[str, Tensor]:
        """The images by name, without those that were not requested."""
        named = {"colors": self.colors, "alphas": self.alphas, "depths": self.depths}
        return {name: image for name, image in named.items() if image is not None}


def one_batch_axis(draw: Callable[..., Rendering]) -> Callable[..., Rendering]:
    """Extend a backend for sets of Gaussians `[B]` to any batch axes."""

    @functools.wraps(draw)
    def draw_any(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, *arguments, **options) -> Rendering:
        batch = gaussians.batch_shape

        def flat(x: Tensor) -> Tensor:
            return x.reshape(batch.numel(), *x.shape[len(batch) :])

        rendering = draw(gaussians.map(flat), flat(viewmats), flat(Ks), *arguments, **options)
        return rendering.map(lambda x: x.reshape(*batch, *x.shape[1:]))

    return draw_any


def compose(
    sums: Float[Tensor, "*batch C D H W"],
    transmittances: Float[Tensor, "*batch C 1 H W"],
    background: Float[Tensor, "3"],
) -> Rendering:
    """Compose weighted sums of colours (D = 3), or of colours and depths (D = 4), on a background."""
    alphas = 1 - transmittances
    colors = sums[..., :3, :, :] + transmittances * background[:, None, None]
    if sums.shape[-3] == 3:
        return Rendering(colors, alphas)
    covered = alphas > 0
    depths = torch.where(covered, sums[..., 3:, :, :] / torch.where(covered, alphas, 1.0), 0.0)
    return Rendering(colors, alphas, depths)
