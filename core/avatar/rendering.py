"""Rendering of avatars and sets of Gaussians, with optional supersampling."""

import math

from jaxtyping import Float
from torch import Tensor

from core.avatar.avatar import Avatar
from core.avatar.skinning import pose_avatar
from core.render import Rendering, rasterize
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from core.utils.resample import average_blocks
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams


def supersampling(size: int, trained_size: int | None) -> int:
    """How many times as large as its picture an avatar is to be drawn: at least as large as training drew it.

    Every splat is widened by the same part of a pixel (`core.render.projection.DILATION`). Training makes up for that
    in the size that it draws in; in a smaller picture, whose pixels are larger, the avatar would look fat.

    Args:
        size: Pixels of the picture.
        trained_size: Pixels of those that the network's training drew; None if that is not known.
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
    """Draw avatars `[*batch]` in poses `[*batch, P]`, each pose from cameras `[*batch, P, C]` in its own world.

    Args:
        background, backend, enlarge: As for `render_gaussians`.
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
) -> Rendering:
    """Draw sets of Gaussians `[*batch]`, each set from its own cameras `[*batch, C]`.

    Args:
        background: Grey value or colour.
        backend: Rasterizer, as for `rasterize`.
        enlarge: Draw this many times as large (see `supersampling`), and average: a photograph's pixels are means, too.
    """
    if supersample > 1:
        large = cameras.resized(supersample * cameras.width, supersample * cameras.height)
        rendering = render_gaussians(gaussians, large, background=background, backend=backend)
        return rendering.map(lambda x: average_blocks(x, supersample))
    size = cameras.width, cameras.height
    return rasterize(gaussians, cameras.viewmats, cameras.Ks, *size, background=background, backend=backend)
