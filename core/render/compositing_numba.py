"""Compositing of splats for backend `numba`, tile by tile. Definition: `core/render/torch_backend.py`.

A tile's transmittance and colours are arrays of rows, to which its splats are added from near to far. In each row of
pixels, a splat is evaluated where its ellipse crosses the row, in multiples of `LANES` pixels: a loop that compilers
turn into vector instructions. Pixels beyond the ellipse have alpha below `ALPHA_MIN`, and pixels of the padding beside
the tile have transmittance 0.
"""

import math

import numpy as np

from core.render.numba_common import (
    ALPHA_MAX,
    ALPHA_MIN,
    BLUE,
    CUT,
    GREEN,
    LANES,
    LOG2_OPACITY,
    MEAN_X,
    MEAN_Y,
    RED,
    TILE_HEIGHT,
    TILE_WIDTH,
    P,
    Q,
    R,
    compiled,
    inlined,
)

F = np.float32
ROW = TILE_WIDTH + LANES  # floats per row of a tile
PLANE = TILE_HEIGHT * ROW
SCRATCH = 5 * PLANE
"""Floats that a thread needs for its tile."""
# Unsigned indices, for which there is no check of negative ones, which would count from the end.
U = np.uintp
PLANE_1, PLANE_2, PLANE_3, PLANE_4 = (U(i * PLANE) for i in range(1, 5))

MIN_TRANSMITTANCE = F(1e-30)
"""Smaller transmittances count as 0: arithmetic with numbers below 1e-38 is slow, and no image shows them."""
LN_2 = F(math.log(2))
# 2^f for |f| <= 1/2, to a relative error of 2e-9.
_polynomial = np.polynomial.chebyshev.Chebyshev.interpolate(np.exp2, 6, [-0.5, 0.5])
E0, E1, E2, E3, E4, E5, E6 = (F(x) for x in _polynomial.convert(kind=np.polynomial.Polynomial).coef)


@inlined
def _exp2(x):
    """2^x for x <= 0; below 2^-20 for any smaller one."""
    x = max(x, F(-20))
    whole = np.int32(x - F(0.5))  # truncated, hence rounded to the nearest
    f = x - F(whole)
    power = E0 + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * (E5 + f * E6)))))
    return power * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@inlined
def _rows(y, cut, r):
    """First row of a tile that an ellipse crosses, and the one after the last. `y` is the centre's in the tile."""
    reach = math.sqrt(cut) / r + F(0.01)
    first, last = max(y - reach - F(0.5), F(0)), min(y + reach - F(0.5), F(TILE_HEIGHT - 1))
    return (math.ceil(first), math.floor(last) + 1) if first <= last else (0, 0)


@inlined
def _span(x, dy, cut, p, q, r):
    """First pixel and number of pixels, in multiples of `LANES`, of a row of a tile that an ellipse crosses."""
    rest = cut - (r * dy) * (r * dy)
    if not rest > F(0):
        return 0, 0
    middle, reach = x - q * dy / p - F(0.5), math.sqrt(rest) / p + F(0.01)
    first, last = max(middle - reach, F(0)), min(middle + reach, F(TILE_WIDTH - 1))
    if not first <= last:
        return 0, 0
    begin = math.ceil(first)
    return begin, (math.floor(last) - begin + LANES) // LANES * LANES


@compiled
def composite(table, splats, starts, background, width, height, first, last, scratch, colors, alphas, weights):
    """Write the pixels of tiles `first` to `last` of one camera.

    Args:
        table: Splat table [N, 12].
        splats, starts: Lists of `bin_tiles`.
        background: Colour [3].
        scratch: Memory of this thread [SCRATCH].
        colors, alphas: Outputs [3, H, W] and [1, H, W].
        weights: Output [pairs]: sum of each listed splat's weights over the tile's pixels; or empty.
    """
    columns = -(-width // TILE_WIDTH)
    with_weights = len(weights) > 0
    for tile in range(first, last):
        left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        tile_width, tile_height = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        scratch[: 4 * PLANE] = F(0)
        for y in range(tile_height):
            scratch[y * ROW : y * ROW + tile_width] = F(1)
        for pair in range(starts[tile], starts[tile + 1]):
            weight = _add_splat(table, splats[pair], left, top, scratch)
            if with_weights:
                weights[pair] = weight
        for y in range(tile_height):
            for x in range(tile_width):
                o = y * ROW + x
                alphas[0, top + y, left + x] = F(1) - scratch[o]
                for c in range(3):
                    colors[c, top + y, left + x] = scratch[(c + 1) * PLANE + o] + scratch[o] * background[c]


@inlined
def _add_splat(table, k, left, top, scratch):
    """Composite splat `k` in a tile; returns the sum of its weights."""
    x, y, p, q, r = table[k, MEAN_X] - F(left), table[k, MEAN_Y] - F(top), table[k, P], table[k, Q], table[k, R]
    log2_opacity, cut = table[k, LOG2_OPACITY], table[k, CUT]
    red, green, blue = table[k, RED], table[k, GREEN], table[k, BLUE]
    first, last = _rows(y, cut, r)
    total = F(0)
    for row in range(first, last):
        dy = F(row) + F(0.5) - y
        begin, count = _span(x, dy, cut, p, q, r)
        exponent = log2_opacity - (r * dy) * (r * dy)
        u0 = p * (F(begin) + F(0.5) - x) + q * dy
        origin = row * ROW + begin
        for i in range(count):
            o = U(origin + i)
            u = u0 + p * F(np.int32(i))
            alpha = min(_exp2(exponent - u * u), ALPHA_MAX)
            alpha = alpha if alpha >= ALPHA_MIN else F(0)
            transmittance = scratch[o]
            weight = alpha * transmittance
            transmittance *= F(1) - alpha
            scratch[o] = transmittance if transmittance > MIN_TRANSMITTANCE else F(0)
            scratch[o + PLANE_1] += weight * red
            scratch[o + PLANE_2] += weight * green
            scratch[o + PLANE_3] += weight * blue
            total += weight
    return total


@compiled
def composite_backward(
    table, splats, starts, background, colors, alphas, g_colors, g_alphas, width, height, first, last, scratch, grads
):
    """Write the gradients of the splats of tiles `first` to `last` of one camera.

    The light from behind a splat is the finished pixel minus the terms in front, so that the forward order suffices.

    Args:
        table, splats, starts, background: As for `composite`.
        colors, alphas: Outputs of `composite` [3, H, W] and [1, H, W].
        g_colors, g_alphas: Their gradients.
        scratch: Memory of this thread [SCRATCH].
        grads: Output [pairs, 9]: gradients of the table's columns from MEAN_X to LOG2_OPACITY, and of the colours.
    """
    columns = -(-width // TILE_WIDTH)
    for tile in range(first, last):
        if starts[tile] == starts[tile + 1]:
            continue
        left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
        tile_width, tile_height = min(TILE_WIDTH, width - left), min(TILE_HEIGHT, height - top)
        scratch[:] = F(0)
        for y in range(tile_height):
            for x in range(tile_width):
                o = y * ROW + x
                # Of the sum of all terms g w color, of the background's g T, and of alpha's -g T.
                behind = -g_alphas[0, top + y, left + x] * (F(1) - alphas[0, top + y, left + x])
                for c in range(3):
                    g = g_colors[c, top + y, left + x]
                    scratch[(c + 1) * PLANE + o] = g
                    behind += g * colors[c, top + y, left + x]
                scratch[o] = F(1)
                scratch[4 * PLANE + o] = behind
        for pair in range(starts[tile], starts[tile + 1]):
            _splat_gradient(table, splats[pair], left, top, scratch, grads, pair)


@inlined
def _splat_gradient(table, k, left, top, scratch, grads, pair):
    """Gradient of splat `k` in a tile. `g` is the gradient of |W d|^2 = u^2 + (r dy)^2 at a pixel, over ln 2."""
    x, y, p, q, r = table[k, MEAN_X] - F(left), table[k, MEAN_Y] - F(top), table[k, P], table[k, Q], table[k, R]
    log2_opacity, cut = table[k, LOG2_OPACITY], table[k, CUT]
    red, green, blue = table[k, RED], table[k, GREEN], table[k, BLUE]
    first, last = _rows(y, cut, r)
    sum_g, sum_y, sum_yy, sum_u, sum_ux, sum_uy = F(0), F(0), F(0), F(0), F(0), F(0)
    sum_red, sum_green, sum_blue = F(0), F(0), F(0)
    for row in range(first, last):
        dy = F(row) + F(0.5) - y
        begin, count = _span(x, dy, cut, p, q, r)
        exponent = log2_opacity - (r * dy) * (r * dy)
        dx0 = F(begin) + F(0.5) - x
        u0 = p * dx0 + q * dy
        origin = row * ROW + begin
        row_g, row_u, row_ux = F(0), F(0), F(0)
        for i in range(count):
            o = U(origin + i)
            u = u0 + p * F(np.int32(i))
            raw = _exp2(exponent - u * u)
            alpha = min(raw, ALPHA_MAX)
            alpha = alpha if alpha >= ALPHA_MIN else F(0)
            transmittance = scratch[o]
            g_red, g_green, g_blue = scratch[o + PLANE_1], scratch[o + PLANE_2], scratch[o + PLANE_3]
            weight = alpha * transmittance
            transmittance *= F(1) - alpha
            scratch[o] = transmittance if transmittance > MIN_TRANSMITTANCE else F(0)
            sum_red += weight * g_red
            sum_green += weight * g_green
            sum_blue += weight * g_blue
            term = weight * (g_red * red + g_green * green + g_blue * blue)
            behind = scratch[o + PLANE_4] - term
            scratch[o + PLANE_4] = behind
            # The derivative by alpha is term / alpha - behind / (1 - alpha), and 0 where alpha is clamped.
            g = alpha / (F(1) - alpha) * behind - term
            g = g if raw < ALPHA_MAX else F(0)
            row_g += g
            row_u += g * u
            row_ux += g * u * (dx0 + F(np.int32(i)))
        sum_g += row_g
        sum_y += dy * row_g
        sum_yy += dy * dy * row_g
        sum_u += row_u
        sum_ux += row_ux
        sum_uy += dy * row_u
    two = F(2) * LN_2
    grads[pair, 0] = -two * p * sum_u
    grads[pair, 1] = -two * (q * sum_u + r * r * sum_y)
    grads[pair, 2] = two * sum_ux
    grads[pair, 3] = two * sum_uy
    grads[pair, 4] = two * r * sum_yy
    grads[pair, 5] = -LN_2 * sum_g
    grads[pair, 6], grads[pair, 7], grads[pair, 8] = sum_red, sum_green, sum_blue


@compiled
def sum_pairs(splats, values, sums):
    """Add rows `values` [pairs, D] of the tiles' lists to their splats' rows `sums` [N, D], in a fixed order."""
    for pair in range(len(splats)):
        for d in range(values.shape[1]):
            sums[splats[pair], d] += values[pair, d]
