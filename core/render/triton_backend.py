"""Backend `triton`: the definition of `core/render/torch_backend.py` as GPU kernels, with nothing to build beforehand.

Three stages, each a file of `core/render/kernels/`: `project` turns Gaussians into a table of splats, `bin` lists
those that each tile of the pictures needs, `composite` draws the tiles. All sets and cameras go through one set of
launches, and nothing waits for the device but the first call with given sizes; see `bin` for what happens if there is
more to draw than was expected.

It differs from the definition in that a tile of pixels stops once less than 1e-4 of the light passes anywhere in it.
Pictures are the same at every run, as long as no list overflows. Gradients differ in their last bits, for the additions
to a splat's gradient come in any order.
"""

import os

import torch
from jaxtyping import Float
from torch import Tensor

from core.render import torch_backend
from core.render.binning_kernel import TileLists, bin_tiles
from core.render.compositing_kernel import composite, composite_backward
from core.render.launch import aligned
from core.render.projection_kernel import project, project_backward
from core.render.rendering import Rendering
from core.render.splat_table import DepthOrder, depth_keys_reference, project_rows_reference
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError

TILE = 8  # pixels along a tile's side


@torch.compiler.disable  # there is nothing in here to compile, and Dynamo stumbles over launches
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
    capacity: int | None = None,
) -> Rendering:
    """Draw sets of Gaussians `[*batch]`; the result has the dtype of the inputs.

    Gradients reach `viewmats` and `Ks` at some cost in time: the projection is then PyTorch's.

    Args:
        capacity: Slots for the tiles' lists; by default learned from earlier calls of the same sizes.
    """
    if not viewmats.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"backend triton draws CUDA tensors, these are on {viewmats.device}; choose backend torch")
    if gaussians.count == 0:
        return torch_backend.rasterize(gaussians, viewmats, Ks, width, height, background, return_depth)
    dtype = viewmats.dtype
    if dtype != torch.float32:
        gaussians, viewmats, Ks, background = (
            gaussians.to(torch.float32),
            viewmats.float(),
            Ks.float(),
            background.float(),
        )
    size = width, height, return_depth, capacity
    if torch.is_grad_enabled() and (viewmats.requires_grad or Ks.requires_grad):
        rows = project_rows_reference(gaussians, viewmats, Ks, width, height)
        keys = depth_keys_reference(rows.detach(), gaussians.means.detach(), viewmats.detach())
        pictures = _Composite.apply(rows, background, keys, *size)
    else:
        g = gaussians
        pictures = _Rasterize.apply(g.means, g.quats, g.scales, g.opacities, g.colors, background, viewmats, Ks, *size)
    rendering = Rendering(*pictures)
    return rendering if dtype == torch.float32 else rendering.map(lambda x: x.to(dtype))


class _Rasterize(torch.autograd.Function):
    """From Gaussians to pictures, in one node of the graph: nodes cost more time on the host than these kernels."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, background, viewmats, Ks, width, height, depth, capacity):
        gaussians = Gaussians(*(aligned(x) for x in (means, quats, scales, opacities, colors)))
        viewmats, Ks = aligned(viewmats), aligned(Ks)
        with torch.cuda.device_of(means):
            rows, order = project(gaussians, viewmats, Ks, width, height)
            lists = bin_tiles(rows, order, width, height, TILE, capacity)
            pictures = composite(rows, aligned(background), lists, width, height, depth)
        ctx.save_for_backward(*vars(gaussians).values(), viewmats, Ks, *_saved(rows, lists, pictures))
        ctx.size = width, height, lists.capacity
        ctx.set_materialize_grads(False)
        return pictures

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_pictures):
        means, quats, scales, opacities, colors, viewmats, Ks, *drawn = ctx.saved_tensors
        width, height, capacity = ctx.size
        grads = [None] * 5
        if any(ctx.needs_input_grad[:5]):
            gaussians = Gaussians(means, quats, scales, opacities, colors)
            with torch.cuda.device_of(means):
                grad_rows = _table_gradient(drawn, capacity, grad_pictures)
                grads = vars(project_backward(gaussians, viewmats, Ks, width, height, grad_rows)).values()
        grad_background = _background_gradient(drawn, grad_pictures) if ctx.needs_input_grad[5] else None
        return *grads, grad_background, *[None] * 6


class _Composite(torch.autograd.Function):
    """From a table of splats to pictures."""

    @staticmethod
    def forward(ctx, rows, background, keys, width, height, depth, capacity):
        rows = aligned(rows)
        with torch.cuda.device_of(rows):
            lists = bin_tiles(rows, DepthOrder(keys), width, height, TILE, capacity)
            pictures = composite(rows, aligned(background), lists, width, height, depth)
        ctx.save_for_backward(*_saved(rows, lists, pictures))
        ctx.capacity = lists.capacity
        ctx.set_materialize_grads(False)
        return pictures

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grad_pictures):
        drawn = ctx.saved_tensors
        with torch.cuda.device_of(drawn[0]):
            grad_rows = _table_gradient(drawn, ctx.capacity, grad_pictures)
        grad_background = _background_gradient(drawn, grad_pictures) if ctx.needs_input_grad[1] else None
        return grad_rows, grad_background, *[None] * 5


def _saved(rows: Tensor, lists: TileLists, pictures: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """What the two functions below take as `drawn`."""
    return rows, lists.slots, lists.ranges, lists.used, *pictures


def _table_gradient(drawn: tuple[Tensor, ...], capacity: int, grad_pictures: tuple[Tensor | None, ...]) -> Tensor:
    rows, slots, ranges, used, *pictures = drawn
    return composite_backward(rows, TileLists(slots, ranges, used, capacity, TILE), *pictures, *grad_pictures)


def _background_gradient(drawn: tuple[Tensor, ...], grad_pictures: tuple[Tensor | None, ...]) -> Tensor | None:
    *_, alphas, _ = drawn
    grad_colors = grad_pictures[0]
    return None if grad_colors is None else (grad_colors * (1 - alphas)).flatten(0, -4).sum((0, 2, 3))
