"""Lists of the splats of each tile, from near to far, for backend `numba`."""

import math

import numpy as np

from core.render.numba_common import CUT, DEPTH, MEAN_X, MEAN_Y, TILE_HEIGHT, TILE_WIDTH, P, Q, R, compiled, inlined

F = np.float32
BITS = 11  # of a sort key per pass: three passes for the bits of a float32
BUCKETS = 1 << BITS


@compiled
def bin_tiles(table, width, height):
    """List the splats of one camera's tiles.

    Args:
        table: Splat table [N, 12].
        width, height: Size of the image in pixels.
    Returns:
        Splats of all tiles, tile by tile in row-major order, from near to far and in their order at equal depth, and
        the start of each tile's list [tiles + 1].
    """
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    drawn = np.empty(len(table), np.int32)
    boxes = np.empty((len(table), 4), np.int32)  # first and last column, first and last row
    count = 0
    starts = np.zeros(columns * rows + 1, np.int64)
    for i in range(len(table)):
        cut = table[i, CUT]
        if not cut >= F(0):
            continue
        p, q, r = table[i, P], table[i, Q], table[i, R]
        # Half the width and height of the ellipse |W d|^2 = cut; the margin covers rounding.
        reach_y = math.sqrt(cut) / r * F(1.0001) + F(0.01)
        reach_x = math.sqrt(cut * (q * q + r * r)) / (p * r) * F(1.0001) + F(0.01)
        x0, x1 = _first_and_last(table[i, MEAN_X], reach_x, width, TILE_WIDTH)
        y0, y1 = _first_and_last(table[i, MEAN_Y], reach_y, height, TILE_HEIGHT)
        if x1 < x0 or y1 < y0:
            continue
        boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x0, x1, y0, y1
        drawn[count] = i
        count += 1
        for row in range(y0, y1 + 1):
            for column in range(x0, x1 + 1):
                starts[row * columns + column + 1] += 1
    for tile in range(columns * rows):
        starts[tile + 1] += starts[tile]
    splats = np.empty(starts[-1], np.int32)
    ends = starts[:-1].copy()
    for i in _near_to_far(table, drawn[:count]):
        for row in range(boxes[i, 2], boxes[i, 3] + 1):
            for column in range(boxes[i, 0], boxes[i, 1] + 1):
                tile = row * columns + column
                splats[ends[tile]] = i
                ends[tile] += 1
    return splats, starts


@inlined
def _first_and_last(center, reach, size, tile):
    """First and last tile with a pixel centre within `reach` of `center`; the last comes first if there is none."""
    first, last = max(center - reach - F(0.5), F(0)), min(center + reach - F(0.5), F(size - 1))
    if not first <= last:  # also if one of them is NaN
        return 0, -1
    first, last = math.ceil(first), math.floor(last)
    return (first // tile, last // tile) if first <= last else (0, -1)


@inlined
def _near_to_far(table, splats):
    """Sort splats by depth, stably: a radix sort of the bits of positive floats, which are ordered as the floats."""
    count = len(splats)
    keys, other_keys = np.empty(count, np.uint32), np.empty(count, np.uint32)
    other_splats = np.empty(count, np.int32)
    for j in range(count):
        keys[j] = np.float32(table[splats[j], DEPTH]).view(np.uint32)
    for shift in range(0, 3 * BITS, BITS):
        ends = np.zeros(BUCKETS + 1, np.int64)
        for j in range(count):
            ends[((keys[j] >> np.uint32(shift)) & np.uint32(BUCKETS - 1)) + 1] += 1
        for bucket in range(BUCKETS):
            ends[bucket + 1] += ends[bucket]
        for j in range(count):
            bucket = (keys[j] >> np.uint32(shift)) & np.uint32(BUCKETS - 1)
            other_keys[ends[bucket]] = keys[j]
            other_splats[ends[bucket]] = splats[j]
            ends[bucket] += 1
        keys, other_keys = other_keys, keys
        splats, other_splats = other_splats, splats
    return splats
