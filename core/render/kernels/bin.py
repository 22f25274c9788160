"""Near-to-far lists of the splats that each tile of the image needs, made without waiting for the device.

Definition: a tile needs a splat that has alpha >= ALPHA_MIN at a pixel centre of it; a few more do no harm. The steps:

    sort   all splats, by view and then by depth: a splat's place among those of its view is its rank
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
from core.render.kernels.rows import LOG2_OPACITY, MEAN_X, MEAN_Y, ROW, P, Q, R
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

MARK_BLOCK = 64  # splats per program, which takes as long as its largest splat
WORD_BLOCK = 256  # words of bits that a program of `_list_kernel` reads at a time
LIST_BLOCK = 64  # splats at a time
MAX_BITS_BYTES = 2**27  # what the bits of all cells may take; larger cells take fewer
MAX_CELL_TILES = 16  # along a cell's side
HEADROOM = 1.25  # of a learned capacity, over the most that was seen
MAX_SLOTS = 2**31 - 1  # lists are indexed with 32 bits

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
def _load_ellipse(rows, i, mask, lines, TILE: tl.constexpr):
    """A splat's centre, whitener and level, and the first and last row of tiles that it reaches."""
    row = rows + i * ROW
    mean_x, mean_y = tl.load(row + MEAN_X, mask, 0.0), tl.load(row + MEAN_Y, mask, 0.0)
    p, q, r = tl.load(row + P, mask, 1.0), tl.load(row + Q, mask, 0.0), tl.load(row + R, mask, 1.0)
    level = tl.load(row + LOG2_OPACITY, mask, float("-inf")) - LOG2_ALPHA_MIN
    drawn = level >= 0
    # Slightly larger: the slack of `_columns_in_row` for height.
    level = tl.where(drawn, level * 1.0002 + 0.0001, 1.0)
    half_height = tl.sqrt(level) / r + 0.01
    first = tl.ceil(tl.minimum(tl.maximum((mean_y - half_height + 0.5) / TILE, 0.0), lines + 1.0)).to(tl.int32) - 1
    last = tl.floor(tl.minimum(tl.maximum((mean_y + half_height - 0.5) / TILE, -1.0), lines - 1.0)).to(tl.int32)
    return mean_x, mean_y, p, q, r, level, tl.maximum(first, 0), tl.where(drawn, last, -1)


@triton.jit
def _mark_kernel(
    rows, order, bits, slots, used, count, total_rows, words, columns, lines, CELL: tl.constexpr, BLOCK: tl.constexpr
):
    """Set each splat's bit in the cells, `columns` x `lines` of them in a view, that it reaches."""
    tl.store(used, 0, tl.program_id(0) == 0)  # for the next kernel
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < total_rows
    i = tl.load(order + at, mask, 0)
    tl.store(slots + at, i.to(tl.int32), mask)
    view, rank = at // count, at % count
    mean_x, mean_y, p, q, r, level, line, last_line = _load_ellipse(rows, i, mask, lines, CELL)
    first_cell = view.to(tl.int64) * (columns * lines)
    bit = (tl.full([BLOCK], 1, tl.uint32) << (rank % 32).to(tl.uint32)).to(tl.int32, bitcast=True)
    column, last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, CELL)
    # One step of this loop sets a bit or goes on to the next row of cells.
    live = mask & (line <= last_line)
    while tl.max(live.to(tl.int32), 0) > 0:
        inside = column <= last
        word = (first_cell + line * columns + column) * words + rank // 32
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
def _reached_tiles(rows, i, mask, line, column, columns, lines, TILE: tl.constexpr, SIDE: tl.constexpr):
    """Which of a cell's tiles each of the splats i [BLOCK] reaches: 0 or 1 [BLOCK, SIDE * SIDE]."""
    mean_x, mean_y, p, q, r, level, first_line, last_line = _load_ellipse(rows, i.to(tl.int64), mask, lines, TILE)
    own_line = (line + tl.arange(0, SIDE))[None, :]
    first_column, last_column = _columns_in_row(
        mean_x[:, None], mean_y[:, None], p[:, None], q[:, None], r[:, None], level[:, None], own_line, columns, TILE
    )
    in_height = (own_line >= first_line[:, None]) & (own_line <= last_line[:, None]) & mask[:, None]
    own_column = (column + tl.arange(0, SIDE))[None, None, :]
    reached = (own_column >= first_column[:, :, None]) & (own_column <= last_column[:, :, None]) & in_height[:, :, None]
    return reached.to(tl.int32).reshape([mask.shape[0], SIDE * SIDE])


@triton.jit
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
    i = tl.load(splats + k, k < length, 0)
    while tl.min(k, 0) < length:
        following = tl.load(splats + k + BLOCK, k + BLOCK < length, 0)  # early, so that nobody waits for it
        reached = _reached_tiles(rows, i, k < length, line, column, columns, lines, TILE, SIDE)
        at = list_end[None, :] + tl.cumsum(reached, 0) - reached
        tl.store(slots + at, i[:, None] + tl.zeros_like(at), reached > 0)
        list_end += tl.sum(reached, 0)
        i = following
        k += BLOCK
    own = tl.arange(0, SIDE * SIDE)
    own_line, own_column = line + own // SIDE, column + own % SIDE
    tile = view.to(tl.int64) * (columns * lines) + own_line * columns + own_column
    inside = (own_line < lines) & (own_column < columns)
    tl.store(ranges + tile * 2, list_first, inside)
    tl.store(ranges + tile * 2 + 1, list_end, inside)


class _LearnedCapacity:
    """How many slots pictures of one kind need, learned from the first of them, and from those for which it was short.

    A call whose lists do not fit says so in the host's memory, behind everybody's back, also as part of a CUDA graph;
    the next call reads that and nobody waits.
    """

    def __init__(self, first_guess: int, on_cuda: bool) -> None:
        self.capacity = first_guess
        self.is_learned = False
        self.overflow = torch.zeros(1, dtype=torch.int64, pin_memory=on_cuda)

    def learn(self, used: int) -> bool:
        """Take in what a call needed; whether that was within the capacity."""
        sufficed = used <= self.capacity
        self.capacity = max(4096, math.ceil(used * HEADROOM / 1024) * 1024)
        self.is_learned = True
        return sufficed

    def update(self) -> None:
        """Grow if an earlier call was short."""
        used = int(self.overflow)
        if used > self.capacity:
            message = "lists of %d entries passed the capacity of %d: a call drew all of them, but slowly"
            logger.warning(message, used, self.capacity)
            self.learn(used)
            self.overflow.zero_()


@functools.cache
def _learned_capacity(
    device: torch.device, num_views: int, count: int, width: int, height: int, tile: int
) -> _LearnedCapacity:
    """One for each kind of picture."""
    return _LearnedCapacity(4096 + 16 * num_views * count, device.type == "cuda")


def bin_tiles(
    rows: Float[Tensor, "*views N 12"],
    keys: Int[Tensor, "*views N"],
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
) -> TileLists:
    """Lists for compositing pictures of `width` x `height` in tiles of `tile` x `tile` pixels.

    Args:
        keys: What sorts the rows by view and then by depth (`depth_keys_reference`).
        capacity: Slots for the lists; by default learned from earlier calls of the same sizes.
    """
    num_views, count = rows.shape[:-2].numel(), rows.shape[-2]
    order = keys.flatten().sort(stable=True).indices
    if capacity is not None:
        learned = _LearnedCapacity(capacity, rows.is_cuda)
        return _list_tiles(rows, order, width, height, tile, learned)
    learned = _learned_capacity(rows.device, num_views, count, width, height, tile)
    if learned.is_learned:
        learned.update()
        return _list_tiles(rows, order, width, height, tile, learned)
    if rows.is_cuda and torch.cuda.is_current_stream_capturing():
        raise InputError("backend triton learns its list sizes from a first call: draw once before capturing a graph")
    lists = _list_tiles(rows, order, width, height, tile, learned)
    return lists if learned.learn(int(lists.used)) else _list_tiles(rows, order, width, height, tile, learned)


def _list_tiles(
    rows: Tensor, order: Tensor, width: int, height: int, tile: int, learned: _LearnedCapacity
) -> TileLists:
    num_views, count, capacity = rows.shape[:-2].numel(), rows.shape[-2], learned.capacity
    columns, lines, total_rows, words = -(-width // tile), -(-height // tile), num_views * count, -(-count // 32)
    side = 2
    while side < MAX_CELL_TILES and 4 * words * num_views * columns * lines > MAX_BITS_BYTES * side * side:
        side *= 2
    cell_columns, cell_lines = -(-columns // side), -(-lines // side)
    num_cells, num_tiles = num_views * cell_columns * cell_lines, num_views * columns * lines
    if max(total_rows + capacity, num_tiles) > MAX_SLOTS:
        raise InputError(
            f"{num_views} views of {count} Gaussians at {width} x {height} are too many for one call; draw fewer"
        )
    bits = torch.zeros(num_cells * words, dtype=torch.int32, device=rows.device)
    used = torch.empty(1, dtype=torch.int64, device=rows.device)
    slots = torch.empty(total_rows + capacity, dtype=torch.int32, device=rows.device)
    ranges = torch.empty(num_tiles, 2, dtype=torch.int32, device=rows.device)
    _mark_kernel[(triton.cdiv(total_rows, MARK_BLOCK),)](
        rows, order, bits, slots, used, count, total_rows, words, cell_columns, cell_lines,
        CELL=tile * side, BLOCK=MARK_BLOCK, num_warps=1,
    )  # fmt: skip
    _list_kernel[(num_cells,)](
        bits, rows, slots, ranges, used, count, words, total_rows, capacity, columns, lines, cell_columns,
        cell_columns * cell_lines,
        TILE=tile, SIDE=side, WORD_BLOCK=WORD_BLOCK, BLOCK=LIST_BLOCK if side <= 4 else LIST_BLOCK // 4, num_warps=1,
    )  # fmt: skip
    return TileLists(slots, ranges, used, capacity, tile, learned.overflow)
