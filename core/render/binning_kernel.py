"""Near-to-far lists of the splats that each tile of the image needs, made without waiting for the device.

Definition: a tile needs a splat that has alpha >= ALPHA_MIN at a pixel centre of it; a few more do no harm. The steps:

    order  by depth: a splat's place among those of its view is its rank, see `DepthOrder`
    mark   each cell, a square of several tiles, has a row of bits, one for each rank; a splat sets its own in every
           cell that its ellipse reaches. Whoever comes first, the bits stand in the order of depth
    list   each cell reads its bits from first to last, looks which of its tiles each splat reaches, and writes the
           tiles' lists

The lists go to a buffer of a capacity fixed beforehand, since what they need is known to the device alone. Where they
do not fit, every tile is given all splats of its view instead, which takes long but draws the same picture, and the
next call gets a larger capacity.
"""

import functools
import logging
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from core.render import projection
from core.render.launch import Launcher
from core.render.splat_table import (
    LOG2_OPACITY,
    MEAN_X,
    MEAN_Y,
    NOT_DRAWN,
    OCTAVES,
    ROW,
    DepthOrder,
    P,
    Q,
    R,
    bucket_of,
    octave_bits,
)
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

MARK_BLOCK = 64  # splats per program, which takes as long as its largest splat
WORD_BLOCK = 256  # words of bits that a program of `_list_kernel` reads at a time
LIST_BLOCK = 32  # splats at a time; more would take registers from other cells' programs
MAX_BITS_BYTES = 2**27  # what the bits of all cells may take before cells are made larger
HEADROOM = 1.25  # of a learned capacity, over the most that was seen
MAX_LEARNED = 2**29  # slots: 2 GB
MAX_SLOTS = 2**31 - 1024  # lists are indexed with 32 bits, also a little past their end
MAX_COUNT = 65535 * MARK_BLOCK  # splats of a view: programs along a grid's second axis

CROWD = tl.constexpr(512)  # splats of a bucket that are too many to go through one by one, time and again
LOG2_ALPHA_MIN = tl.constexpr(math.log2(projection.ALPHA_MIN))


@dataclass(frozen=True)
class TileLists:
    """For each tile of each view, row by row, which splats it needs, from near to far."""

    slots: Int[Tensor, " V*N+capacity"]
    """Row numbers: first all of each view from near to far, then the tiles' lists, with gaps between them."""
    ranges: Int[Tensor, "V*tiles 2"]
    """First slot of each tile's list and the one after its last."""
    used: Int[Tensor, " 1"]
    """Slots that all lists take. If more than `capacity`, `ranges` is void, and a tile needs all splats of its view."""
    capacity: int
    tile: int
    """Pixels along a tile's side."""
    overflow: Int[Tensor, " 1"] | None = None
    """In the host's memory: where `composite` leaves what `used` says if that is more than `capacity`."""


@triton.jit
def _columns_in_row(mean_x, mean_y, p, q, r, level, tile_y, columns, TILE: tl.constexpr):
    """First and last tile that the ellipse |W d|^2 = level reaches in a row of tiles; none if first > last.

    Its right edge at height y is (sqrt(level - r^2 y^2) - q y) / p, a concave function with its top at -q sqrt(level)
    / (r s) where s^2 = q^2 + r^2; its left edge is the mirror image through the centre. All with a little to spare,
    so that rounding drops no pixel.
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
    # Bounds before the conversion: what lies far outside, or is no number, must not overflow.
    first = tl.ceil(tl.minimum(tl.maximum((left + 0.5) / TILE, 0.0), columns + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((right - 0.5) / TILE, -1.0), columns - 1.0)).to(tl.int32)
    return tl.maximum(first, 0), tl.where(low <= high + 0.01, last, -1)


@triton.jit
def _load_splat(rows, i, mask):
    """A splat's centre, whitener and opacity."""
    row = rows + i.to(tl.int64) * ROW
    mean_x, mean_y = tl.load(row + MEAN_X, mask, 0.0), tl.load(row + MEAN_Y, mask, 0.0)
    p, q, r = tl.load(row + P, mask, 1.0), tl.load(row + Q, mask, 0.0), tl.load(row + R, mask, 1.0)
    return mean_x, mean_y, p, q, r, tl.load(row + LOG2_OPACITY, mask, float("-inf"))


@triton.jit
def _ellipse(splat, lines, TILE: tl.constexpr):
    """A splat's centre, whitener and level, and the first and last row of tiles that it reaches."""
    mean_x, mean_y, p, q, r, log2_opacity = splat
    level = log2_opacity - LOG2_ALPHA_MIN
    drawn = level >= 0
    # Slightly larger: the slack of `_columns_in_row` for height.
    level = tl.where(drawn, level * 1.0002 + 0.0001, 1.0)
    half_height = tl.sqrt(level) / r + 0.01
    first = tl.ceil(tl.minimum(tl.maximum((mean_y - half_height + 0.5) / TILE, 0.0), lines + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((mean_y + half_height - 0.5) / TILE, -1.0), lines - 1.0)).to(tl.int32)
    return mean_x, mean_y, p, q, r, level, tl.maximum(first, 0), tl.where(drawn, last, -1)


@triton.jit(do_not_specialize=["count", "words", "columns", "lines"])
def _mark_kernel(
    rows, keys, ends, sizes, heads, nexts, ranks, bits, slots, used, crowded, count, words, columns, lines,
    HAS_RANKS: tl.constexpr, OCTAVE_BITS: tl.constexpr, CELL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each splat to its place in the order, and set its bit in the cells, `columns` x `lines` in a view."""
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
        tl.store(crowded, 1, tl.max(tl.where(key == NOT_DRAWN, 0, size), 0) > CROWD)
        other = tl.where(key == NOT_DRAWN, 0, tl.load(heads + bucket)) - 1
        while tl.max(other, 0) >= 0:
            other_key = tl.load(keys + first + other, other >= 0, NOT_DRAWN)
            rank += ((other_key < key) | ((other_key == key) & (other < n) & (other >= 0))).to(tl.int32)
            other = tl.load(nexts + first + other, other >= 0, 0) - 1
    tl.store(slots + first + rank, (first + n).to(tl.int32), mask)

    splat = _load_splat(rows, first + n, mask)
    mean_x, mean_y, p, q, r, level, line, last_line = _ellipse(splat, lines, CELL)
    bit = (tl.full([BLOCK], 1, tl.uint32) << (rank % 32).to(tl.uint32)).to(tl.int32, bitcast=True)
    column, last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, CELL)
    # One step of this loop sets a bit or goes on to the next row of cells.
    live = mask & (line <= last_line)
    while tl.max(live.to(tl.int32), 0) > 0:
        inside = column <= last
        word = (view * (columns * lines) + line * columns + column) * words + rank // 32
        tl.atomic_or(bits + word, bit, live & inside, sem="relaxed")
        line = tl.where(inside, line, line + 1)
        next_first, next_last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, CELL)
        column = tl.where(inside, column + 1, next_first)
        last = tl.where(inside, last, next_last)
        live = live & (line <= last_line)


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
def _reached_tiles(splat, mask, line, column, columns, lines, TILE: tl.constexpr, SIDE: tl.constexpr):
    """Which of a cell's tiles each of the splats [BLOCK] reaches: 0 or 1 [BLOCK, SIDE * SIDE]."""
    mean_x, mean_y, p, q, r, level, first_line, last_line = _ellipse(splat, lines, TILE)
    own_line = (line + tl.arange(0, SIDE))[None, :]
    first_column, last_column = _columns_in_row(
        mean_x[:, None], mean_y[:, None], p[:, None], q[:, None], r[:, None], level[:, None], own_line, columns, TILE
    )
    in_height = (own_line >= first_line[:, None]) & (own_line <= last_line[:, None]) & mask[:, None]
    own_column = (column + tl.arange(0, SIDE))[None, None, :]
    reached = (own_column >= first_column[:, :, None]) & (own_column <= last_column[:, :, None]) & in_height[:, :, None]
    return reached.to(tl.int32).reshape([mask.shape[0], SIDE * SIDE])


@triton.jit(do_not_specialize=["count", "words", "total_rows", "capacity", "columns", "lines", "cell_columns", "cells"])
def _list_kernel(
    bits, rows, slots, ranges, used, count, words, total_rows, capacity, columns, lines, cell_columns, cells,
    TILE: tl.constexpr, SIDE: tl.constexpr, WORD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program makes the lists of a cell's SIDE x SIDE tiles, each of which has room for all splats of the cell.

    First it writes down all these splats where the last list will be, then it goes through them. That list grows no
    faster than they are read, so that it never runs over any that are still to come.
    """
    program = tl.program_id(0)
    view, cell = program // cells, program % cells
    line, column = cell // cell_columns * SIDE, cell % cell_columns * SIDE
    bits += program.to(tl.int64) * words

    length, word = 0, 0
    while word < words:
        length += tl.sum(_count_bits(_load_words(bits, word, words, WORD_BLOCK)), 0)
        word += WORD_BLOCK
    place = tl.atomic_add(used, length.to(tl.int64) * (SIDE * SIDE), length > 0, sem="relaxed")
    length = tl.where(place + length.to(tl.int64) * (SIDE * SIDE) <= capacity, length, 0)
    first = total_rows + tl.where(length > 0, place, 0).to(tl.int32)
    splats = slots + first + (SIDE * SIDE - 1) * length
    written, word = 0, 0
    while written < length:
        own = _load_words(bits, word, words, WORD_BLOCK)
        each = _count_bits(own)
        at = written + tl.cumsum(each, 0) - each
        rank = view * count + (word + tl.arange(0, WORD_BLOCK)) * 32
        while tl.max((own != 0).to(tl.int32), 0) > 0:
            others = own & (own - 1)
            exponent = ((own ^ others).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127  # of the lowest bit
            tl.store(splats + at, tl.load(slots + rank + exponent, own != 0, 0), own != 0)
            at += (own != 0).to(tl.int32)
            own = others
        written += tl.sum(each, 0)
        word += WORD_BLOCK
    tl.debug_barrier()  # what one thread has written, others read below

    list_first = first + tl.arange(0, SIDE * SIDE) * length
    list_end = list_first
    k = tl.arange(0, BLOCK)
    # What comes next is loaded while what is there is worked on: one ahead the splats, two ahead their numbers.
    i = tl.load(splats + k, k < length, 0)
    splat = _load_splat(rows, i, k < length)
    next_i = tl.load(splats + k + BLOCK, k + BLOCK < length, 0)
    while tl.min(k, 0) < length:
        next_splat = _load_splat(rows, next_i, k + BLOCK < length)
        i_after = tl.load(splats + k + 2 * BLOCK, k + 2 * BLOCK < length, 0)
        reached = _reached_tiles(splat, k < length, line, column, columns, lines, TILE, SIDE)
        at = list_end[None, :] + tl.cumsum(reached, 0) - reached
        tl.store(slots + at, i[:, None] + tl.zeros_like(at), reached > 0)
        list_end += tl.sum(reached, 0)
        i, splat, next_i = next_i, next_splat, i_after
        k += BLOCK
    own = tl.arange(0, SIDE * SIDE)
    own_line, own_column = line + own // SIDE, column + own % SIDE
    tile = view.to(tl.int64) * (columns * lines) + own_line * columns + own_column
    inside = (own_line < lines) & (own_column < columns)
    tl.store(ranges + tile * 2, list_first, inside)
    tl.store(ranges + tile * 2 + 1, list_end, inside)


_launch_mark, _launch_list = (Launcher(kernel, num_warps=1) for kernel in (_mark_kernel, _list_kernel))


class CapacityEstimator:
    """What has been learned of pictures of one kind: from the first of them, and from those that took it by surprise.

    A call says what surprised it in the host's memory, behind everybody's back, also as part of a CUDA graph; the next
    call reads that, and nobody waits. (A graph goes on as it was recorded.)

    Args:
        capacity: Slots for lists, to begin with.
        limit: The most that is ever learned; more than that is drawn the slow way.
    """

    def __init__(self, capacity: int, limit: int, on_cuda: bool) -> None:
        self.capacity, self.limit = capacity, limit
        self.is_learned = False
        self.is_crowded = False
        """Whether many splats are so near to each other in depth that sorting them is the quicker way."""
        self._reported = 0
        self.overflow, self.crowded = (torch.zeros(1, dtype=torch.int64, pin_memory=on_cuda) for _ in range(2))

    def learn(self, used: int) -> bool:
        """Take in what a call needed; whether that was within the capacity."""
        sufficed = used <= self.capacity
        self.capacity = min(max(4096, math.ceil(used * HEADROOM / 1024) * 1024), self.limit)
        self.is_learned = True
        return sufficed

    def update(self) -> None:
        """Look whether an earlier call was surprised."""
        self.is_crowded = self.is_crowded or bool(self.crowded)
        used = int(self.overflow)
        if not used:
            return
        self.overflow.zero_()
        if used > self._reported:
            message = "lists of %d entries passed the capacity of %d: a call drew all of them, but slowly"
            logger.warning(message, used, self.capacity)
            self._reported = used
        if self.capacity < min(used, self.limit):
            self.learn(used)


@functools.cache  # for good: a CUDA graph may write to it at any time
def _experience(
    device: torch.device, num_views: int, count: int, width: int, height: int, tile: int, capacity: int | None
) -> CapacityEstimator:
    """One for each kind of picture; with a capacity chosen by the caller, nothing is left to learn about that."""
    on_cuda, total_rows = device.type == "cuda", num_views * count
    if capacity is None:
        limit = max(4096, min(MAX_LEARNED, MAX_SLOTS - total_rows))
        return CapacityEstimator(min(4096 + 16 * total_rows, limit), limit, on_cuda)
    experience = CapacityEstimator(capacity, capacity, on_cuda)
    experience.is_learned = True
    return experience


def bin_tiles(
    rows: Float[Tensor, "*views N 12"],
    order: DepthOrder,
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
) -> TileLists:
    """Lists for compositing pictures of `width` x `height` in tiles of `tile` x `tile` pixels.

    Args:
        capacity: Slots for the lists; by default learned from earlier calls of the same sizes.
    """
    num_views, count = rows.shape[:-2].numel(), rows.shape[-2]
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be a number of slots or None, got {capacity}")
    experience = _experience(rows.device, num_views, count, width, height, tile, capacity)
    if experience.is_learned:
        experience.update()
        return _list_tiles(rows, order, width, height, tile, experience)
    if rows.is_cuda and torch.cuda.is_current_stream_capturing():
        raise InputError("backend triton learns its list sizes from a first call: draw once before capturing a graph")
    lists = _list_tiles(rows, order, width, height, tile, experience)
    return lists if experience.learn(int(lists.used)) else _list_tiles(rows, order, width, height, tile, experience)


def _cell_side(num_views: int, count: int, num_tiles: int) -> int:
    """Tiles along a cell's side: two, or more where the bits of so many cells (of `num_tiles` a view) would take much.

    Larger cells have fewer bits, but reserve more slots for each splat; the bound is where these outweigh them.
    """
    side, bits_bytes = 2, num_views * num_tiles * count // 8
    while bits_bytes > MAX_BITS_BYTES * side**2 and 16 * (2 * side) ** 4 <= num_tiles:
        side *= 2
    return side


def _list_tiles(
    rows: Tensor, order: DepthOrder, width: int, height: int, tile: int, experience: CapacityEstimator
) -> TileLists:
    num_views, count, capacity = rows.shape[:-2].numel(), rows.shape[-2], experience.capacity
    columns, lines, total_rows, words = -(-width // tile), -(-height // tile), num_views * count, -(-count // 32)
    side = _cell_side(num_views, count, columns * lines)
    cell_columns, cell_lines = -(-columns // side), -(-lines // side)
    num_cells, num_tiles = num_views * cell_columns * cell_lines, num_views * columns * lines
    if max(total_rows + capacity, num_tiles, 3 * width * height) > MAX_SLOTS or count > MAX_COUNT:
        raise InputError(
            f"{num_views} views of {count} Gaussians at {width} x {height} are too many for one call; draw fewer"
        )
    bits = torch.zeros(num_cells * words, dtype=torch.int32, device=rows.device)
    used = torch.empty(1, dtype=torch.int64, device=rows.device)
    slots = torch.empty(total_rows + capacity, dtype=torch.int32, device=rows.device)
    ranges = torch.empty(num_tiles, 2, dtype=torch.int32, device=rows.device)
    has_ranks = order.sizes is None or experience.is_crowded
    if has_ranks:
        chains = slots, slots, slots, slots, _ranks(order.keys)
    else:
        chains = order.sizes.view(-1).cumsum(0, dtype=torch.int32), order.sizes, order.heads, order.nexts, slots
    _launch_mark(
        (num_views, triton.cdiv(count, MARK_BLOCK)),
        *(rows, order.keys, *chains, bits, slots, used, experience.crowded),
        *(count, words, cell_columns, cell_lines),
        constants=(has_ranks, octave_bits(count), tile * side, MARK_BLOCK),
    )
    _launch_list(
        (num_cells,),
        *(bits, rows, slots, ranges, used),
        *(count, words, total_rows, capacity, columns, lines, cell_columns, cell_columns * cell_lines),
        constants=(tile, side, WORD_BLOCK, LIST_BLOCK if side <= 4 else LIST_BLOCK // 4),
    )
    return TileLists(slots, ranges, used, capacity, tile, experience.overflow)


def _ranks(keys: Int[Tensor, "*views N"]) -> Int[Tensor, "*views N"]:
    """Each splat's place in its view's order."""
    order = keys.argsort(dim=-1, stable=True)
    places = torch.arange(keys.shape[-1], dtype=torch.int32, device=keys.device).expand_as(keys)
    return torch.empty(keys.shape, dtype=torch.int32, device=keys.device).scatter_(-1, order, places)
