"""Rendering of avatars and sets of Gaussians, with optional supersampling."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.avatar.avatar import Avatar, pose_avatar
from core.render import Rendering, rasterize
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from core.utils.resample import average_blocks
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams


def supersampling(size: int, trained_size: int | None) -> int:
    """Supersampling factor with which an image is rendered at least as large as the images of training.

    The rasterizer dilates every splat by a constant in pixels (`core.render.projection.DILATION`). Training compensates
    for that at its image size; in smaller images, whose pixels are larger, the avatar would appear too wide.

    Args:
        size: Side of the image in pixels.
        trained_size: Side of the images rendered in training; None if unknown.
    """
    return max(1, math.ceil((trained_size or 0) / size))


def render_avatar(
    avatar: Avatar,
    body: BodyModel,
    params: BodyParams,
    cameras: Cameras,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    supersample: int = 1,
) -> Rendering:
    """Render avatars `[*batch]` in poses `[*batch, P]`, each pose from cameras `[*batch, P, C]` in its own world.

    Args:
        background, backend, supersample: As for `render_gaussians`.
    """
    gaussians = pose_avatar(avatar, body, params)
    return render_gaussians(gaussians, cameras, background=background, backend=backend, supersample=supersample)


def render_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    supersample: int = 1,
    return_weights: bool = False,
) -> Rendering:
    """Render sets of Gaussians `[*batch]`, each set from its own cameras `[*batch, C]`.

    Args:
        background: Grey value or colour.
        backend: Rasterizer, as for `rasterize`.
        supersample: Factor by which images are rendered larger and then averaged in blocks (see `supersampling`).
        return_weights: As for `rasterize`; not with supersampling.
    """
    if supersample > 1:
        large = cameras.resized(supersample * cameras.width, supersample * cameras.height)
        rendering = render_gaussians(gaussians, large, background=background, backend=backend)
        return rendering.map(lambda x: average_blocks(x, supersample))
    size = cameras.width, cameras.height
    options = {"background": background, "backend": backend, "return_weights": return_weights}
    return rasterize(gaussians, cameras.viewmats, cameras.Ks, *size, **options)


def summed_weights(
    rendering: Rendering, colors: Float[Tensor, "B N 3"], counts: Float[Tensor, "B F C 1 1 1"]
) -> Float[Tensor, "B N"]:
    """Sum of each Gaussian's compositing weights over the pixels of some images [B, F, C], without gradients.

    Args:
        rendering: The images. Their graph of autograd is freed if the backend returns no weights.
        colors: The leaf of autograd from which the Gaussians of all F poses have their colours.
        counts: 1 for images that count, 0 for others.
    """
    if rendering.weights is not None:
        return (counts[..., 0, 0] * rendering.weights).sum((1, 2))
    # The derivative of an image's sum with respect to a colour is the sum of the Gaussian's weights.
    (sums,) = torch.autograd.grad(rendering.colors, colors, counts.expand_as(rendering.colors))
    return sums[..., 0]
