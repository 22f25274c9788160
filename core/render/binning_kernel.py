"""Depth-sorted list of splats for each tile of the image, built without synchronising with the device.

Definition: a tile's list holds every splat that has alpha >= ALPHA_MIN at one of its pixel centres; extra splats are
harmless. The steps:

    rank   the depth rank of each splat within its view, see `DepthOrder`
    mark   each cell, a square of several tiles, has a bit set with one bit per rank; each splat sets its bit in every
           cell that its ellipse reaches. The bits are in depth order, in whatever order they are set
    list   each cell reads its bits in order, tests which of its tiles each splat reaches, and writes the tiles' lists

The lists share a buffer whose capacity is fixed before the launch, since the number of slots that they need is on the
device only. If they do not fit, every tile uses all splats of its view instead: slow, but the image is the same. The
next call gets a larger capacity.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from core.render import projection
from core.render.capacity import MAX_SLOTS, CapacityEstimator, capacity_estimator
from core.render.launch import Launcher
from core.render.splat_table import (
    LOG2_OPACITY,
    MEAN_X,
    MEAN_Y,
    NOT_DRAWN,
    OCTAVES,
    STRIDE,
    DepthOrder,
    P,
    Q,
    R,
    bucket_of,
    octave_bits,
)
from smpl_renderer.errors import InputError

MARK_BLOCK = 64  # splats per program; the largest splat determines its duration
WORD_BLOCK = 256  # 32-bit words of a bit set that a program of `_list_kernel` reads at a time
LIST_BLOCK = 32  # splats at a time; more would need registers that other programs use
MAX_BITS_BYTES = 2**27  # size of the bit sets of all cells above which cells are enlarged
MAX_COUNT = 65535 * MARK_BLOCK  # splats per view: limit of a grid's second axis

CROWDED = tl.constexpr(512)  # size of a bucket above which sorting is faster than traversing its list for each splat
LOG2_ALPHA_MIN = tl.constexpr(math.log2(projection.ALPHA_MIN))


@dataclass(frozen=True)
class TileLists:
    """Depth-sorted splats of each tile of each view, near to far; tiles are in row-major order."""

    slots: Int[Tensor, " V*N+capacity"]
    """Indices into the splat table: first all splats of each view from near to far, then the tiles' lists, with gaps
    between them."""
    ranges: Int[Tensor, "V*tiles 2"]
    """First slot of each tile's list, and the slot after its last."""
    used: Int[Tensor, " 1"]
    """Slots that all lists need. If more than `capacity`, `ranges` is invalid, and each tile uses all splats of its
    view."""
    capacity: int
    """Slots available for the tiles' lists."""
    tile: int
    """Side of a tile in pixels."""
    overflow: Int[Tensor, " 1"] | None = None
    """Host memory to which `composite` copies `used` if it exceeds `capacity`."""


@triton.jit
def _columns_in_row(mean_x, mean_y, p, q, r, level, tile_y, columns, TILE: tl.constexpr):
    """First and last tile that the ellipse |W d|^2 = level reaches in a row of tiles; none if first > last.

    Its right edge at height y is (sqrt(level - r^2 y^2) - q y) / p, a concave function with its maximum at -q
    sqrt(level) / (r s) where s^2 = q^2 + r^2; its left edge is the point reflection of it. A small margin ensures that
    rounding drops no pixel.
    """
    root = tl.sqrt(level)
    half_height = root / r
    low = tl.maximum(tile_y * TILE + 0.5 - mean_y, -half_height)
    high = tl.minimum(tile_y * TILE + (TILE - 0.5) - mean_y, half_height)
    top = q * root / (r * tl.sqrt(q * q + r * r))
    right_y = tl.minimum(tl.maximum(-top, low), high)
    left_y = tl.minimum(tl.maximum(top, low), high)
    right = (tl.sqrt(tl.maximum(level - r * r * right_y * right_y, 0.0)) - q * right_y) / p
    left = (tl.sqrt(tl.maximum(level - r * r * left_y * left_y, 0.0)) + q * left_y) / p
    right = mean_x + right + 0.0001 * tl.abs(right) + 0.01
    left = mean_x - left - 0.0001 * tl.abs(left) - 0.01
    # Clamp before the conversion: values far outside, and NaN, would overflow.
    first = tl.ceil(tl.minimum(tl.maximum((left + 0.5) / TILE, 0.0), columns + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((right - 0.5) / TILE, -1.0), columns - 1.0)).to(tl.int32)
    return tl.maximum(first, 0), tl.where(low <= high + 0.01, last, -1)


@triton.jit
def _load_splat(table, i, mask):
    """Centre, whitener and log2 opacity of splats."""
    splat = table + i.to(tl.int64) * STRIDE
    mean_x, mean_y = tl.load(splat + MEAN_X, mask, 0.0), tl.load(splat + MEAN_Y, mask, 0.0)
    p, q, r = tl.load(splat + P, mask, 1.0), tl.load(splat + Q, mask, 0.0), tl.load(splat + R, mask, 1.0)
    return mean_x, mean_y, p, q, r, tl.load(splat + LOG2_OPACITY, mask, float("-inf"))


@triton.jit
def _ellipse(splat, rows, TILE: tl.constexpr):
    """Centre, whitener and level of splats, and the first and last row of tiles that each reaches."""
    mean_x, mean_y, p, q, r, log2_opacity = splat
    level = log2_opacity - LOG2_ALPHA_MIN
    drawn = level >= 0
    # Slightly larger: the margin of `_columns_in_row`, for the height.
    level = tl.where(drawn, level * 1.0002 + 0.0001, 1.0)
    half_height = tl.sqrt(level) / r + 0.01
    first = tl.ceil(tl.minimum(tl.maximum((mean_y - half_height + 0.5) / TILE, 0.0), rows + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((mean_y + half_height - 0.5) / TILE, -1.0), rows - 1.0)).to(tl.int32)
    return mean_x, mean_y, p, q, r, level, tl.maximum(first, 0), tl.where(drawn, last, -1)


@triton.jit(do_not_specialize=["count", "words", "columns", "rows"])
def _mark_kernel(
    table, keys, ends, sizes, heads, nexts, ranks, bits, slots, used, crowded, count, words, columns, rows,
    HAS_RANKS: tl.constexpr, OCTAVE_BITS: tl.constexpr, CELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each splat to the slot of its rank, and set its bit in the cells, `rows` x `columns` per view."""
    view = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    first = view * count
    tl.store(used, 0, (view == 0) & (tl.program_id(1) == 0))  # for the next kernel
    if HAS_RANKS:
        rank = tl.load(ranks + first + n, mask, 0)
    else:
        key = tl.load(keys + first + n, mask, NOT_DRAWN)
        bucket = view * (OCTAVES << OCTAVE_BITS) + bucket_of(key, OCTAVE_BITS)
        size = tl.load(sizes + bucket)
        rank = tl.load(ends + bucket) - size - first.to(tl.int32)
        rank += tl.where(key == NOT_DRAWN, tl.load(nexts + first + n, mask, 0), 0)
        tl.store(crowded, 1, tl.max(tl.where(key == NOT_DRAWN, 0, size), 0) > CROWDED)
        other = tl.where(key == NOT_DRAWN, 0, tl.load(heads + bucket)) - 1
        while tl.max(other, 0) >= 0:
            other_key = tl.load(keys + first + other, other >= 0, NOT_DRAWN)
            rank += ((other_key < key) | ((other_key == key) & (other < n) & (other >= 0))).to(tl.int32)
            other = tl.load(nexts + first + other, other >= 0, 0) - 1
    tl.store(slots + first + rank, (first + n).to(tl.int32), mask)

    splat = _load_splat(table, first + n, mask)
    mean_x, mean_y, p, q, r, level, row, last_row = _ellipse(splat, rows, CELL)
    bit = (tl.full([BLOCK], 1, tl.uint32) << (rank % 32).to(tl.uint32)).to(tl.int32, bitcast=True)
    column, last = _columns_in_row(mean_x, mean_y, p, q, r, level, row, columns, CELL)
    # Each iteration sets one bit or moves to the next row of cells.
    live = mask & (row <= last_row)
    while tl.max(live.to(tl.int32), 0) > 0:
        inside = column <= last
        word = (view * (columns * rows) + row * columns + column) * words + rank // 32
        tl.atomic_or(bits + word, bit, live & inside, sem="relaxed")
        row = tl.where(inside, row, row + 1)
        next_first, next_last = _columns_in_row(mean_x, mean_y, p, q, r, level, row, columns, CELL)
        column = tl.where(inside, column + 1, next_first)
        last = tl.where(inside, last, next_last)
        live = live & (row <= last_row)


@triton.jit
def _count_bits(word):
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    return (((word + (word >> 4) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _load_words(bits, first, words, BLOCK: tl.constexpr):
    at = first + tl.arange(0, BLOCK)
    return tl.load(bits + at, at < words, 0).to(tl.uint32, bitcast=True)


@triton.jit
def _reached_tiles(splat, mask, row, column, columns, rows, TILE: tl.constexpr, SIDE: tl.constexpr):
    """1 where a splat reaches a tile of the cell, else 0: [BLOCK, SIDE * SIDE]."""
    mean_x, mean_y, p, q, r, level, first_row, last_row = _ellipse(splat, rows, TILE)
    own_row = (row + tl.arange(0, SIDE))[None, :]
    first_column, last_column = _columns_in_row(
        mean_x[:, None], mean_y[:, None], p[:, None], q[:, None], r[:, None], level[:, None], own_row, columns, TILE
    )
    in_height = (own_row >= first_row[:, None]) & (own_row <= last_row[:, None]) & mask[:, None]
    own_column = (column + tl.arange(0, SIDE))[None, None, :]
    reached = (own_column >= first_column[:, :, None]) & (own_column <= last_column[:, :, None]) & in_height[:, :, None]
    return reached.to(tl.int32).reshape([mask.shape[0], SIDE * SIDE])


@triton.jit(do_not_specialize=["count", "words", "num_splats", "capacity", "columns", "rows", "cell_columns", "cells"])
def _list_kernel(
    bits, table, slots, ranges, used, count, words, num_splats, capacity, columns, rows, cell_columns, cells,
    TILE: tl.constexpr, SIDE: tl.constexpr, WORD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the lists of the SIDE x SIDE tiles of one cell; each list has room for all splats of the cell.

    A program first writes all these splats to the slots of the last list, then reads them from there. The last list
    never grows faster than they are read, so it overwrites none that are still to be read.
    """
    program = tl.program_id(0)
    view, cell = program // cells, program % cells
    row, column = cell // cell_columns * SIDE, cell % cell_columns * SIDE
    bits += program.to(tl.int64) * words

    length, word = 0, 0
    while word < words:
        length += tl.sum(_count_bits(_load_words(bits, word, words, WORD_BLOCK)), 0)
        word += WORD_BLOCK
    place = tl.atomic_add(used, length.to(tl.int64) * (SIDE * SIDE), length > 0, sem="relaxed")
    length = tl.where(place + length.to(tl.int64) * (SIDE * SIDE) <= capacity, length, 0)
    first = num_splats + tl.where(length > 0, place, 0).to(tl.int32)
    splats = slots + first + (SIDE * SIDE - 1) * length
    written, word = 0, 0
    while written < length:
        own = _load_words(bits, word, words, WORD_BLOCK)
        each = _count_bits(own)
        at = written + tl.cumsum(each, 0) - each
        rank = view * count + (word + tl.arange(0, WORD_BLOCK)) * 32
        while tl.max((own != 0).to(tl.int32), 0) > 0:
            others = own & (own - 1)
            exponent = ((own ^ others).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127  # index of the lowest bit
            tl.store(splats + at, tl.load(slots + rank + exponent, own != 0, 0), own != 0)
            at += (own != 0).to(tl.int32)
            own = others
        written += tl.sum(each, 0)
        word += WORD_BLOCK
    tl.debug_barrier()  # other threads read these slots below

    list_first = first + tl.arange(0, SIDE * SIDE) * length
    list_end = list_first
    k = tl.arange(0, BLOCK)
    # Software pipeline: splats are loaded one iteration ahead, their indices two ahead.
    i = tl.load(splats + k, k < length, 0)
    splat = _load_splat(table, i, k < length)
    next_i = tl.load(splats + k + BLOCK, k + BLOCK < length, 0)
    while tl.min(k, 0) < length:
        next_splat = _load_splat(table, next_i, k + BLOCK < length)
        i_after = tl.load(splats + k + 2 * BLOCK, k + 2 * BLOCK < length, 0)
        reached = _reached_tiles(splat, k < length, row, column, columns, rows, TILE, SIDE)
        at = list_end[None, :] + tl.cumsum(reached, 0) - reached
        tl.store(slots + at, i[:, None] + tl.zeros_like(at), reached > 0)
        list_end += tl.sum(reached, 0)
        i, splat, next_i = next_i, next_splat, i_after
        k += BLOCK
    own = tl.arange(0, SIDE * SIDE)
    own_row, own_column = row + own // SIDE, column + own % SIDE
    tile = view.to(tl.int64) * (columns * rows) + own_row * columns + own_column
    inside = (own_row < rows) & (own_column < columns)
    tl.store(ranges + tile * 2, list_first, inside)
    tl.store(ranges + tile * 2 + 1, list_end, inside)


_launch_mark, _launch_list = (Launcher(kernel, num_warps=1) for kernel in (_mark_kernel, _list_kernel))


def bin_tiles(
    table: Float[Tensor, "*views N 12"],
    order: DepthOrder,
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
) -> TileLists:
    """Lists for compositing images of `width` x `height` in tiles of `tile` x `tile` pixels.

    Args:
        capacity: Slots for the lists; by default estimated from earlier calls of the same sizes.
    Raises:
        ValueError: If `capacity` is negative.
        InputError: If the first call of these sizes is part of a CUDA graph, or the lists exceed 32-bit indices.
    """
    num_views, count = table.shape[:-2].numel(), table.shape[-2]
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be a number of slots or None, got {capacity}")
    estimator = capacity_estimator(table.device, num_views, count, width, height, tile, capacity)
    if estimator.is_measured:
        estimator.read_reports()
        return _list_tiles(table, order, width, height, tile, estimator)
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        raise InputError("backend triton measures its list sizes in a first call; render once before capturing a graph")
    lists = _list_tiles(table, order, width, height, tile, estimator)
    return lists if estimator.update(int(lists.used)) else _list_tiles(table, order, width, height, tile, estimator)


def _cell_side(num_views: int, count: int, num_tiles: int) -> int:
    """Side of a cell in tiles: 2, or more where the bit sets of all cells would exceed `MAX_BITS_BYTES`.

    Larger cells need fewer bits, but reserve more slots for each splat; the second condition stops where the slots
    outweigh the bits.
    """
    side, bits_bytes = 2, num_views * num_tiles * count // 8
    while bits_bytes > MAX_BITS_BYTES * side**2 and 16 * (2 * side) ** 4 <= num_tiles:
        side *= 2
    return side


def _list_tiles(
    table: Tensor, order: DepthOrder, width: int, height: int, tile: int, estimator: CapacityEstimator
) -> TileLists:
    num_views, count, capacity = table.shape[:-2].numel(), table.shape[-2], estimator.capacity
    columns, rows, num_splats, words = -(-width // tile), -(-height // tile), num_views * count, -(-count // 32)
    side = _cell_side(num_views, count, columns * rows)
    cell_columns, cell_rows = -(-columns // side), -(-rows // side)
    num_cells, num_tiles = num_views * cell_columns * cell_rows, num_views * columns * rows
    if max(num_splats + capacity, num_tiles, 3 * width * height) > MAX_SLOTS or count > MAX_COUNT:
        raise InputError(
            f"{num_views} views of {count} Gaussians at {width} x {height} are too many for one call; "
            "render fewer views at once"
        )
    bits = torch.zeros(num_cells * words, dtype=torch.int32, device=table.device)
    used = torch.empty(1, dtype=torch.int64, device=table.device)
    slots = torch.empty(num_splats + capacity, dtype=torch.int32, device=table.device)
    ranges = torch.empty(num_tiles, 2, dtype=torch.int32, device=table.device)
    has_ranks = order.sizes is None or estimator.is_crowded
    if has_ranks:
        chains = slots, slots, slots, slots, _ranks(order.keys)
    else:
        chains = order.sizes.view(-1).cumsum(0, dtype=torch.int32), order.sizes, order.heads, order.nexts, slots
    _launch_mark(
        (num_views, triton.cdiv(count, MARK_BLOCK)),
        *(table, order.keys, *chains, bits, slots, used, estimator.crowded),
        *(count, words, cell_columns, cell_rows),
        constants=(has_ranks, octave_bits(count), tile * side, MARK_BLOCK),
    )
    _launch_list(
        (num_cells,),
        *(bits, table, slots, ranges, used),
        *(count, words, num_splats, capacity, columns, rows, cell_columns, cell_columns * cell_rows),
        constants=(tile, side, WORD_BLOCK, LIST_BLOCK if side <= 4 else LIST_BLOCK // 4),
    )
    return TileLists(slots, ranges, used, capacity, tile, estimator.overflow)


def _ranks(keys: Int[Tensor, "*views N"]) -> Int[Tensor, "*views N"]:
    """Depth rank of each splat within its view."""
    order = keys.argsort(dim=-1, stable=True)
    places = torch.arange(keys.shape[-1], dtype=torch.int32, device=keys.device).expand_as(keys)
    return torch.empty(keys.shape, dtype=torch.int32, device=keys.device).scatter_(-1, order, places)
