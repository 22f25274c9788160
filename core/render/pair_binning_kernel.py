"""Kernels of `pair_binning.py`: entries of bins, the tiles that they reach, and the tiles' lists."""

import triton
import triton.language as tl

from core.render.launch import Launcher
from core.render.tile_lists import columns_in_row, count_bits, ellipse, load_splat, load_words, lowest_bit

SIDE = tl.constexpr(8)  # tiles along the side of a bin
TILES = tl.constexpr(SIDE.value * SIDE.value)
PART = tl.constexpr(256)  # entries of a part; a multiple of 32
WORD_BLOCK = 256  # words of a bin's bits that a program reads
PARTS_BLOCK = tl.constexpr(1024)  # bins at a time whose parts are numbered


@triton.jit(do_not_specialize=["words", "blocks"])
def _count_kernel(bits, counts, totals, words, blocks, WORD_BLOCK: tl.constexpr):
    """Number of bits in each block of words of each bin, also added to `totals`, one per bin."""
    square, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    own = tl.sum(count_bits(load_words(bits + square * words, block * WORD_BLOCK, words, WORD_BLOCK)), 0)
    tl.store(counts + square * blocks + block, own)
    tl.atomic_add(totals + square, own, own > 0, sem="relaxed")


@triton.jit(do_not_specialize=["num_squares"])
def _parts_kernel(totals, lengths, part_ends, num_squares):
    """Length of the list of each bin, and the parts of all bins up to it; one program."""
    square = tl.arange(0, PARTS_BLOCK)
    before = tl.full([], 0, tl.int64)
    while tl.min(square, 0) < num_squares:
        length = tl.load(totals + square, square < num_squares, 0)
        parts = tl.cdiv(length, PART).to(tl.int64)
        tl.store(lengths + square, length, square < num_squares)
        tl.store(part_ends + square, before + tl.cumsum(parts, 0), square < num_squares)
        before += tl.sum(parts, 0)
        square += PARTS_BLOCK


@triton.jit
def _find_parts(part_ends, lengths, square, capacity):
    """First part of a bin, the number of its parts, its length, and whether its entries fit in `capacity`."""
    length = tl.load(lengths + square)
    num_parts = tl.cdiv(length, PART)
    end = tl.load(part_ends + square)
    return end - num_parts, num_parts, length, end * PART <= capacity


@triton.jit(do_not_specialize=["count", "words", "blocks", "squares", "num_splats", "capacity"])
def _enter_kernel(
    bits, counts, lengths, part_ends, slots, owners, count, words, blocks, squares, num_splats, capacity,
    WORD_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the entries of one block of words of one of the bins, of which each view has `squares`, behind the slots
    of all splats; and, in the first block, the bin that owns each part: -1 where its entries do not fit."""
    square, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first_part, num_parts, _, fits = _find_parts(part_ends, lengths, square, capacity)
    lane = tl.arange(0, WORD_BLOCK)
    part = first_part + lane
    while (block == 0) & (tl.min(part, 0) < first_part + num_parts):
        owner = tl.where(fits, square, -1).to(tl.int32)
        tl.store(owners + part, owner + 0 * lane, (part < first_part + num_parts) & (part * PART < capacity))
        part += WORD_BLOCK

    own_count = tl.load(counts + square * blocks + block)
    if fits & (own_count > 0):
        before, other = 0, 0
        while other < block:
            before += tl.sum(tl.load(counts + square * blocks + other + lane, other + lane < block, 0), 0)
            other += WORD_BLOCK
        own = load_words(bits + square * words, block * WORD_BLOCK, words, WORD_BLOCK)
        each = count_bits(own)
        at = num_splats + first_part * PART + before + tl.cumsum(each, 0) - each
        rank = square // squares * count + (block * WORD_BLOCK + lane) * 32
        while tl.max((own != 0).to(tl.int32), 0) > 0:
            others = own & (own - 1)
            tl.store(slots + at, tl.load(slots + rank + lowest_bit(own, others), own != 0, 0), own != 0)
            at += (own != 0).to(tl.int32)
            own = others


@triton.jit
def _owned_part(owners, part_ends, lengths, num_squares, capacity):
    """Bin of a program's part (-1: none), its first part, the number of its parts, and its entries from here on."""
    part = tl.program_id(0).to(tl.int64)
    used = part < tl.load(part_ends + num_squares - 1)
    owner = tl.load(owners + part, used, -1).to(tl.int64)
    first_part, num_parts, length, _ = _find_parts(part_ends, lengths, tl.maximum(owner, 0), capacity)
    return part, owner, first_part, num_parts, length - (part - first_part).to(tl.int32) * PART


@triton.jit(
    do_not_specialize=["num_squares", "square_columns", "square_rows", "num_splats", "capacity", "columns", "rows"]
)
def _reach_kernel(
    table, slots, owners, part_ends, lengths, masks, counts,
    num_squares, square_columns, square_rows, num_splats, capacity, columns, rows, TILE: tl.constexpr,
):  # fmt: skip
    """Set the bits of each tile of a part, one per entry, and count them.

    `masks` is [parts, PART / 32, TILES]. `counts` is [parts of a bin, TILES], transposed for each bin: its prefix sums
    are positions in an order by bin, then tile, then part.
    """
    part, owner, first_part, num_parts, length = _owned_part(owners, part_ends, lengths, num_squares, capacity)
    tile = tl.arange(0, TILES)
    if owner < 0:
        tl.store(counts + part * TILES + tile, tl.zeros_like(tile))
    else:
        square = (owner % (square_columns * square_rows)).to(tl.int32)
        row_0, column_0 = square // square_columns * SIDE, square % square_columns * SIDE
        half = tl.arange(0, 32)
        upper_count, lower_count = tl.zeros_like(half), tl.zeros_like(half)
        entry = tl.arange(0, 32)
        bit = (tl.full([32], 1, tl.int32) << entry)[:, None]
        word = 0
        while word * 32 < tl.minimum(length, PART):
            at = word * 32 + entry
            i = tl.load(slots + num_splats + part * PART + at, at < length, 0)
            upper, lower = _reached_tiles(table, i, at < length, row_0, column_0, columns, rows, TILE)
            upper_word = tl.sum(tl.where(((upper[:, None] >> half[None, :]) & 1) != 0, bit, 0), 0)
            lower_word = tl.sum(tl.where(((lower[:, None] >> half[None, :]) & 1) != 0, bit, 0), 0)
            own_masks = masks + (part * (PART // 32) + word) * TILES
            tl.store(own_masks + half, upper_word)
            tl.store(own_masks + 32 + half, lower_word)
            upper_count += count_bits(upper_word.to(tl.uint32, bitcast=True))
            lower_count += count_bits(lower_word.to(tl.uint32, bitcast=True))
            word += 1
        own_counts = counts + first_part * TILES + (part - first_part)
        tl.store(own_counts + half * num_parts, upper_count)
        tl.store(own_counts + (32 + half) * num_parts, lower_count)


@triton.jit
def _reached_tiles(table, i, mask, row_0, column_0, columns, rows, TILE: tl.constexpr):
    """One bit for each tile of a bin, set where a splat reaches it: of its upper four rows, and of its lower four."""
    mean_x, mean_y, p, q, r, level, row, last_row = ellipse(load_splat(table, i, mask), rows, TILE)
    row = tl.maximum(row, row_0)
    last_row = tl.where(mask, tl.minimum(last_row, row_0 + (SIDE - 1)), -1)
    upper, lower = tl.zeros_like(i), tl.zeros_like(i)
    while tl.max((row <= last_row).to(tl.int32), 0) > 0:
        first, last = columns_in_row(mean_x, mean_y, p, q, r, level, row, columns, TILE)
        first, last = tl.maximum(first - column_0, 0), tl.minimum(last - column_0, SIDE - 1)
        reached = (row <= last_row) & (first <= last)
        first, last = tl.where(reached, first, 0), tl.where(reached, last, 0)  # valid amounts for shifts
        run = tl.where(reached, (2 << last) - (1 << first), 0)
        own_row = tl.where(reached, row - row_0, 0)
        run = run << (own_row % 4 * SIDE)
        upper = tl.where(own_row < 4, upper | run, upper)
        lower = tl.where(own_row < 4, lower, lower | run)
        row += 1
    return upper, lower


@triton.jit(do_not_specialize=["num_squares", "num_splats", "entry_capacity", "capacity"])
def _list_kernel(
    masks, owners, part_ends, lengths, counts, ends, slots, num_squares, num_splats, entry_capacity, capacity,
):  # fmt: skip
    """Write the entries of a part to the lists of the tiles that they reach."""
    part, owner, first_part, num_parts, length = _owned_part(owners, part_ends, lengths, num_squares, entry_capacity)
    if owner >= 0:
        fits = tl.load(ends + (first_part + num_parts) * TILES - 1) <= capacity
        tile = tl.arange(0, TILES)
        own = first_part * TILES + tile * num_parts + (part - first_part)
        at = num_splats + entry_capacity + tl.load(ends + own) - tl.load(counts + own)
        entries = slots + num_splats + part * PART
        word = 0
        while fits & (word * 32 < tl.minimum(length, PART)):
            bits = tl.load(masks + (part * (PART // 32) + word) * TILES + tile).to(tl.uint32, bitcast=True)
            while tl.max((bits != 0).to(tl.int32), 0) > 0:
                others = bits & (bits - 1)
                entry = tl.load(entries + word * 32 + lowest_bit(bits, others), bits != 0, 0)
                tl.store(slots + at, entry, bits != 0)
                at += (bits != 0).to(tl.int32)
                bits = others
            word += 1


@triton.jit(
    do_not_specialize=[
        "count", "num_squares", "square_columns", "square_rows", "num_splats", "entry_capacity", "capacity",
        "num_parts_of_all", "columns", "rows",
    ]
)  # fmt: skip
def _ranges_kernel(
    part_ends, lengths, counts, ends, drawn, ranges, entry_overflow, overflow,
    count, num_squares, square_columns, square_rows, num_splats, entry_capacity, capacity, num_parts_of_all,
    columns, rows,
):  # fmt: skip
    """Write the ranges of one bin's tiles, with the fallbacks where its lists do not fit; report overflows."""
    owner = tl.program_id(0).to(tl.int64)
    first_part, num_parts, length, entries_fit = _find_parts(part_ends, lengths, owner, entry_capacity)
    used_entries = tl.load(part_ends + num_squares - 1) * PART
    used = tl.load(ends + num_parts_of_all * TILES - 1)
    tl.store(entry_overflow, used_entries, (owner == 0) & (used_entries > entry_capacity))
    tl.store(overflow, used, (owner == 0) & (used > capacity))

    view = owner // (square_columns * square_rows)
    square = (owner % (square_columns * square_rows)).to(tl.int32)
    tile = tl.arange(0, TILES)
    row = square // square_columns * SIDE + tile // SIDE
    column = square % square_columns * SIDE + tile % SIDE
    listed = 0 * tile + tl.where(entries_fit, num_parts, 0) > 0
    at = first_part * TILES + tile * num_parts
    own_first = tl.load(ends + at, listed, 0) - tl.load(counts + at, listed, 0)
    own_last = tl.load(ends + at + num_parts - 1, listed, 0)
    lists_fit = tl.max(own_last, 0) <= capacity
    lists = num_splats + entry_capacity
    entries = num_splats + first_part * PART
    first = tl.where(lists_fit, lists + own_first, entries)
    last = tl.where(lists_fit, lists + own_last, entries + length)
    first = tl.where(entries_fit, first, view * count)
    last = tl.where(entries_fit, last, view * count + tl.load(drawn + view))
    to = view * (columns * rows) + row * columns + column
    inside = (row < rows) & (column < columns)
    tl.store(ranges + to * 2, tl.where(num_parts > 0, first, 0).to(tl.int32), inside)
    tl.store(ranges + to * 2 + 1, tl.where(num_parts > 0, last, 0).to(tl.int32), inside)


launch_parts = Launcher(_parts_kernel, num_warps=8)
launch_count, launch_enter, launch_reach, launch_list, launch_ranges = (
    Launcher(kernel, num_warps=1)
    for kernel in (_count_kernel, _enter_kernel, _reach_kernel, _list_kernel, _ranges_kernel)
)
