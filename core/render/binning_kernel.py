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

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from core.render.capacity import MAX_SLOTS, NOT_MEASURED, CapacityEstimator, capacity_estimator
from core.render.depth_ranks_kernel import CROWDED, ranks_by_sorting, view_and_splats
from core.render.launch import Launcher
from core.render.splat_table import NOT_DRAWN, OCTAVES, DepthOrder, bucket_of, octave_bits
from core.render.tile_lists import TileLists, columns_in_row, count_bits, ellipse, load_splat, load_words, lowest_bit
from smpl_renderer.errors import InputError

MARK_BLOCK = 64  # splats per program; the largest splat determines its duration
WORD_BLOCK = 256  # 32-bit words of a bit set that a program of `_list_kernel` reads at a time
LIST_BLOCK = 32  # splats at a time; more would need registers that other programs use
MAX_BITS_BYTES = 2**27  # size of the bit sets of all cells above which cells are enlarged
MAX_COUNT = 65535 * MARK_BLOCK  # splats per view: limit of a grid's second axis, in the projection


@triton.jit(do_not_specialize=["count", "words", "columns", "rows"])
def _mark_kernel(
    table, keys, ends, sizes, heads, nexts, ranks, bits, slots, used, crowded, count, words, columns, rows,
    HAS_RANKS: tl.constexpr, OCTAVE_BITS: tl.constexpr, CELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each splat to the slot of its rank, and set its bit in the cells, `rows` x `columns` per view."""
    view, n = view_and_splats(count, BLOCK)
    mask = n < count
    first = view * count
    tl.store(used, 0, tl.program_id(0) == 0)  # for the next kernel
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

    splat = load_splat(table, first + n, mask)
    mean_x, mean_y, p, q, r, level, row, last_row = ellipse(splat, rows, CELL)
    bit = (tl.full([BLOCK], 1, tl.uint32) << (rank % 32).to(tl.uint32)).to(tl.int32, bitcast=True)
    column, last = columns_in_row(mean_x, mean_y, p, q, r, level, row, columns, CELL)
    # Each iteration sets one bit or moves to the next row of cells.
    live = mask & (row <= last_row)
    while tl.max(live.to(tl.int32), 0) > 0:
        inside = column <= last
        word = (view * (columns * rows) + row * columns + column) * words + rank // 32
        tl.atomic_or(bits + word, bit, live & inside, sem="relaxed")
        row = tl.where(inside, row, row + 1)
        next_first, next_last = columns_in_row(mean_x, mean_y, p, q, r, level, row, columns, CELL)
        column = tl.where(inside, column + 1, next_first)
        last = tl.where(inside, last, next_last)
        live = live & (row <= last_row)


@triton.jit
def _reached_tiles(splat, mask, row, column, columns, rows, TILE: tl.constexpr, SIDE: tl.constexpr):
    """1 where a splat reaches a tile of the cell, else 0: [BLOCK, SIDE * SIDE]."""
    mean_x, mean_y, p, q, r, level, first_row, last_row = ellipse(splat, rows, TILE)
    own_row = (row + tl.arange(0, SIDE))[None, :]
    first_column, last_column = columns_in_row(
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
        length += tl.sum(count_bits(load_words(bits, word, words, WORD_BLOCK)), 0)
        word += WORD_BLOCK
    place = tl.atomic_add(used, length.to(tl.int64) * (SIDE * SIDE), length > 0, sem="relaxed")
    length = tl.where(place + length.to(tl.int64) * (SIDE * SIDE) <= capacity, length, 0)
    first = num_splats + tl.where(length > 0, place, 0).to(tl.int32)
    splats = slots + first + (SIDE * SIDE - 1) * length
    written, word = 0, 0
    while written < length:
        own = load_words(bits, word, words, WORD_BLOCK)
        each = count_bits(own)
        at = written + tl.cumsum(each, 0) - each
        rank = view * count + (word + tl.arange(0, WORD_BLOCK)) * 32
        while tl.max((own != 0).to(tl.int32), 0) > 0:
            others = own & (own - 1)
            tl.store(splats + at, tl.load(slots + rank + lowest_bit(own, others), own != 0, 0), own != 0)
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
    splat = load_splat(table, i, k < length)
    next_i = tl.load(splats + k + BLOCK, k + BLOCK < length, 0)
    while tl.min(k, 0) < length:
        next_splat = load_splat(table, next_i, k + BLOCK < length)
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


def mark_grid(num_views: int, count: int) -> tuple[int]:
    """Grid of `_mark_kernel`."""
    return (num_views * triton.cdiv(count, MARK_BLOCK),)


launch_mark, _launch_list = (Launcher(kernel, num_warps=1) for kernel in (_mark_kernel, _list_kernel))


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
    estimator = capacity_estimator(table.device, num_views, count, width, height, tile, capacity)
    if estimator.is_measured:
        estimator.read_reports()
        return _list_tiles(table, order, width, height, tile, estimator)
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        raise InputError(NOT_MEASURED)
    lists = _list_tiles(table, order, width, height, tile, estimator)
    return lists if estimator.update(int(lists.used)) else _list_tiles(table, order, width, height, tile, estimator)


def cell_side(num_views: int, count: int, num_tiles: int) -> int:
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
    side = cell_side(num_views, count, columns * rows)
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
        chains = slots, slots, slots, slots, ranks_by_sorting(order.keys)
    else:
        chains = order.sizes.view(-1).cumsum(0, dtype=torch.int32), order.sizes, order.heads, order.nexts, slots
    launch_mark(
        mark_grid(num_views, count),
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
