"""Backend `triton`: the definition of `core/render/torch_backend.py` as GPU kernels, with nothing to build beforehand.

Three stages, each a file of `core/render/kernels/`: `project` turns Gaussians into a table of splats, `bin` lists
those that each tile of the pictures needs, `composite` draws the tiles. All sets and cameras go through one set of
launches, and nothing waits for the device but the first call with given sizes; see `bin` for what happens if there is
more to draw than was expected.

It differs from the definition in that a tile of pixels stops once less than 1e-4 of the light passes anywhere in it.
"""

import os

import torch
from jaxtyping import Float
from torch import Tensor

from core.gaussians import Gaussians
from core.render import torch_backend
from core.render.kernels.bin import bin_tiles
from core.render.kernels.composite import composite
from core.render.kernels.project import project_rows
from core.render.types import Rendering
from smpl_renderer.errors import InputError

TILE = 8  # pixels along a tile's side


def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
    capacity: int | None = None,
) -> Rendering:
    """Draw `gaussians` (batch axis B); the result has the dtype of the inputs.

    Gradients reach `viewmats` and `Ks` at some cost in time: the projection is then PyTorch's.

    Args: capacity: Pairs of a tile and a splat that the lists hold; by default learned from earlier calls of the same
    sizes.
    """
    if not viewmats.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"backend triton draws CUDA tensors, these are on {viewmats.device}; choose backend torch")
    if gaussians.count == 0:
        return torch_backend.rasterize(gaussians, viewmats, Ks, width, height, background, return_depth)
    single = gaussians.to(torch.float32)
    viewmats, Ks = viewmats.float(), Ks.float()
    rows, keys = project_rows(single, viewmats, Ks, width, height)
    lists = bin_tiles(rows.detach(), keys, width, height, TILE, capacity)
    colors, alphas, depths = composite(rows, background.float(), lists, width, height, return_depth)
    return Rendering(colors, alphas, depths).map(lambda x: x.to(gaussians.means.dtype))
