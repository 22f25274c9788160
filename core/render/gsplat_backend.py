"""Adapter to gsplat (Ye et al., 2024), version 1.5, on CUDA.

Differences from the definition: single precision only, a pixel stops before the splat that would reduce its
transmittance to 1e-4, and no gradient reaches the intrinsics.
"""

import torch
from gsplat import rasterization
from jaxtyping import Float
from torch import Tensor

from core.render.projection import DILATION, NEAR_PLANE
from core.render.rendering import Rendering, one_batch_axis
from core.render.torch_backend import rasterize as rasterize_reference
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError


@one_batch_axis
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
) -> Rendering:
    """Render `gaussians` (batch axis B) in one call of gsplat; the result has the dtype of the inputs."""
    if not viewmats.is_cuda:
        raise InputError(f"backend gsplat renders CUDA tensors, got tensors on {viewmats.device}; choose backend torch")
    if gaussians.count == 0:  # gsplat divides by the count
        return rasterize_reference(gaussians, viewmats, Ks, width, height, background, return_depth)
    single = gaussians.to(torch.float32)
    with torch.cuda.device(viewmats.device):
        images, alphas, _ = rasterization(
            means=single.means,
            quats=single.quats,
            scales=single.scales,
            opacities=single.opacities,
            colors=single.colors,
            viewmats=viewmats.float(),
            Ks=Ks.float(),
            width=width,
            height=height,
            near_plane=NEAR_PLANE,
            eps2d=DILATION,
            packed=False,
            backgrounds=background.float().expand(*viewmats.shape[:2], 3),
            render_mode="RGB+ED" if return_depth else "RGB",
        )
    images, alphas = (x.movedim(-1, -3).to(viewmats.dtype) for x in (images, alphas))
    return Rendering(images[..., :3, :, :], alphas, images[..., 3:, :, :] if return_depth else None)
