"""Backend `numba`: the definition of `core/render/torch_backend.py` as compiled kernels for CPUs, on several threads.

`projection_numba.py` projects Gaussians to a table of splats, `binning_numba.py` lists the splats of each tile,
`compositing_numba.py` composites the tiles. The kernels compute in float32; images and gradients are deterministic and
do not depend on the number of threads. Inputs in float64 are rendered by the definition.

The first call on a machine compiles the kernels, which takes some seconds; `warm_up` does it ahead.
"""

import itertools
import logging
import math
import threading
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.render import projection
from core.render.binning_numba import bin_tiles
from core.render.compositing_numba import SCRATCH, composite, composite_backward, sum_pairs
from core.render.numba_common import NUM_GRADS, STRIDE, TILE_HEIGHT, TILE_WIDTH, WHITENER_UNIT
from core.render.projection_numba import project, project_backward
from core.render.rendering import Rendering, one_batch_axis
from core.render.torch_backend import rasterize as rasterize_reference
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

PART = 4096
"""Gaussians that a thread projects at a time."""


@torch.compiler.disable  # Dynamo cannot trace the kernels
@one_batch_axis
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
    return_weights: bool = False,
) -> Rendering:
    """Render sets of Gaussians `[B]`. With depth, or if cameras need gradients, the projection runs in PyTorch."""
    if viewmats.device.type != "cpu":
        raise InputError(f"backend numba renders tensors on a CPU, got tensors on {viewmats.device}; choose auto")
    if viewmats.dtype != torch.float32 or gaussians.count == 0:
        return rasterize_reference(gaussians, viewmats, Ks, width, height, background, return_depth)
    size = width, height
    cameras_need_gradients = torch.is_grad_enabled() and (viewmats.requires_grad or Ks.requires_grad)
    if not (return_depth or cameras_need_gradients):
        g = gaussians
        images = _Rasterize.apply(
            g.means, g.quats, g.scales, g.opacities, g.colors, background, viewmats, Ks, *size, return_weights
        )
        return Rendering(images[0], images[1], weights=images[2] if return_weights else None)
    table, depths = _splat_table(gaussians, viewmats, Ks, width, height)
    colors, alphas, weights = _Composite.apply(table, background, *size, return_weights)
    rendering = Rendering(colors, alphas, weights=weights if return_weights else None)
    if not return_depth:
        return rendering
    as_colors = torch.cat([table[..., :8], depths[..., None].expand(*depths.shape, 3), table[..., 11:]], -1)
    sums = _Composite.apply(as_colors, torch.zeros_like(background), *size, False)[0][..., :1, :, :]
    covered = alphas > 0
    depths = torch.where(covered, sums / torch.where(covered, alphas, 1.0), 0.0)
    return Rendering(colors, alphas, depths, rendering.weights)


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache, by rendering a small image; report a compilation."""
    bin_tiles(np.empty((0, STRIDE), np.float32), 8, 8)
    stats = bin_tiles.stats
    if stats.cache_path is None:
        logger.info("compiling the rasterizer for this CPU (some seconds; set NUMBA_CACHE_DIR to a folder to keep it)")
    elif stats.cache_misses:
        logger.info("compiling the rasterizer for this CPU (some seconds, once)")
    with torch.inference_mode(False), torch.enable_grad():
        ones = torch.ones(1, 1, 3)
        leaf = torch.full((1, 1, 3), 0.1, requires_grad=True)
        gaussians = Gaussians(leaf, torch.ones(1, 1, 4), leaf, ones[..., 0], ones)
        K = torch.tensor([[[[8.0, 0, 4], [0, 8, 4], [0, 0, 1]]]])
        camera = torch.eye(4)
        camera[2, 3] = 2
        colors, alphas, _ = _Rasterize.apply(*vars(gaussians).values(), ones[0, 0], camera[None, None], K, 8, 8, True)
        torch.autograd.grad(colors.sum() + alphas.sum(), leaf)


def _splat_table(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int
) -> tuple[Float[Tensor, "B C N 12"], Float[Tensor, "B C N"]]:
    """The splat table of `numba_common` and the depths, in plain PyTorch."""
    per_camera = gaussians.map(lambda x: x.unsqueeze(1))
    splats = projection.project(per_camera, viewmats, Ks, width, height)
    shape = splats.depths.shape
    log2_opacities = per_camera.opacities.clamp_min(projection.ALPHA_MIN).log2().expand(shape)
    cuts = (log2_opacities.detach() - math.log2(projection.ALPHA_MIN)).clamp_min(0)
    cuts = torch.where((splats.extents > 0).all(-1), cuts, -1.0)
    columns = [
        *(splats.means2d, splats.whiteners * WHITENER_UNIT, log2_opacities[..., None]),
        *(splats.depths.detach()[..., None], cuts[..., None], per_camera.colors.expand(*shape, 3)),
    ]
    return torch.nn.functional.pad(torch.cat(columns, -1), (0, 1)), splats.depths


class _Rasterize(torch.autograd.Function):
    """Rendering of Gaussians to images, with all its gradients in one autograd node."""

    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, background, viewmats, Ks, width, height, with_weights):
        gaussians = Gaussians(*(x.contiguous() for x in (means, quats, scales, opacities, colors)))
        viewmats, Ks = viewmats.contiguous(), Ks.contiguous()
        table = _project(gaussians, viewmats, Ks, width, height)
        images, lists = _composite(table, background, width, height, with_weights)
        ctx.save_for_backward(*vars(gaussians).values(), viewmats, Ks, table, background, *images[:2])
        ctx.size, ctx.lists = (width, height), lists
        ctx.mark_non_differentiable(images[2])
        ctx.set_materialize_grads(False)
        return images

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_colors, grad_alphas, _):
        means, quats, scales, opacities, colors, viewmats, Ks, table, background, *images = ctx.saved_tensors
        grads = [None] * 5
        if any(ctx.needs_input_grad[:5]):
            grad_table = _composite_backward(table, background, ctx.lists, *images, grad_colors, grad_alphas)
            gaussians = Gaussians(means, quats, scales, opacities, colors)
            grads = vars(_project_backward(gaussians, viewmats, Ks, *ctx.size, grad_table)).values()
        grad_background = _background_gradient(images[1], grad_colors) if ctx.needs_input_grad[5] else None
        return *grads, grad_background, *[None] * 5


class _Composite(torch.autograd.Function):
    """Compositing of a splat table to images."""

    @staticmethod
    def forward(ctx, table, background, width, height, with_weights):
        table = table.contiguous()
        images, lists = _composite(table, background, width, height, with_weights)
        ctx.save_for_backward(table, background, *images[:2])
        ctx.lists = lists
        ctx.mark_non_differentiable(images[2])
        ctx.set_materialize_grads(False)
        return images

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_colors, grad_alphas, _):
        table, background, *images = ctx.saved_tensors
        grad = _composite_backward(table, background, ctx.lists, *images, grad_colors, grad_alphas)
        grad_table = torch.cat([grad[..., :6], torch.zeros_like(grad[..., :2]), grad[..., 6:], grad[..., :1] * 0], -1)
        grad_background = _background_gradient(images[1], grad_colors) if ctx.needs_input_grad[1] else None
        return grad_table, grad_background, None, None, None


def _background_gradient(alphas: Tensor, grad_colors: Tensor | None) -> Tensor | None:
    return None if grad_colors is None else (grad_colors * (1 - alphas)).sum((0, 1, 3, 4))


def _project(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Float[Tensor, "B C N 12"]:
    num_sets, num_cameras = viewmats.shape[:2]
    count = gaussians.count
    table = torch.empty(num_sets, num_cameras, count, STRIDE)
    arrays = [_array(x) for x in (*vars(gaussians).values(), viewmats, Ks, table)]
    parts = range(0, count, PART)

    def project_part(item: int) -> None:
        view, part = divmod(item, len(parts))
        b, c = divmod(view, num_cameras)
        *attributes, views, intrinsics, entries = arrays
        first = parts[part]
        last = min(first + PART, count)
        own = (x[b] for x in attributes)
        project(*own, views[b, c], intrinsics[b, c], width, height, first, last, entries[b, c])

    _run(lambda: project_part, num_sets * num_cameras * len(parts))
    return table


def _project_backward(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, grad_table: Float[Tensor, "B C N 9"]
) -> Gaussians:
    grads = gaussians.map(torch.empty_like)
    g = gaussians
    arrays = [_array(x) for x in (g.means, g.quats, g.scales, g.opacities, viewmats, Ks)]
    outputs = [_array(x) for x in vars(grads).values()]
    by_column = _array(grad_table)
    count = gaussians.count
    parts = range(0, count, PART)

    def project_part(item: int) -> None:
        b, part = divmod(item, len(parts))
        first = parts[part]
        last = min(first + PART, count)
        inputs = (x[b] for x in arrays)
        project_backward(*inputs, width, height, by_column[b], first, last, *(x[b] for x in outputs))

    _run(lambda: project_part, len(viewmats) * len(parts))
    return grads


Lists = list[tuple[np.ndarray, np.ndarray]]
"""Splats of all tiles and the start of each tile's list, for each view."""


def _composite(
    table: Float[Tensor, "B C N 12"], background: Tensor, width: int, height: int, with_weights: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Lists]:
    """Colours [B, C, 3, H, W], alphas [B, C, 1, H, W] and, on request, weights [B, C, N] (else empty); lists."""
    views, count = table.shape[:2], table.shape[2]
    colors, alphas = torch.empty(*views, 3, height, width), torch.empty(*views, 1, height, width)
    weights = torch.zeros(*views, count) if with_weights else torch.empty(0)
    tables, by_view, alphas_by_view = (_array(x.detach()).reshape(-1, *x.shape[2:]) for x in (table, colors, alphas))
    color = _array(background.detach().contiguous())
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    lists: Lists = [None] * len(tables)
    sums: list = [None] * len(tables)

    def bin_view(view: int) -> None:
        lists[view] = bin_tiles(tables[view], width, height)
        sums[view] = np.empty((len(lists[view][0]) if with_weights else 0, 1), np.float32)

    def make_worker() -> Callable[[int], None]:
        scratch = np.empty(SCRATCH, np.float32)

        def composite_row(item: int) -> None:
            view, row = divmod(item, rows)
            first, last = row * columns, (row + 1) * columns
            arguments = (tables[view], *lists[view], color, width, height, first, last, scratch)
            composite(*arguments, by_view[view], alphas_by_view[view], sums[view][:, 0])

        return composite_row

    _run(lambda: bin_view, len(tables))
    _run(make_worker, len(tables) * rows)
    if with_weights:
        totals = _array(weights).reshape(len(tables), count, 1)
        _run(lambda: lambda view: sum_pairs(lists[view][0], sums[view], totals[view]), len(tables))
    return (colors, alphas, weights), lists


def _composite_backward(
    table: Float[Tensor, "B C N 12"],
    background: Tensor,
    lists: Lists,
    colors: Tensor,
    alphas: Tensor,
    grad_colors: Tensor | None,
    grad_alphas: Tensor | None,
) -> Float[Tensor, "B C N 9"]:
    """Gradients of the table's columns from MEAN_X to LOG2_OPACITY, and of the colours."""
    grad_colors = torch.zeros_like(colors) if grad_colors is None else grad_colors.contiguous()
    grad_alphas = torch.zeros_like(alphas) if grad_alphas is None else grad_alphas.contiguous()
    height, width = colors.shape[-2:]
    grad_table = table.new_zeros(*table.shape[:3], NUM_GRADS)
    tensors = (table, colors, alphas, grad_colors, grad_alphas, grad_table)
    tables, *images, sums = (_array(x.detach()).reshape(-1, *x.shape[2:]) for x in tensors)
    color = _array(background.detach().contiguous())
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    grads = [np.empty((len(splats), NUM_GRADS), np.float32) for splats, _ in lists]

    def make_worker() -> Callable[[int], None]:
        scratch = np.empty(SCRATCH, np.float32)

        def composite_row(item: int) -> None:
            view, row = divmod(item, rows)
            of_view = (x[view] for x in images)
            first, last = row * columns, (row + 1) * columns
            arguments = (tables[view], *lists[view], color, *of_view, width, height, first, last)
            composite_backward(*arguments, scratch, grads[view])

        return composite_row

    _run(make_worker, len(tables) * rows)
    _run(lambda: lambda view: sum_pairs(lists[view][0], grads[view], sums[view]), len(tables))
    return grad_table


def _array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def _run(make_worker: Callable[[], Callable[[int], None]], count: int) -> None:
    """Call a worker with each number below `count`, on as many threads as PyTorch uses.

    Args:
        make_worker: Called once per thread; returns the function to call. Kernels release Python's global lock.
    """
    items, lock, errors = itertools.count(), threading.Lock(), []

    def work() -> None:
        try:
            worker = make_worker()
            while True:
                with lock:
                    item = next(items)
                if item >= count or errors:
                    return
                worker(item)
        except BaseException as error:
            errors.append(error)

    # Threads start anew for each call, which takes some 50 microseconds: a pool would not survive a fork.
    others = [threading.Thread(target=work, daemon=True) for _ in range(min(torch.get_num_threads(), count) - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
