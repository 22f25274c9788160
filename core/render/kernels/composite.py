"""Compositing: each tile draws its splats from near to far, K at a time, and the backward pass goes the same way.

Reference: `core/render/torch_backend.py`. A chunk of K splats meets all pixels of the tile at once, as arrays [K,
pixels] in which every thread holds whole columns. A tile stops once less than `STOP` of the light passes anywhere in
it.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.render import projection
from core.render.kernels.bin import TileLists
from core.render.kernels.rows import BLUE, DEPTH, GREEN, LOG2_OPACITY, MEAN_X, MEAN_Y, RED, ROW, P, Q, R

ALPHA_MIN = tl.constexpr(projection.ALPHA_MIN)
ALPHA_MAX = tl.constexpr(projection.ALPHA_MAX)
STOP = tl.constexpr(1e-4)
LN_2 = tl.constexpr(0.6931471805599453)
LOW = tl.constexpr(6)  # columns 6 to 9, color and depth, have their low parts in 12 to 15

FORWARD_CHUNK, FORWARD_WARPS = 32, 1
BACKWARD_CHUNK, BACKWARD_WARPS = 16, 1


@triton.jit
def _find_tile(ranges, pairs, count, capacity, width, height, TILE: tl.constexpr):
    """A program's view, first slot and the one after the last, centre, and pixels: offsets, indices, which exist."""
    columns = tl.cdiv(width, TILE)
    tiles = columns * tl.cdiv(height, TILE)
    program = tl.program_id(0)
    view = program // tiles
    left = program % tiles % columns * TILE
    top = program % tiles // columns * TILE
    too_many = tl.load(pairs) > capacity
    first = tl.where(too_many, view * count, tl.load(ranges + program.to(tl.int64) * 2))
    last = tl.where(too_many, (view + 1) * count, tl.load(ranges + program.to(tl.int64) * 2 + 1))
    pixel = tl.arange(0, TILE * TILE)
    x, y = pixel % TILE, pixel // TILE
    index = (top + y) * width + left + x
    inside = (left + x < width) & (top + y < height)
    center = 0.5 * (TILE - 1)
    return view.to(tl.int64), first, last, left + 0.5 * TILE, top + 0.5 * TILE, x - center, y - center, index, inside


@triton.jit
def _load_shapes(slots, rows, first, last, center_x, center_y, K: tl.constexpr):
    """Where the chunk's rows begin, which exist, centres relative to the tile's, whiteners, opacities: all [K]."""
    k = first + tl.arange(0, K)
    exists = k < last
    offset = tl.load(slots + k, exists, 0).to(tl.int64) * ROW
    row = rows + offset
    x, y = tl.load(row + MEAN_X) - center_x, tl.load(row + MEAN_Y) - center_y
    log2_opacity = tl.where(exists, tl.load(row + LOG2_OPACITY), float("-inf"))
    return offset, exists, x, y, tl.load(row + P), tl.load(row + Q), tl.load(row + R), log2_opacity


@triton.jit
def _alphas(x, y, p, q, r, log2_opacity, pixel_x, pixel_y):
    """[K, pixels]: alpha before and after the bounds."""
    shift_u, shift_v = p * x + q * y, r * y
    u = p[:, None] * pixel_x[None, :] + (q[:, None] * pixel_y[None, :] - shift_u[:, None])
    v = r[:, None] * pixel_y[None, :] - shift_v[:, None]
    raw = tl.exp2(log2_opacity[:, None] - u * u - v * v)
    return raw, tl.where(raw >= ALPHA_MIN, tl.minimum(raw, ALPHA_MAX), 0.0)


@triton.jit
def _odds(alpha):
    """alpha / (1 - alpha); a division would take three times as many instructions."""
    root = tl.rsqrt(1 - alpha)
    return alpha * root * root


@triton.jit
def _last_row(values, K: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, K)[:, None] == K - 1, values, 0.0), 0)


@triton.jit
def _fwd_kernel(
    rows, slots, ranges, pairs, background, colors, alphas, depths, count, capacity, width, height,
    WITH_DEPTH: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    view, first, last, center_x, center_y, pixel_x, pixel_y, index, inside = _find_tile(
        ranges, pairs, count, capacity, width, height, TILE
    )
    passing = tl.full([TILE * TILE], 1.0, tl.float32)
    red = tl.zeros([TILE * TILE], tl.float32)
    green, blue, depth = red, red, red
    live = first < last
    while live:
        offset, _, x, y, p, q, r, log2_opacity = _load_shapes(slots, rows, first, last, center_x, center_y, K)
        row = rows + offset
        _, alpha = _alphas(x, y, p, q, r, log2_opacity, pixel_x, pixel_y)
        passed = tl.cumprod(1 - alpha, 0)
        weight = _odds(alpha) * passed
        red += passing * tl.sum(weight * tl.load(row + RED)[:, None], 0)
        green += passing * tl.sum(weight * tl.load(row + GREEN)[:, None], 0)
        blue += passing * tl.sum(weight * tl.load(row + BLUE)[:, None], 0)
        if WITH_DEPTH:
            depth += passing * tl.sum(weight * tl.load(row + DEPTH)[:, None], 0)
        passing *= _last_row(passed, K)
        first += K
        live = (first < last) & (tl.max(passing, 0) > STOP)

    area = width * height
    picture = colors + view * 3 * area + index
    tl.store(picture, red + passing * tl.load(background), inside)
    tl.store(picture + area, green + passing * tl.load(background + 1), inside)
    tl.store(picture + 2 * area, blue + passing * tl.load(background + 2), inside)
    alpha = 1 - passing
    tl.store(alphas + view * area + index, alpha, inside)
    if WITH_DEPTH:
        depth = tl.where(alpha > 0, depth / tl.where(alpha > 0, alpha, 1.0), 0.0)
        tl.store(depths + view * area + index, depth, inside)


@triton.jit
def _high(values):
    """What tf32 keeps of a number: ten bits after the first."""
    return (values.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _sums(values, matrix):
    """[K, pixels] times a matrix [pixels, 16] that is exact in tf32, on tensor cores and right to about 21 bits."""
    high = _high(values)
    return tl.dot(values - high, matrix, acc=tl.dot(high, matrix, input_precision="tf32"), input_precision="tf32")


@triton.jit
def _column(matrix, j):
    return tl.sum(tl.where(tl.arange(0, 16)[None, :] == j, matrix, 0.0), 1)


@triton.jit
def _put(matrix, j, values):
    """Put values into column j of a matrix [pixels, 16], and what tf32 loses of them into column j + LOW."""
    columns = tl.arange(0, 16)[None, :]
    matrix = tl.where(columns == j, _high(values)[:, None], matrix)
    return tl.where(columns == j + LOW, (values - _high(values))[:, None], matrix)


@triton.jit
def _add_low(matrix, j):
    """Add column j + LOW to column j."""
    return tl.where(tl.arange(0, 16)[None, :] == j, matrix + _column(matrix, j + LOW)[:, None], matrix)


@triton.jit
def _bwd_kernel(
    rows, slots, ranges, pairs, colors, alphas, depths, g_colors, g_alphas, g_depths, g_rows,
    count, capacity, width, height, WITH_DEPTH: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """What lies behind a splat is the finished pixel less what came before, so this pass too can go from near to far.

    With g the gradient of |W d|^2 at each pixel, all that a splat's shape needs are sums of g, g x, g y, g
    x^2, g x y and g y^2 over the tile's pixels: one product of g [K, pixels] with a matrix [pixels, 16]. They are
    taken about the tile's centre, whose coordinates and products are exact even in tf32, and moved to the splat's
    afterwards.
    """
    view, first, last, center_x, center_y, pixel_x, pixel_y, index, inside = _find_tile(
        ranges, pairs, count, capacity, width, height, TILE
    )
    area = width * height
    picture = view * 3 * area + index
    g_red = tl.load(g_colors + picture, inside, 0.0)
    g_green = tl.load(g_colors + picture + area, inside, 0.0)
    g_blue = tl.load(g_colors + picture + 2 * area, inside, 0.0)
    covered = tl.load(alphas + view * area + index, inside, 0.0)
    # The sum of all terms g w color, of the background's g T, and of alpha's -g T.
    behind = (
        g_red * tl.load(colors + picture, inside, 0.0)
        + g_green * tl.load(colors + picture + area, inside, 0.0)
        + g_blue * tl.load(colors + picture + 2 * area, inside, 0.0)
        - tl.load(g_alphas + view * area + index, inside, 0.0) * (1 - covered)
    )
    j = tl.arange(0, 16)[None, :]
    cotangents = _put(tl.zeros([TILE * TILE, 16], tl.float32), RED, g_red)
    cotangents = _put(cotangents, GREEN, g_green)
    cotangents = _put(cotangents, BLUE, g_blue)
    if WITH_DEPTH:
        # depth = sum w z / alpha: of the sum, and, through alpha = 1 - T, of T.
        g_depth = tl.load(g_depths + view * area + index, inside, 0.0) / tl.where(covered > 0, covered, 1.0)
        behind += g_depth * tl.load(depths + view * area + index, inside, 0.0)
        cotangents = _put(cotangents, DEPTH, g_depth)
    basis = tl.where(j == 0, 1.0, 0.0)
    basis = tl.where(j == 1, pixel_x[:, None], basis)
    basis = tl.where(j == 2, pixel_y[:, None], basis)
    basis = tl.where(j == 3, (pixel_x * pixel_x)[:, None], basis)
    basis = tl.where(j == 4, (pixel_x * pixel_y)[:, None], basis)
    basis = tl.where(j == 5, (pixel_y * pixel_y)[:, None], basis)

    passing = tl.full([TILE * TILE], 1.0, tl.float32)
    live = first < last
    while live:
        offset, exists, x, y, p, q, r, log2_opacity = _load_shapes(slots, rows, first, last, center_x, center_y, K)
        row = rows + offset
        raw, alpha = _alphas(x, y, p, q, r, log2_opacity, pixel_x, pixel_y)
        passed = passing[None, :] * tl.cumprod(1 - alpha, 0)
        odds = _odds(alpha)
        weight = odds * passed
        term = (
            g_red[None, :] * tl.load(row + RED)[:, None]
            + g_green[None, :] * tl.load(row + GREEN)[:, None]
            + g_blue[None, :] * tl.load(row + BLUE)[:, None]
        )
        if WITH_DEPTH:
            term += g_depth[None, :] * tl.load(row + DEPTH)[:, None]
        term = weight * term
        left_behind = behind[None, :] - tl.cumsum(term, 0)
        # The loss's slope in alpha is term / alpha - left_behind / (1 - alpha); in |W d|^2, -ln 2 alpha times that.
        g_sigma = tl.where(raw < ALPHA_MAX, odds * left_behind - term, 0.0)
        behind = _last_row(left_behind, K)
        passing = _last_row(passed, K)

        moments = _sums(g_sigma, basis)
        m, m_x, m_y = _column(moments, 0), _column(moments, 1), _column(moments, 2)
        m_xx, m_xy, m_yy = _column(moments, 3), _column(moments, 4), _column(moments, 5)
        m_xx += x * (x * m - 2 * m_x)
        m_xy += x * y * m - x * m_y - y * m_x
        m_yy += y * (y * m - 2 * m_y)
        m_x -= x * m
        m_y -= y * m
        m_u = p * m_x + q * m_y
        g = _sums(weight, cotangents)
        g = _add_low(_add_low(_add_low(g, RED), GREEN), BLUE)
        if WITH_DEPTH:
            g = _add_low(g, DEPTH)
        g = tl.where(j == MEAN_X, (-2 * LN_2) * (p * m_u)[:, None], g)
        g = tl.where(j == MEAN_Y, (-2 * LN_2) * (q * m_u + r * r * m_y)[:, None], g)
        g = tl.where(j == P, (2 * LN_2) * (p * m_xx + q * m_xy)[:, None], g)
        g = tl.where(j == Q, (2 * LN_2) * (p * m_xy + q * m_yy)[:, None], g)
        g = tl.where(j == R, (2 * LN_2) * (r * m_yy)[:, None], g)
        g = tl.where(j == LOG2_OPACITY, m[:, None] * -LN_2, g)
        tl.atomic_add(g_rows + offset[:, None] + j, g, exists[:, None] & (j < ROW), sem="relaxed")
        first += K
        live = (first < last) & (tl.max(passing, 0) > STOP)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, background, lists, width, height, with_depth):
        *views, count, _ = rows.shape
        colors = rows.new_empty(*views, 3, height, width)
        alphas = rows.new_empty(*views, 1, height, width)
        depths = torch.empty_like(alphas) if with_depth else None
        with torch.cuda.device_of(rows):
            _fwd_kernel[(len(lists.ranges),)](
                rows, lists.slots, lists.ranges, lists.pairs, background,
                colors, alphas, depths if with_depth else alphas, count, lists.capacity, width, height,
                WITH_DEPTH=with_depth, TILE=lists.tile, K=FORWARD_CHUNK, num_warps=FORWARD_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(rows, colors, alphas, depths, lists.slots, lists.ranges, lists.pairs)
        ctx.capacity, ctx.tile = lists.capacity, lists.tile
        return colors, alphas, depths

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_colors, g_alphas, g_depths):
        rows, colors, alphas, depths, slots, ranges, pairs = ctx.saved_tensors
        with_depth = depths is not None
        count = rows.shape[-2]
        height, width = colors.shape[-2:]
        g_rows = g_background = None
        if ctx.needs_input_grad[0]:
            g_rows = torch.zeros_like(rows)
            inputs = g_colors.contiguous(), g_alphas.contiguous(), (g_depths if with_depth else g_alphas).contiguous()
            with torch.cuda.device_of(rows):
                _bwd_kernel[(len(ranges),)](
                    rows, slots, ranges, pairs, colors, alphas, depths if with_depth else alphas, *inputs, g_rows,
                    count, ctx.capacity, width, height,
                    WITH_DEPTH=with_depth, TILE=ctx.tile, K=BACKWARD_CHUNK, num_warps=BACKWARD_WARPS,
                )  # fmt: skip
        if ctx.needs_input_grad[1]:
            g_background = (g_colors * (1 - alphas)).sum((0, 1, 3, 4))
        return g_rows, g_background, None, None, None, None


def composite(
    rows: Float[Tensor, "B C N 12"],
    background: Float[Tensor, "3"],
    lists: TileLists,
    width: int,
    height: int,
    with_depth: bool,
) -> tuple[Float[Tensor, "B C 3 H W"], Float[Tensor, "B C 1 H W"], Float[Tensor, "B C 1 H W"] | None]:
    """Colours on the background, alphas and, if asked for, mean depths. Gradients reach the table and the background.

    The pictures are the same at every run; the gradients differ in their last bits, since atomic additions come in
    any order.
    """
    return _Composite.apply(rows, background.contiguous(), lists, width, height, with_depth)
