"""Lists of the splats of each tile at a cost per pair of a visible splat and a tile, for many splats.

`binning_kernel.py` reads one bit per splat in each small cell. Here, the image is divided twice, and splats stay in the
order of depth without a sort:

    rank    the depth rank of each splat within its view (`depth_ranks_kernel.py`)
    mark    each *bin*, a square of SIDE x SIDE tiles, has a bit set with one bit per rank; each splat sets its bit in
            the bins that its ellipse reaches
    enter   the bits of a bin, in order, become its list of entries; each bin has parts of PART entries
    reach   each part tests which tiles of its bin each entry reaches: per tile, a word of bits for 32 entries
    list    the bits of a tile, in order, become its list

All positions are prefix sums of counts, so that lists have no gaps and are deterministic. Per splat, the bins' bits
take 1/8 byte for each bin of the image (8 bytes at 512 px, 32 at 1024 px, less than the splat's table entry); each
entry takes 4 bytes and the bits of its tiles 8; each pair takes 4. A radix sort of pairs by tile would move 100 bytes
per pair and hold 36.

The entries and the tiles' lists share a buffer whose capacities are fixed before the launch (`capacity.py`). If the
lists of a bin do not fit, its tiles use the entries of the bin instead; if these do not fit either, all drawn splats of
the view: slow, but the image is the same. The next call gets larger capacities.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.render.binning_kernel import MARK_BLOCK, MAX_COUNT, launch_mark, mark_grid
from core.render.capacity import MAX_SLOTS, NOT_MEASURED, CapacityEstimator, capacity_estimator
from core.render.depth_ranks_kernel import depth_ranks, ranks_by_sorting
from core.render.launch import aligned_zeros
from core.render.pair_binning_kernel import (
    PART,
    SIDE,
    TILES,
    WORD_BLOCK,
    launch_count,
    launch_enter,
    launch_list,
    launch_parts,
    launch_ranges,
    launch_reach,
)
from core.render.splat_table import NOT_DRAWN, DepthOrder, octave_bits
from core.render.tile_lists import TileLists
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class DepthRanks:
    """Order of the splats of V views by depth."""

    ranks: Int[Tensor, "V N"]
    """Depth rank of each splat within its view; those that are not drawn come last."""
    drawn: Int[Tensor, " V"]
    """Number of splats that are drawn."""


def rank_splats(order: DepthOrder, width: int, height: int, tile: int, capacity: int | None = None) -> DepthRanks:
    """First step of `bin_tiles`, after which the memory of `order` can be released.

    Args:
        order: Without `heads`.
        capacity: As for `bin_tiles`.
    Raises:
        InputError: If positions among the splats exceed 32-bit indices.
    """
    views, count = order.keys.shape[:-1].numel(), order.keys.shape[-1]
    _Sizes(views, count, width, height, tile).check(0)
    estimator = capacity_estimator(order.keys.device, views, count, width, height, tile, capacity, "pairs")
    estimator.read_reports()
    return _ranks(order, estimator)


def bin_tiles(
    table: Float[Tensor, "*views N 12"],
    ranks: DepthRanks,
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
) -> TileLists:
    """Lists for compositing images of `width` x `height` in tiles of `tile` x `tile` pixels.

    Args:
        ranks: From `rank_splats`.
        capacity: Slots for the tiles' lists; by default estimated from earlier calls of the same sizes.
    Raises:
        ValueError: If `capacity` is negative.
        InputError: If the first call of these sizes is part of a CUDA graph, or the lists exceed 32-bit indices.
    """
    sizes = _Sizes(table.shape[:-2].numel(), table.shape[-2], width, height, tile)
    same = table.device, sizes.views, sizes.count, width, height
    pairs = capacity_estimator(*same, tile, capacity, "pairs")
    entries = capacity_estimator(*same, tile, None, "entries")
    sizes.check(entries.capacity + pairs.capacity)
    is_measured = pairs.is_measured and entries.is_measured
    if is_measured:
        pairs.read_reports()
        entries.read_reports()
    elif table.is_cuda and torch.cuda.is_current_stream_capturing():
        raise InputError(NOT_MEASURED)
    if not entries.is_measured:
        slots = torch.empty(sizes.splats, dtype=torch.int32, device=table.device)
        entries.update(int(_mark(table, ranks.ranks, slots, pairs, sizes).part_ends[-1]) * PART.value)
    lists, used = _list_tiles(table, ranks, sizes, entries, pairs)
    if not pairs.is_measured:
        pairs.update(int(used))
        pairs.overflow.zero_()  # of the call above, which had no slots
        lists, _ = _list_tiles(table, ranks, sizes, entries, pairs)
    return lists


@dataclass(frozen=True)
class _Sizes:
    """Numbers of views, splats per view, pixels, tiles, and bins."""

    views: int
    count: int
    width: int
    height: int
    tile: int

    @property
    def splats(self) -> int:
        return self.views * self.count

    @property
    def tiles(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return -(-self.width // self.tile), -(-self.height // self.tile)

    @property
    def bins(self) -> tuple[int, int]:
        """Columns and rows of bins."""
        columns, rows = self.tiles
        return -(-columns // SIDE.value), -(-rows // SIDE.value)

    @property
    def all_bins(self) -> int:
        return self.views * self.bins[0] * self.bins[1]

    def check(self, slots: int) -> None:
        """Raise InputError if indices would exceed 32 bits, or a grid its limits."""
        if max(self.splats + slots, 3 * self.width * self.height) > MAX_SLOTS or self.count > MAX_COUNT:
            raise InputError(
                f"{self.views} views of {self.count} Gaussians at {self.width} x {self.height} are too many for one "
                "call; render fewer views at once"
            )


def _ranks(order: DepthOrder, estimator: CapacityEstimator) -> DepthRanks:
    if order.sizes is None:
        keys = order.keys.flatten(0, -2)
        return DepthRanks(ranks_by_sorting(keys), (keys != NOT_DRAWN.value).sum(-1, dtype=torch.int32))
    drawn = order.keys.shape[-1] - order.sizes[:, -1]
    if estimator.is_crowded:
        return DepthRanks(ranks_by_sorting(order.keys.flatten(0, -2)), drawn)
    return DepthRanks(depth_ranks(order, estimator.crowded), drawn)


@dataclass(frozen=True)
class _Marks:
    """Bits of the bins, and the parts that their entries need."""

    bits: Int[Tensor, "bins words"]
    counts: Int[Tensor, "bins blocks"]
    """Bits in each block of WORD_BLOCK words."""
    lengths: Int[Tensor, " bins"]
    part_ends: Int[Tensor, " bins"]
    """Parts of all bins up to this one."""
    used: Int[Tensor, " 1"]
    """Zero."""


def _mark(
    table: Tensor, ranks: Int[Tensor, "V N"], slots: Int[Tensor, " *"], estimator: CapacityEstimator, sizes: _Sizes
) -> _Marks:
    """Write all splats of each view to its first slots, near to far, and mark the bins that they reach."""
    words = -(-sizes.count // 32)
    blocks = -(-words // WORD_BLOCK)
    totals, bits = aligned_zeros(table.device, sizes.all_bins, sizes.all_bins * words)
    bits = bits.view(sizes.all_bins, words)
    counts = torch.empty(sizes.all_bins, blocks, dtype=torch.int32, device=table.device)
    lengths = torch.empty(sizes.all_bins, dtype=torch.int32, device=table.device)
    part_ends = torch.empty(sizes.all_bins, dtype=torch.int64, device=table.device)
    used = torch.empty(1, dtype=torch.int64, device=table.device)
    launch_mark(
        mark_grid(sizes.views, sizes.count),
        *(table, used, slots, slots, slots, slots, ranks, bits, slots, used, estimator.crowded),
        *(sizes.count, words, *sizes.bins),
        constants=(True, octave_bits(sizes.count), sizes.tile * SIDE.value, MARK_BLOCK),
    )
    launch_count((sizes.all_bins, blocks), bits, counts, totals, words, blocks, constants=(WORD_BLOCK,))
    launch_parts((1,), totals, lengths, part_ends, sizes.all_bins)
    return _Marks(bits, counts, lengths, part_ends, used)


def _list_tiles(
    table: Tensor,
    ranks: DepthRanks,
    sizes: _Sizes,
    entries: CapacityEstimator,
    pairs: CapacityEstimator,
) -> tuple[TileLists, Int[Tensor, ""]]:
    """Lists of the tiles, and the number of slots that they need."""

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=table.device)

    num_parts = entries.capacity // PART.value
    room = num_parts * PART.value  # for entries
    slots = new(sizes.splats + room + pairs.capacity)
    marks = _mark(table, ranks.ranks, slots, pairs, sizes)
    owners = new(num_parts)
    words, blocks = marks.bits.shape[1], marks.counts.shape[1]
    bins, used = (marks.part_ends, marks.lengths), marks.used
    launch_enter(
        (sizes.all_bins, blocks),
        *(marks.bits, marks.counts, marks.lengths, marks.part_ends, slots, owners),
        *(sizes.count, words, blocks, sizes.bins[0] * sizes.bins[1], sizes.splats, room),
        constants=(WORD_BLOCK,),
    )
    del marks  # the bits take as much memory as what follows
    masks, counts = new(num_parts, PART.value // 32, TILES.value), new(num_parts * TILES.value)
    launch_reach(
        (num_parts,),
        *(table, slots, owners, *bins, masks, counts),
        *(sizes.all_bins, *sizes.bins, sizes.splats, room, *sizes.tiles),
        constants=(sizes.tile,),
    )
    ends = counts.cumsum(0, dtype=torch.int64)
    launch_list(
        (num_parts,),
        *(masks, owners, *bins, counts, ends, slots, sizes.all_bins, sizes.splats, room, pairs.capacity),
    )
    columns, rows = sizes.tiles
    ranges = new(sizes.views * columns * rows, 2)
    launch_ranges(
        (sizes.all_bins,),
        *(*bins, counts, ends, ranks.drawn, ranges, entries.overflow, pairs.overflow),
        *(sizes.count, sizes.all_bins, *sizes.bins, sizes.splats, room, pairs.capacity, num_parts, columns, rows),
    )
    return TileLists(slots, ranges, used, pairs.capacity, sizes.tile, pairs.overflow), ends[-1]
