"""Assignment of splats to image tiles, from near to far, in chunks of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Canvas:
    """An image of `width` x `height` pixels, divided into tiles of `tile` x `tile`; the last ones may exceed it."""

    width: int
    height: int
    tile: int

    @property
    def columns(self) -> int:
        """Number of tiles along the width."""
        return -(-self.width // self.tile)

    @property
    def rows(self) -> int:
        """Number of tiles along the height."""
        return -(-self.height // self.tile)

    def to_tiles(self, image: Float[Tensor, "D H W"]) -> Float[Tensor, "tiles D tile tile"]:
        """Split an image into tiles in row-major order; pixels beyond the image are 0."""
        right, bottom = self.columns * self.tile - self.width, self.rows * self.tile - self.height
        padded = torch.nn.functional.pad(image, (0, right, 0, bottom))
        blocks = padded.view(-1, self.rows, self.tile, self.columns, self.tile)
        return blocks.permute(1, 3, 0, 2, 4).reshape(self.rows * self.columns, -1, self.tile, self.tile)

    def to_image(self, tiles: Float[Tensor, "tiles D tile tile"]) -> Float[Tensor, "D H W"]:
        """Join tiles to an image, without the pixels beyond it."""
        blocks = tiles.view(self.rows, self.columns, -1, self.tile, self.tile).permute(2, 0, 3, 1, 4)
        image = blocks.reshape(-1, self.rows * self.tile, self.columns * self.tile)
        return image[:, : self.height, : self.width]


@dataclass(frozen=True)
class Chunk:
    """T tiles, and the K splats that may touch each of them."""

    tiles: Int[Tensor, " T"]
    """Indices of the tiles, in row-major order of the canvas."""
    corners: Int[Tensor, "T 2"]
    """Column and row of each tile's first pixel, in pixels."""
    splats: Int[Tensor, "T K"]
    """Indices of the splats from near to far; shorter lists are padded with N."""


def chunks(
    canvas: Canvas,
    means2d: Float[Tensor, "N 2"],
    extents: Float[Tensor, "N 2"],
    depths: Float[Tensor, " N"],
    max_fragments: int,
    max_pairs: int,
) -> Iterator[Chunk]:
    """Yield every tile that a splat's box touches, exactly once.

    Args:
        canvas: The image.
        means2d: Centres of the boxes, in pixels.
        extents: Half their widths and heights, in pixels; 0 omits a splat.
        depths: Sort key. Splats of equal depth keep their order.
        max_fragments: Bound on a chunk's T * K * tile^2, unless a single tile exceeds it.
        max_pairs: Bound on the (tile, splat) pairs listed at a time, unless a single row of tiles exceeds it.
    """
    limits = means2d.new_tensor([canvas.columns - 1, canvas.rows - 1])
    # A box touches a tile when it reaches the outermost of its pixel centres.
    first = ((means2d - extents + 0.5) / canvas.tile).ceil().sub(1).clamp(min=0).minimum(limits + 1).long()
    last = ((means2d + extents - 0.5) / canvas.tile).floor().clamp(min=-1).minimum(limits).long()
    touching = ((extents > 0) & (first <= last)).all(-1)
    near_to_far = depths.argsort(stable=True)
    near_to_far = near_to_far[touching[near_to_far]]
    first, last = first[near_to_far], last[near_to_far]

    for top, bottom in _bands(canvas, first, last, max_pairs):
        tiles, owners = _pairs(canvas, first, last, top, bottom)
        # A stable sort by tile keeps each tile's splats from near to far.
        splats = near_to_far[owners[tiles.argsort(stable=True)]]
        splats = torch.cat([splats, splats.new_tensor([len(means2d)])])
        yield from _group(canvas, tiles.bincount(minlength=canvas.rows * canvas.columns), splats, max_fragments)


def _bands(
    canvas: Canvas, first: Int[Tensor, "M 2"], last: Int[Tensor, "M 2"], max_pairs: int
) -> Iterator[tuple[int, int]]:
    """Split the rows of tiles so that no band holds more than `max_pairs` pairs, unless it is a single row."""
    widths = last[:, 0] - first[:, 0] + 1
    changes = widths.new_zeros(canvas.rows + 1)
    changes.index_add_(0, first[:, 1], widths)
    changes.index_add_(0, last[:, 1] + 1, -widths)
    top, pairs = 0, 0
    for row, count in enumerate(changes.cumsum(0)[:-1].tolist()):
        if pairs and pairs + count > max_pairs:
            yield top, row
            top, pairs = row, 0
        pairs += count
    if pairs:
        yield top, canvas.rows


def _pairs(
    canvas: Canvas, first: Int[Tensor, "M 2"], last: Int[Tensor, "M 2"], top: int, bottom: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """All (tile, box) pairs with the box touching the tile, for tiles in rows `top` to `bottom`, sorted by box."""
    x, y = first[:, 0], first[:, 1].clamp(min=top)
    widths = last[:, 0] - x + 1
    heights = (last[:, 1].clamp(max=bottom - 1) - y + 1).clamp(min=0)
    counts = widths * heights
    owners = torch.repeat_interleave(counts)
    position = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
    widths = widths[owners]
    tiles = (y[owners] + position // widths) * canvas.columns + x[owners] + position % widths
    return tiles, owners


def _group(
    canvas: Canvas, counts: Int[Tensor, " tiles"], splats: Int[Tensor, " pairs_and_N"], max_fragments: int
) -> Iterator[Chunk]:
    """Group tiles whose lists have similar lengths, longest first. `splats` holds all lists, then N for padding."""
    starts = counts.cumsum(0) - counts
    by_length = counts.argsort(descending=True)
    lengths = counts[by_length].tolist()
    begin = 0
    while begin < len(lengths) and lengths[begin] > 0:
        longest = lengths[begin]
        end = begin + max(1, max_fragments // (canvas.tile**2 * longest))
        tiles = by_length[begin:end]
        tiles = tiles[counts[tiles] > 0]
        slots = torch.arange(longest, device=tiles.device)
        indices = torch.where(slots < counts[tiles, None], starts[tiles, None] + slots, len(splats) - 1)
        corners = torch.stack([tiles % canvas.columns, tiles // canvas.columns], -1) * canvas.tile
        yield Chunk(tiles, corners, splats[indices])
        begin = end
