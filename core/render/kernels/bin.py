"""Near-to-far lists of the splats that each tile of the image needs, made without waiting for the device.

Definition: a tile needs a splat that has alpha >= ALPHA_MIN at a pixel centre of it; a few more do no harm. The
steps: count the tiles that each splat's ellipse reaches; order the splats of each view by depth; sum the counts in
that order, which gives every splat its place among all (tile, splat) pairs; write the pairs there; sort them by tile,
keeping the order of depth.

The pairs go to buffers of a capacity fixed beforehand, since their number is known to the device alone. Where they do
not fit, every tile is given all splats of its view instead, which takes long but draws the same picture, and the next
call gets a larger capacity.
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

COUNT_BLOCK = 128  # splats per program
EXPAND_BLOCK = 32  # fewer, because a program takes as long as its largest splat
LIST_BLOCK = 512  # pairs per program
HEADROOM = 1.25  # of a learned capacity, over the most pairs seen
MAX_SLOTS = 2**31 - 1  # lists are indexed with 32 bits

LOG2_ALPHA_MIN = tl.constexpr(math.log2(projection.ALPHA_MIN))
NOT_DRAWN = tl.constexpr(2**63 - 1)


@dataclass(frozen=True)
class TileLists:
    """For each tile of each view, row by row, which splats it needs, from near to far."""

    slots: Int[Tensor, " V*N+capacity"]
    """Row numbers: first all of each view from near to far, then the tiles' lists."""
    ranges: Int[Tensor, "V*tiles 2"]
    """First slot of each tile's list and the one after its last."""
    pairs: Int[Tensor, " 1"]
    """How many there are. If more than `capacity`, `ranges` is void, and every tile needs all splats of its view."""
    capacity: int
    tile: int
    """Pixels along a tile's side."""


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
def _count_kernel(
    rows, means, viewmats, keys, counts, count, num_cameras, columns, lines, SHIFT: tl.constexpr, TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Tiles that each splat reaches, and a key that sorts splats by view and then by depth."""
    view = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = n < count
    i = view * count + n
    mean_x, mean_y, p, q, r, level, line, last_line = _load_ellipse(rows, i, mask, lines, TILE)
    total = tl.zeros([BLOCK], tl.int32)
    while tl.max((line <= last_line).to(tl.int32), 0) > 0:
        first, last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, TILE)
        total += tl.where(line <= last_line, tl.maximum(last - first + 1, 0), 0)
        line += 1
    tl.store(counts + i, total, mask)

    # Depth in double precision: single precision swaps splats within 0.1 micrometres of each other, which happens.
    mean = means + (view // num_cameras * count + n) * 3
    turn = viewmats + view * 16 + 8
    depth = (
        tl.load(turn).to(tl.float64) * tl.load(mean, mask, 0.0).to(tl.float64)
        + tl.load(turn + 1).to(tl.float64) * tl.load(mean + 1, mask, 0.0).to(tl.float64)
        + tl.load(turn + 2).to(tl.float64) * tl.load(mean + 2, mask, 0.0).to(tl.float64)
        + tl.load(turn + 3).to(tl.float64)
    )
    # The bits of positive numbers are in the order of the numbers.
    bits = tl.where(total > 0, depth.to(tl.int64, bitcast=True), NOT_DRAWN)
    tl.store(keys + i, (view << SHIFT) | (bits >> (63 - SHIFT)), mask)


@triton.jit
def _expand_kernel(
    rows, order, counts, ends, tiles, pairs_of, slots, count, total_rows, capacity, columns, lines,
    FIRST_TILE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the pairs of each splat to its place."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < total_rows
    i = tl.load(order + at, mask, 0)
    tl.store(slots + at, i.to(tl.int32), mask)
    wanted = tl.load(counts + i, mask, 0)
    mean_x, mean_y, p, q, r, level, line, last_line = _load_ellipse(rows, i, mask, lines, TILE)
    end = tl.load(ends + at, mask, 0)
    place = end - wanted
    end = tl.minimum(end, capacity)
    first_tile = (i // count).to(tl.int32) * (columns * lines) + FIRST_TILE
    column, last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, TILE)
    # One step of this loop writes a pair or goes on to the next row of tiles.
    live = mask & (wanted > 0) & (place < end)
    while tl.max(live.to(tl.int32), 0) > 0:
        inside = column <= last
        here = live & inside
        tile = first_tile + line * columns + column
        tl.store(tiles + place, tile.to(tiles.dtype.element_ty), here)
        tl.store(pairs_of + place, i.to(tl.int32), here)
        place += here.to(tl.int64)
        line = tl.where(inside, line, line + 1)
        next_first, next_last = _columns_in_row(mean_x, mean_y, p, q, r, level, line, columns, TILE)
        column = tl.where(inside, column + 1, next_first)
        last = tl.where(inside, last, next_last)
        live = live & (place < end) & (line <= last_line)


@triton.jit
def _list_kernel(
    tiles, permutation, pairs_of, ends, slots, ranges, total_rows, capacity,
    FIRST_TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From pairs sorted by tile: the tiles' lists, and where each begins and ends."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pairs = tl.minimum(tl.load(ends + total_rows - 1), capacity)
    mask = at < pairs
    place = tl.load(permutation + at, mask, 0)
    tl.store(slots + total_rows + at, tl.load(pairs_of + place, mask, 0), mask)
    tile = tl.load(tiles + at, mask, 0).to(tl.int32) - FIRST_TILE
    previous = tl.load(tiles + at - 1, mask & (at > 0), 0).to(tl.int32) - FIRST_TILE
    following = tl.load(tiles + at + 1, mask & (at + 1 < pairs), 0).to(tl.int32) - FIRST_TILE
    tl.store(ranges + tile * 2, total_rows + at, mask & ((at == 0) | (previous != tile)))
    tl.store(ranges + tile * 2 + 1, total_rows + at + 1, mask & ((at + 1 == pairs) | (following != tile)))


class _LearnedCapacity:
    """How many pairs pictures of one kind need, learned from those drawn before.

    The count of a call is copied to the host behind the device's back and read at a later call, so that nobody waits,
    except the first time.
    """

    def __init__(self) -> None:
        self._capacity = 0
        self._copied = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self._event: torch.cuda.Event | None = None

    def choose(self, pairs: Int[Tensor, " 1"]) -> int:
        """The capacity for a call with so many pairs."""
        capturing = torch.cuda.is_current_stream_capturing()
        if not self._capacity:
            if capturing:
                raise InputError(
                    "backend triton learns its list sizes from a first call: draw once before capturing a CUDA graph"
                )
            self._grow(int(pairs))
        if not capturing:
            self._look(pairs)
        return self._capacity

    def _look(self, pairs: Tensor) -> None:
        if self._event is None:
            self._event = torch.cuda.Event()
        elif not self._event.query():
            return  # the copy is still under way
        seen = int(self._copied)
        if seen > self._capacity:
            message = "%d (tile, splat) pairs passed the capacity of %d: a call drew all of them, but slowly"
            logger.warning(message, seen, self._capacity)
            self._grow(seen)
        self._copied.copy_(pairs, non_blocking=True)
        self._event.record()

    def _grow(self, pairs: int) -> None:
        self._capacity = max(4096, math.ceil(pairs * HEADROOM / 1024) * 1024)


@functools.cache
def _learned_capacity(
    device: torch.device, num_views: int, count: int, width: int, height: int, tile: int
) -> _LearnedCapacity:
    """One for each kind of picture."""
    return _LearnedCapacity()


def bin_tiles(
    rows: Float[Tensor, "B C N 12"],
    means: Float[Tensor, "B N 3"],
    viewmats: Float[Tensor, "B C 4 4"],
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
) -> TileLists:
    """Lists for compositing pictures of `width` x `height` in tiles of `tile` x `tile` pixels.

    Args:
        capacity: Pairs that the buffers hold; by default learned from earlier calls of the same sizes.
    """
    num_sets, num_cameras, count = rows.shape[:3]
    num_views, total_rows, device = num_sets * num_cameras, rows.shape[:3].numel(), rows.device
    columns, lines = -(-width // tile), -(-height // tile)
    num_tiles = num_views * columns * lines
    means, viewmats = means.contiguous(), viewmats.contiguous()
    with torch.cuda.device_of(rows):
        keys = torch.empty(total_rows, dtype=torch.int64, device=device)
        counts = torch.empty(total_rows, dtype=torch.int32, device=device)
        _count_kernel[(num_views, triton.cdiv(count, COUNT_BLOCK))](
            rows, means, viewmats, keys, counts, count, num_cameras, columns, lines,
            SHIFT=63 - (num_views - 1).bit_length(), TILE=tile, BLOCK=COUNT_BLOCK, num_warps=4,
        )  # fmt: skip
        order = keys.argsort(stable=True)
        ends = counts[order].cumsum(0)
        pairs = ends[-1:]

        if capacity is None and rows.is_cuda:
            capacity = _learned_capacity(device, num_views, count, width, height, tile).choose(pairs)
        elif capacity is None:
            capacity = max(1, int(pairs))
        if max(total_rows + capacity, num_tiles) > MAX_SLOTS:
            raise InputError(
                f"{num_views} views of {count} Gaussians at {width} x {height} are too many for one call; draw fewer"
            )

        narrow = num_tiles < 2**16
        id_type = torch.int16 if narrow else torch.int32
        first_tile = -(2**15) if narrow else 0
        # Unused places keep the largest number and so come last.
        tiles = torch.full((capacity,), torch.iinfo(id_type).max, dtype=id_type, device=device)
        pairs_of = torch.empty(capacity, dtype=torch.int32, device=device)
        slots = torch.empty(total_rows + capacity, dtype=torch.int32, device=device)
        _expand_kernel[(triton.cdiv(total_rows, EXPAND_BLOCK),)](
            rows, order, counts, ends, tiles, pairs_of, slots, count, total_rows, capacity, columns, lines,
            FIRST_TILE=first_tile, TILE=tile, BLOCK=EXPAND_BLOCK, num_warps=1,
        )  # fmt: skip
        tiles, permutation = tiles.sort(stable=True)
        ranges = torch.zeros(num_tiles, 2, dtype=torch.int32, device=device)
        _list_kernel[(triton.cdiv(capacity, LIST_BLOCK),)](
            tiles, permutation, pairs_of, ends, slots, ranges, total_rows, capacity,
            FIRST_TILE=first_tile, BLOCK=LIST_BLOCK, num_warps=4,
        )  # fmt: skip
    return TileLists(slots, ranges, pairs, capacity, tile)
