"""Backend `triton`: the definition of `core/render/torch_backend.py` as GPU kernels that need no build step.

Three stages: `projection_kernel.py` projects Gaussians to a table of splats, `binning_kernel.py` or
`pair_binning.py` lists the splats of each tile (`binning.py` chooses), `compositing_kernel.py` composites the
tiles. All sets and cameras share one set of launches. Only the first call with given sizes synchronises with the
device; see the binnings for what happens if lists overflow later.

Difference from the definition: a tile stops once its transmittance is below 1e-4 at all pixels. Images are
deterministic as long as no list overflows. Gradients vary in their last bits, since the order of atomic additions does.
"""

import os

import torch
from jaxtyping import Float
from torch import Tensor

from core.render import binning_kernel, pair_binning
from core.render.binning import Binning, choose_binning
from core.render.compositing_kernel import composite, composite_backward
from core.render.launch import aligned
from core.render.projection_kernel import project, project_backward
from core.render.rendering import Rendering
from core.render.splat_table import DepthOrder, depth_keys_reference, splat_table_reference
from core.render.tile_lists import TileLists
from core.render.torch_backend import rasterize as rasterize_reference
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError

TILE = 8  # side of a tile in pixels
MAX_GRAD_BYTES = 2**27
"""Gradient of splat tables that is held at a time, or a quarter of the tables: all of it would be as large as
everything else together. Each group of views takes at least as long as its longest list of a tile."""


@torch.compiler.disable  # nothing to compile, and Dynamo cannot trace the launches
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
    capacity: int | None = None,
    binning: str | None = None,
    return_weights: bool = False,
) -> Rendering:
    """Render sets of Gaussians `[*batch]`; the result has the dtype of the inputs.

    If `viewmats` or `Ks` need gradients, the projection runs in PyTorch, which is slower.

    Args:
        capacity: Slots for the tiles' lists; by default estimated from earlier calls of the same sizes.
        binning: As for `choose_binning`.
    """
    if not viewmats.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(f"backend triton renders CUDA tensors, got tensors on {viewmats.device}; choose backend torch")
    if gaussians.count == 0:
        return rasterize_reference(gaussians, viewmats, Ks, width, height, background, return_depth)
    dtype = viewmats.dtype
    if dtype != torch.float32:
        gaussians, viewmats, Ks, background = (
            gaussians.to(torch.float32),
            viewmats.float(),
            Ks.float(),
            background.float(),
        )
    num_views = viewmats.shape[:-2].numel()
    binning = choose_binning(viewmats.device, num_views, gaussians.count, width, height, TILE, capacity, binning)
    size = width, height, return_depth, capacity, binning, return_weights
    if torch.is_grad_enabled() and (viewmats.requires_grad or Ks.requires_grad):
        table = splat_table_reference(gaussians, viewmats, Ks, width, height)
        keys = depth_keys_reference(table.detach(), gaussians.means.detach(), viewmats.detach())
        images = _Composite.apply(table, background, keys, *size)
    else:
        g = gaussians
        images = _Rasterize.apply(g.means, g.quats, g.scales, g.opacities, g.colors, background, viewmats, Ks, *size)
    *images, weights = images
    rendering = Rendering(*images, weights if return_weights else None)
    return rendering if dtype == torch.float32 else rendering.map(lambda x: x.to(dtype))


class _Rasterize(torch.autograd.Function):
    """Rendering of Gaussians to images in one autograd node: each node costs more host time than these kernels."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, background, viewmats, Ks, *options):
        width, height, depth, capacity, binning, with_weights = options
        gaussians = Gaussians(*(aligned(x) for x in (means, quats, scales, opacities, colors)))
        viewmats, Ks = aligned(viewmats), aligned(Ks)
        with torch.cuda.device_of(means):
            table, lists = _project_and_bin(gaussians, viewmats, Ks, (width, height), capacity, binning)
            weights = table.new_zeros(table.shape[:-1] if with_weights else 0)
            images = composite(
                table, aligned(background), lists, width, height, depth, weights if with_weights else None
            )
        ctx.save_for_backward(*vars(gaussians).values(), viewmats, Ks, *_saved(table, lists, images))
        ctx.size = width, height, lists.capacity
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(weights)
        return *images, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads_of_outputs):
        grad_images = grads_of_outputs[:3]
        means, quats, scales, opacities, colors, viewmats, Ks, *saved = ctx.saved_tensors
        width, height, capacity = ctx.size
        grads = [None] * 5
        if any(ctx.needs_input_grad[:5]):
            gaussians = Gaussians(means, quats, scales, opacities, colors)
            with torch.cuda.device_of(means):
                grads = _gaussian_gradients(gaussians, viewmats, Ks, (width, height), saved, capacity, grad_images)
                grads = vars(grads).values()
        grad_background = _background_gradient(saved, grad_images) if ctx.needs_input_grad[5] else None
        return *grads, grad_background, *[None] * 8


class _Composite(torch.autograd.Function):
    """Compositing of a splat table to images."""

    @staticmethod
    def forward(ctx, table, background, keys, width, height, depth, capacity, binning, with_weights):
        table = aligned(table)
        with torch.cuda.device_of(table):
            order = DepthOrder(keys)
            if binning == "cells":
                lists = binning_kernel.bin_tiles(table, order, width, height, TILE, capacity)
            else:
                ranks = pair_binning.rank_splats(order, width, height, TILE, capacity)
                lists = pair_binning.bin_tiles(table, ranks, width, height, TILE, capacity)
            weights = table.new_zeros(table.shape[:-1] if with_weights else 0)
            images = composite(
                table, aligned(background), lists, width, height, depth, weights if with_weights else None
            )
        ctx.save_for_backward(*_saved(table, lists, images))
        ctx.capacity = lists.capacity
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(weights)
        return *images, weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads_of_outputs):
        grad_images = grads_of_outputs[:3]
        saved = ctx.saved_tensors
        with torch.cuda.device_of(saved[0]):
            grad_table = _table_gradient(saved, ctx.capacity, grad_images)
        grad_background = _background_gradient(saved, grad_images) if ctx.needs_input_grad[1] else None
        return grad_table, grad_background, *[None] * 7


def _project_and_bin(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    size: tuple[int, int],
    capacity: int | None,
    binning: Binning,
) -> tuple[Tensor, TileLists]:
    table, order = project(gaussians, viewmats, Ks, *size, linked=binning == "cells")
    if binning == "cells":
        return table, binning_kernel.bin_tiles(table, order, *size, TILE, capacity)
    ranks = pair_binning.rank_splats(order, *size, TILE, capacity)
    del order  # a sixth of the memory that binning needs otherwise
    return table, pair_binning.bin_tiles(table, ranks, *size, TILE, capacity)


def _saved(table: Tensor, lists: TileLists, images: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Tensors of the forward pass that the two functions below take as `saved`."""
    return table, lists.slots, lists.ranges, lists.used, *images


def _table_gradient(
    saved: tuple[Tensor, ...], capacity: int, grad_images: tuple[Tensor | None, ...], views: range | None = None
) -> Tensor:
    table, slots, ranges, used, *images = saved
    return composite_backward(table, TileLists(slots, ranges, used, capacity, TILE), *images, *grad_images, views)


def _gaussian_gradients(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    size: tuple[int, int],
    saved: tuple[Tensor, ...],
    capacity: int,
    grad_images: tuple[Tensor | None, ...],
) -> Gaussians:
    """Gradients of sets of Gaussians, in groups of views whose splat tables have at most `MAX_GRAD_BYTES`."""
    table = saved[0]
    view_bytes = 4 * table.shape[-2:].numel()
    max_bytes = max(MAX_GRAD_BYTES, view_bytes * table.shape[:-2].numel() // 4)
    if view_bytes * table.shape[:-2].numel() <= max_bytes:
        return project_backward(gaussians, viewmats, Ks, *size, _table_gradient(saved, capacity, grad_images))
    sets, cameras = gaussians.batch_shape.numel(), viewmats.shape[-3]
    own = gaussians.map(lambda x: x.reshape(sets, *x.shape[len(gaussians.batch_shape) :]))
    viewmats, Ks = viewmats.reshape(sets, cameras, 4, 4), Ks.reshape(sets, cameras, 3, 3)
    grads = own.map(torch.empty_like)
    some_sets = max(1, max_bytes // (cameras * view_bytes))
    some_cameras = cameras if cameras * view_bytes <= max_bytes else max(1, max_bytes // view_bytes)
    for b in range(0, sets, some_sets):
        of_sets = slice(b, b + some_sets)
        group = own[of_sets].map(aligned)
        out = grads if some_sets >= sets else group.map(torch.empty_like)  # parts of `grads` need not be aligned
        for c in range(0, cameras, some_cameras):
            chosen = of_sets, slice(c, c + some_cameras)
            views = viewmats[chosen]
            first = b * cameras + c
            grad_table = _table_gradient(saved, capacity, grad_images, range(first, first + views.shape[:2].numel()))
            project_backward(group, aligned(views), aligned(Ks[chosen]), *size, grad_table, out, add=c > 0)
            del grad_table  # before the next is allocated
        if out is not grads:
            for total, x in zip(vars(grads[of_sets]).values(), vars(out).values()):
                total.copy_(x)
    return grads.map(lambda x: x.reshape(*gaussians.batch_shape, *x.shape[1:]))


def _background_gradient(saved: tuple[Tensor, ...], grad_images: tuple[Tensor | None, ...]) -> Tensor | None:
    *_, alphas, _ = saved
    grad_colors = grad_images[0]
    return None if grad_colors is None else (grad_colors * (1 - alphas)).flatten(0, -4).sum((0, 2, 3))
