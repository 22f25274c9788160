"""Compositing of tiles: splats from near to far, K at a time, in the forward and in the backward pass.

Reference: `core/render/torch_backend.py`. A chunk of K splats is evaluated at all pixels of the tile at once, in arrays
[K, pixels] of which every thread holds whole columns, so that sums and products over splats stay within a thread. A
tile stops once the transmittance is below `MIN_TRANSMITTANCE` at all of its pixels.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.render import projection
from core.render.launch import Launcher, aligned
from core.render.splat_table import BLUE, GREEN, LN_2, RED, STRIDE
from core.render.tile_lists import TileLists

ALPHA_MIN = tl.constexpr(projection.ALPHA_MIN)
ALPHA_MAX = tl.constexpr(projection.ALPHA_MAX)
MIN_TRANSMITTANCE = tl.constexpr(1e-4)
NEGLIGIBLE = tl.constexpr(1e-8)  # sum of a chunk's weights below the precision of colours and gradients
TWO_LN_2 = tl.constexpr(2 * LN_2.value)

# Splats at a time, and registers per thread of the single warp: without a limit, too few warps fit on a multiprocessor.
FORWARD_CHUNK, FORWARD_REGISTERS = 32, 128
WEIGHTS_CHUNK = 16  # of a forward pass with weights, which would spill registers with more
BACKWARD_CHUNK, BACKWARD_REGISTERS = 16, 168


@triton.jit
def _find_tile(ranges, used, first_view, count, capacity, width, height, TILE: tl.constexpr):
    """Tile of a program: view, first slot, slot after the last, centre; of its pixels: offsets, indices, existence."""
    columns = tl.cdiv(width, TILE)
    tiles = columns * tl.cdiv(height, TILE)
    program = tiles * first_view + tl.program_id(0)
    view = program // tiles
    left = program % tiles % columns * TILE
    top = program % tiles // columns * TILE
    too_many = tl.load(used) > capacity
    first = tl.where(too_many, view * count, tl.load(ranges + program.to(tl.int64) * 2))
    last = tl.where(too_many, (view + 1) * count, tl.load(ranges + program.to(tl.int64) * 2 + 1))
    pixel = tl.arange(0, TILE * TILE)
    # Columns of four pixels: the pixels of a thread, 32 apart, then lie in one row and share its terms.
    x, y = pixel % 4 + pixel // (4 * TILE) * 4, pixel // 4 % TILE
    index = (top + y) * width + left + x
    inside = (left + x < width) & (top + y < height)
    center = 0.5 * (TILE - 1)
    return view.to(tl.int64), first, last, left + 0.5 * TILE, top + 0.5 * TILE, x - center, y - center, index, inside


@triton.jit
def _load_splats(slots, table, first, last, K: tl.constexpr):
    """Table entries of a chunk of splats as three parts [K, 4], their offsets in the table, and which exist."""
    k = first + tl.arange(0, K)
    exists = k < last
    offset = tl.load(slots + k, exists, 0).to(tl.int64) * STRIDE
    part = (table + offset)[:, None] + tl.arange(0, 4)[None, :]
    return tl.load(part), tl.load(part + 4), tl.load(part + 8), offset, exists


@triton.jit
def _split4(part, K: tl.constexpr):
    """The columns of [K, 4]."""
    even, odd = tl.split(part.reshape([K, 2, 2]))
    column_0, column_2 = tl.split(even)
    column_1, column_3 = tl.split(odd)
    return column_0, column_1, column_2, column_3


@triton.jit
def _join4(column_0, column_1, column_2, column_3, K: tl.constexpr):
    """Four columns as [K, 4]."""
    return tl.join(tl.join(column_0, column_2), tl.join(column_1, column_3)).reshape([K, 4])


@triton.jit
def _alphas(x, y, p, q, r, log2_opacity, pixel_x, pixel_y):
    """Alpha before and after its bounds are applied, each [K, pixels]."""
    shift_u, shift_v = p * x + q * y, r * y
    u = p[:, None] * pixel_x[None, :] + (q[:, None] * pixel_y[None, :] - shift_u[:, None])
    v = r[:, None] * pixel_y[None, :] - shift_v[:, None]
    raw = tl.exp2((log2_opacity[:, None] - v * v) - u * u)
    return raw, tl.where(raw >= ALPHA_MIN, tl.minimum(raw, ALPHA_MAX), 0.0)


@triton.jit
def _transmittances(transmittance, alpha, K: tl.constexpr):
    """Transmittance [K, pixels] behind each splat, given that in front of the first [pixels]."""
    is_first = tl.arange(0, K)[:, None] == 0
    return tl.cumprod(tl.where(is_first, (1 - alpha) * transmittance[None, :], 1 - alpha), 0)


@triton.jit
def _odds(alpha):
    """alpha / (1 - alpha), without a division, which needs three times as many instructions."""
    root = tl.rsqrt(1 - alpha)
    return alpha * root * root


@triton.jit
def _last_row(values, K: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, K)[:, None] == K - 1, values, 0.0), 0)


@triton.jit(do_not_specialize=["count", "capacity", "width", "height"])
def _fwd_kernel(
    table, slots, ranges, used, overflow, background, colors, alphas, depths, weights, count, capacity, width, height,
    WITH_DEPTH: tl.constexpr, WITH_WEIGHTS: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Composite one tile per program.

    With T_k the transmittance behind the first k splats of a chunk, and T_0 in front of it, the chunk contributes

        sum_k (T_(k-1) - T_k) c_k = T_0 c_1 + sum_k T_k (c_(k+1) - c_k),    c_(K+1) = 0,

    which needs neither weights nor a division. This form is accurate for colours, whose differences are below one;
    depths, which may be of any size, are summed with their weights.
    """
    tl.store(overflow, tl.load(used), (tl.program_id(0) == 0) & (tl.load(used) > capacity))
    view, first, last, center_x, center_y, pixel_x, pixel_y, index, inside = _find_tile(
        ranges, used, 0, count, capacity, width, height, TILE
    )
    transmittance = tl.full([TILE * TILE], 1.0, tl.float32)
    red = tl.zeros([TILE * TILE], tl.float32)
    green, blue, depth = red, red, red
    live = first < last
    while live:
        part_0, part_1, part_2, offset, exists = _load_splats(slots, table, first, last, K)
        _, _, next_2, _, has_next = _load_splats(slots, table, first + 1, tl.minimum(last, first + K), K)
        x, y, p, q = _split4(part_0, K)
        r, log2_opacity, z, _ = _split4(part_1, K)
        log2_opacity = tl.where(exists, log2_opacity, float("-inf"))
        _raw, alpha = _alphas(x - center_x, y - center_y, p, q, r, log2_opacity, pixel_x, pixel_y)
        transmittances = _transmittances(transmittance, alpha, K)
        exists, has_next = exists[:, None], has_next[:, None]
        next_transmittance = _last_row(transmittances, K)
        # At a silhouette, most splats are behind opaque pixels, while the tile waits for the pixels beside it.
        if tl.max(transmittance - next_transmittance, 0) > NEGLIGIBLE:
            step = tl.where(has_next, next_2, 0.0) - tl.where(exists, part_2, 0.0)
            red_step, green_step, blue_step, _ = _split4(step, K)
            splat = table + tl.load(slots + first).to(tl.int64) * STRIDE
            red += transmittance * tl.load(splat + RED) + tl.sum(transmittances * red_step[:, None], 0)
            green += transmittance * tl.load(splat + GREEN) + tl.sum(transmittances * green_step[:, None], 0)
            blue += transmittance * tl.load(splat + BLUE) + tl.sum(transmittances * blue_step[:, None], 0)
            if WITH_DEPTH:
                depth += tl.sum(_odds(alpha) * transmittances * z[:, None], 0)
            if WITH_WEIGHTS:
                weight = tl.where(inside[None, :], _odds(alpha) * transmittances, 0.0)
                listed = last - first > tl.arange(0, K)
                tl.atomic_add(weights + offset // STRIDE, tl.sum(weight, 1), listed, sem="relaxed")
        transmittance = next_transmittance
        first += K
        live = (first < last) & (tl.max(transmittance, 0) > MIN_TRANSMITTANCE)

    area = width * height
    pixels = colors + view * 3 * area + index
    tl.store(pixels, red + transmittance * tl.load(background), inside)
    tl.store(pixels + area, green + transmittance * tl.load(background + 1), inside)
    tl.store(pixels + 2 * area, blue + transmittance * tl.load(background + 2), inside)
    alpha = 1 - transmittance
    tl.store(alphas + view * area + index, alpha, inside)
    if WITH_DEPTH:
        depth = tl.where(alpha > 0, depth / tl.where(alpha > 0, alpha, 1.0), 0.0)
        tl.store(depths + view * area + index, depth, inside)


@triton.jit
def _high(values):
    """Values truncated to the precision of tf32: ten bits after the leading one."""
    return (values.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _sums(values, matrix):
    """Product of [K, pixels] and a matrix [pixels, 8] exact in tf32, on tensor cores, accurate to about 21 bits."""
    high = _high(values)
    return tl.dot(values - high, matrix, acc=tl.dot(high, matrix, input_precision="tf32"), input_precision="tf32")


@triton.jit
def _put(matrix, j, values):
    """Write values to column j of a matrix [pixels, 8], and their remainder beyond tf32 to column j + 4."""
    columns = tl.arange(0, 8)[None, :]
    matrix = tl.where(columns == j, _high(values)[:, None], matrix)
    return tl.where(columns == j + 4, (values - _high(values))[:, None], matrix)


@triton.jit(do_not_specialize=["first_view", "count", "capacity", "width", "height"])
def _bwd_kernel(
    table, slots, ranges, used, colors, alphas, depths, g_colors, g_alphas, g_depths, g_table,
    first_view, count, capacity, width, height,
    WITH_ALPHA: tl.constexpr, WITH_DEPTH: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Gradients of the splats of one tile per program, from near to far. `g_table` begins with view `first_view`.

    The light from behind a splat is the finished pixel minus the terms in front, so that the forward order suffices.
    With g the gradient of |W d|^2 at each pixel, the gradients of a splat's shape follow from the sums of g, g x, g y,
    g x^2, g x y and g y^2 over the tile's pixels: one product of g [K, pixels] with a matrix [pixels, 8]. x and y are
    relative to the tile's centre, where they and their products are exact in tf32; the sums are then shifted to the
    splat's centre.
    """
    view, first, last, center_x, center_y, pixel_x, pixel_y, index, inside = _find_tile(
        ranges, used, first_view, count, capacity, width, height, TILE
    )
    area = width * height
    inside = inside & (first + 0 * index < last)  # empty tiles, which are most of them, load nothing
    pixels = view * 3 * area + index
    g_red = tl.load(g_colors + pixels, inside, 0.0)
    g_green = tl.load(g_colors + pixels + area, inside, 0.0)
    g_blue = tl.load(g_colors + pixels + 2 * area, inside, 0.0)
    covered = tl.load(alphas + view * area + index, inside, 0.0)
    # The sum of all terms g w color, of the background's g T, and of alpha's -g T.
    behind = (
        g_red * tl.load(colors + pixels, inside, 0.0)
        + g_green * tl.load(colors + pixels + area, inside, 0.0)
        + g_blue * tl.load(colors + pixels + 2 * area, inside, 0.0)
    )
    if WITH_ALPHA:
        behind -= tl.load(g_alphas + view * area + index, inside, 0.0) * (1 - covered)
    cotangents = _put(tl.zeros([TILE * TILE, 8], tl.float32), 0, g_red)
    cotangents = _put(cotangents, 1, g_green)
    cotangents = _put(cotangents, 2, g_blue)
    if WITH_DEPTH:
        # depth = sum w z / alpha depends on the sum and, through alpha = 1 - T, on T.
        g_depth = tl.load(g_depths + view * area + index, inside, 0.0) / tl.where(covered > 0, covered, 1.0)
        behind += g_depth * tl.load(depths + view * area + index, inside, 0.0)
        cotangents = _put(cotangents, 3, g_depth)
    j = tl.arange(0, 8)[None, :]
    basis = tl.where(j == 0, 1.0, 0.0)
    basis = tl.where(j == 1, pixel_x[:, None], basis)
    basis = tl.where(j == 2, pixel_y[:, None], basis)
    basis = tl.where(j == 3, (pixel_x * pixel_x)[:, None], basis)
    basis = tl.where(j == 4, (pixel_x * pixel_y)[:, None], basis)
    basis = tl.where(j == 5, (pixel_y * pixel_y)[:, None], basis)

    transmittance = tl.full([TILE * TILE], 1.0, tl.float32)
    is_first = tl.arange(0, K)[:, None] == 0
    zero = tl.zeros([K], tl.float32)
    live = first < last
    while live:
        part_0, part_1, part_2, offset, exists = _load_splats(slots, table, first, last, K)
        x, y, p, q = _split4(part_0, K)
        r, log2_opacity, z, _ = _split4(part_1, K)
        x, y = x - center_x, y - center_y
        log2_opacity = tl.where(exists, log2_opacity, float("-inf"))
        raw, alpha = _alphas(x, y, p, q, r, log2_opacity, pixel_x, pixel_y)
        transmittances = _transmittances(transmittance, alpha, K)
        next_transmittance = _last_row(transmittances, K)
        if tl.max(transmittance - next_transmittance, 0) > NEGLIGIBLE:  # as in the forward pass
            odds = _odds(alpha)
            weight = odds * transmittances
            red, green, blue, _ = _split4(part_2, K)
            term = g_red[None, :] * red[:, None] + g_green[None, :] * green[:, None] + g_blue[None, :] * blue[:, None]
            if WITH_DEPTH:
                term += g_depth[None, :] * z[:, None]
            term = weight * term
            left_behind = tl.cumsum(tl.where(is_first, behind[None, :] - term, -term), 0)
            # The derivative by alpha is term / alpha - left_behind / (1 - alpha); by |W d|^2, -ln 2 alpha times that.
            g_sigma = tl.where(raw < ALPHA_MAX, odds * left_behind - term, 0.0)
            behind = _last_row(left_behind, K)

            even, odd = tl.split(_sums(g_sigma, basis).reshape([K, 4, 2]))
            m, m_y, m_xy, _ = _split4(even, K)
            m_x, m_xx, m_yy, _ = _split4(odd, K)
            m_xx += x * (x * m - 2 * m_x)
            m_xy += x * y * m - x * m_y - y * m_x
            m_yy += y * (y * m - 2 * m_y)
            m_x -= x * m
            m_y -= y * m
            m_u = p * m_x + q * m_y
            high, low = tl.split(_sums(weight, cotangents).reshape([K, 2, 4]).permute([0, 2, 1]))
            g_red_k, g_green_k, g_blue_k, g_z = _split4(high + low, K)
            g_splat = (g_table + (offset - first_view.to(tl.int64) * count * STRIDE))[:, None]
            g_splat += tl.arange(0, 4)[None, :]
            g_x, g_y = p * m_u * -TWO_LN_2, (q * m_u + r * r * m_y) * -TWO_LN_2
            g_p, g_q = (p * m_xx + q * m_xy) * TWO_LN_2, (p * m_xy + q * m_yy) * TWO_LN_2
            tl.atomic_add(g_splat, _join4(g_x, g_y, g_p, g_q, K), exists[:, None], sem="relaxed")
            g_r, g_log2_opacity = r * m_yy * TWO_LN_2, m * -LN_2
            tl.atomic_add(g_splat + 4, _join4(g_r, g_log2_opacity, g_z, zero, K), exists[:, None], sem="relaxed")
            tl.atomic_add(g_splat + 8, _join4(g_red_k, g_green_k, g_blue_k, zero, K), exists[:, None], sem="relaxed")
        transmittance = next_transmittance
        first += K
        live = (first < last) & (tl.max(transmittance, 0) > MIN_TRANSMITTANCE)


_launch_fwd = Launcher(_fwd_kernel, num_warps=1, maxnreg=FORWARD_REGISTERS)
_launch_bwd = Launcher(_bwd_kernel, num_warps=1, maxnreg=BACKWARD_REGISTERS)


def composite(
    table: Float[Tensor, "*views N 12"],
    background: Float[Tensor, "3"],
    lists: TileLists,
    width: int,
    height: int,
    with_depth: bool,
    weights: Float[Tensor, "*views N"] | None = None,
) -> tuple[Float[Tensor, "*views 3 H W"], Float[Tensor, "*views 1 H W"], Float[Tensor, "*views 1 H W"] | None]:
    """Colours on the background, alphas and, on request, mean depths.

    Deterministic as long as the lists fit into their buffer; weights vary in their last bits, since the order of
    atomic additions does.

    Args:
        weights: Where to add each splat's weights, summed over the pixels.
    """
    views, count = table.shape[:-2], table.shape[-2]
    colors = table.new_empty(*views, 3, height, width)
    alphas = table.new_empty(*views, 1, height, width)
    depths = torch.empty_like(alphas) if with_depth else None
    _launch_fwd(
        (len(lists.ranges),),
        *(table, lists.slots, lists.ranges, lists.used, lists.overflow, background),
        *(colors, alphas, depths if with_depth else alphas, alphas if weights is None else weights),
        *(count, lists.capacity, width, height),
        constants=(with_depth, weights is not None, lists.tile, FORWARD_CHUNK if weights is None else WEIGHTS_CHUNK),
    )
    return colors, alphas, depths


def composite_backward(
    table: Float[Tensor, "*views N 12"],
    lists: TileLists,
    colors: Float[Tensor, "*views 3 H W"],
    alphas: Float[Tensor, "*views 1 H W"],
    depths: Float[Tensor, "*views 1 H W"] | None,
    grad_colors: Float[Tensor, "*views 3 H W"] | None,
    grad_alphas: Float[Tensor, "*views 1 H W"] | None,
    grad_depths: Float[Tensor, "*views 1 H W"] | None,
    views: range | None = None,
) -> Float[Tensor, "*views N 12"]:
    """Gradient of the splat table, given those of the images; None stands for zeros.

    Not deterministic in the last bits, since the order of atomic additions varies.

    Args:
        views: The result is of these consecutive views alone, as [V, N, 12]; by default of all.
    """
    grad_table = torch.zeros_like(table) if views is None else table.new_zeros(len(views), *table.shape[-2:])
    views = range(table.shape[:-2].numel()) if views is None else views
    grad_colors = torch.zeros_like(colors) if grad_colors is None else aligned(grad_colors)
    with_alpha, with_depth = grad_alphas is not None, grad_depths is not None
    height, width = colors.shape[-2:]
    num_tiles = len(lists.ranges) // table.shape[:-2].numel()
    _launch_bwd(
        (len(views) * num_tiles,),
        *(table, lists.slots, lists.ranges, lists.used, colors, alphas, depths if with_depth else alphas),
        *(grad_colors, aligned(grad_alphas) if with_alpha else alphas, aligned(grad_depths) if with_depth else alphas),
        *(grad_table, views.start, table.shape[-2], lists.capacity, width, height),
        constants=(with_alpha, with_depth, lists.tile, BACKWARD_CHUNK),
    )
    return grad_table
