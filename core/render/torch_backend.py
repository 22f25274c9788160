"""Definition of the rasterizer in plain PyTorch: exact, on any device, in single or double precision, bounded memory.

A splat with opacity o has alpha = min(o exp(-|W d|^2 / 2), ALPHA_MAX) at a pixel whose centre is at offset d from its
own, and alpha = 0 where that is below ALPHA_MIN. A pixel sums its splats from near to far,

    color = sum_k w_k color_k + T background,    w_k = alpha_k prod_{j<k} (1 - alpha_j),    T = prod_j (1 - alpha_j),

without early termination (Kerbl et al., 2023, Sec. 4). Tiles of the image whose lists of splats have similar
lengths are computed together, as arrays [tiles, rows, columns, K].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.render.projection import ALPHA_MAX, ALPHA_MIN, project
from core.render.rendering import Rendering, compose, one_batch_axis
from core.types.gaussians import Gaussians

TILE = 4  # side of a tile in pixels; the splats of a body are about 5 to 15 pixels wide
MAX_FRAGMENTS = 2**18  # (pixel, splat) pairs at a time: a megabyte per array, which fits into the cache of a CPU
MAX_PAIRS = 2**21  # (tile, splat) pairs at a time: 16 megabytes per list of indices


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


@one_batch_axis
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
    max_fragments: int = MAX_FRAGMENTS,
    max_pairs: int = MAX_PAIRS,
) -> Rendering:
    """Render `gaussians` (batch axis B), view by view. The last two arguments bound the memory and change no result."""
    num_sets, num_cameras = viewmats.shape[:2]
    views = []
    for b in range(num_sets):
        for c in range(num_cameras):
            splats = project(gaussians[b], viewmats[b, c], Ks[b, c], width, height)
            features = gaussians.colors[b]
            if return_depth:
                features = torch.cat([features, splats.depths[:, None]], -1)
            table = torch.cat([splats.means2d, splats.whiteners, gaussians.opacities[b, :, None], features], -1)
            canvas = Canvas(width, height, TILE)
            order = (splats.extents, splats.depths.detach())
            views.append(_Composite.apply(table, *order, canvas, max_fragments, max_pairs))
    images = torch.stack(views).view(num_sets, num_cameras, -1, height, width)
    return compose(images[:, :, :-1], images[:, :, -1:], background)


class _Composite(torch.autograd.Function):
    """Compositing of one view's splats to an image [D + 1, H, W]: weighted sums of D features, and the transmittance.

    Input is a table [N, 6 + D] of mean x and y, p, q, r, opacity and D features. The backward pass recomputes each
    chunk of tiles, so that both passes need the memory of one chunk only.
    """

    @staticmethod
    def forward(ctx, table, extents, depths, canvas, max_fragments, max_pairs):
        ctx.save_for_backward(table, extents, depths)
        ctx.canvas, ctx.bounds = canvas, (max_fragments, max_pairs)
        padded = _with_invisible(table)
        num_features = table.shape[1] - 6
        tiles = table.new_zeros(canvas.rows * canvas.columns, num_features + 1, canvas.tile, canvas.tile)
        tiles[:, -1] = 1  # transmittance of tiles without splats
        for chunk in chunks(canvas, table[:, :2], extents, depths, max_fragments, max_pairs):
            fragments = _Fragments(chunk, padded, canvas.tile)
            weights = fragments.weights()
            sums = [(weights * feature[:, None, None]).sum(-1) for feature in fragments.features]
            tiles[chunk.tiles] = torch.stack([*sums, fragments.transmittances[..., -1]], 1)
        return canvas.to_image(tiles)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_image):
        table, extents, depths = ctx.saved_tensors
        padded = _with_invisible(table)
        grad_tiles = ctx.canvas.to_tiles(grad_image)
        grad_padded = torch.zeros_like(padded)
        for chunk in chunks(ctx.canvas, table[:, :2], extents, depths, *ctx.bounds):
            fragments = _Fragments(chunk, padded, ctx.canvas.tile)
            grad_splats = fragments.gradients(grad_tiles[chunk.tiles])
            grad_padded.index_add_(0, chunk.splats.flatten(), grad_splats.flatten(0, 1))
        return grad_padded[:-1], None, None, None, None, None


def _with_invisible(table: Float[Tensor, "N 6+D"]) -> Float[Tensor, "N+1 6+D"]:
    """Append a splat of opacity 0, to which the padding of short lists refers."""
    return torch.cat([table, table.new_zeros(1, table.shape[1])])


class _Fragments:
    """Values of a chunk's splats at its pixels, in arrays [T, rows, columns, K], and their gradients."""

    def __init__(self, chunk: Chunk, table: Float[Tensor, "N+1 6+D"], tile: int):
        columns = table[chunk.splats].unbind(-1)  # [T, K] each
        mean_x, mean_y, self.p, self.q, self.r, self.opacities = columns[:6]
        self.features = columns[6:]
        centers = chunk.corners[..., None] + torch.arange(tile, device=table.device, dtype=table.dtype) + 0.5
        self.dx = centers[:, 0, :, None] - mean_x[:, None]  # [T, tile, K]
        self.dy = centers[:, 1, :, None] - mean_y[:, None]
        # |W d|^2 = u^2 + v^2, where v depends on the row alone.
        self.u = (self.p[:, None] * self.dx)[:, None] + (self.q[:, None] * self.dy)[:, :, None]
        self.v = self.r[:, None] * self.dy
        exponents = (self.opacities.log()[:, None] - 0.5 * self.v * self.v)[:, :, None]
        alphas = torch.addcmul(exponents, self.u, self.u, value=-0.5).exp_().clamp_(max=ALPHA_MAX)
        # `threshold` keeps strictly greater values; subtracting an epsilon keeps ALPHA_MIN itself.
        self.alphas = torch.nn.functional.threshold_(alphas, ALPHA_MIN * (1 - torch.finfo(alphas.dtype).eps), 0.0)
        self.transparencies = 1 - self.alphas
        self.transmittances = self.transparencies.cumprod(-1)
        """Share of the light that passes the splat and all in front of it."""

    def weights(self) -> Tensor:
        """Weights w_k = alpha_k prod_{j<k} (1 - alpha_j)."""
        weights = self.alphas.clone()
        weights[..., 1:] *= self.transmittances[..., :-1]
        return weights

    def gradients(self, grads: Float[Tensor, "T D+1 tile tile"]) -> Float[Tensor, "T K 6+D"]:
        """Gradients of the splats' table entries, given those of the tiles."""
        *grad_sums, grad_transmittance = grads[..., None].unbind(1)  # [T, tile, tile, 1] each
        weights = self.weights()
        terms = torch.zeros_like(weights)  # <grad_sums, w_k features_k>
        for grad, feature in zip(grad_sums, self.features):
            terms.addcmul_(grad, feature[:, None, None])
        terms *= weights
        # A relative change of alpha_k changes the term of k by the same ratio, and attenuates the terms of all j > k
        # and the background by alpha_k / (1 - alpha_k) times that ratio.
        behind = terms.flip(-1).cumsum(-1).flip(-1).sub_(terms)
        behind.addcmul_(grad_transmittance, self.transmittances[..., -1:])
        # With sigma = |W d|^2 / 2, d alpha = -alpha d sigma; where alpha is clamped, the derivative is 0.
        grad_sigma = behind.mul_(self.alphas).div_(self.transparencies).sub_(terms)
        grad_sigma *= self.alphas < ALPHA_MAX

        grad_features = [(weights * grad).sum((1, 2)) for grad in grad_sums]
        by_row = grad_sigma.sum(2)
        grad_u = grad_sigma.mul_(self.u)
        u_by_row, u_by_column = grad_u.sum(2), grad_u.sum(1)
        v_by_row = by_row * self.v
        return torch.stack(
            [
                -self.p * u_by_column.sum(1),
                -self.q * u_by_row.sum(1) - self.r * v_by_row.sum(1),
                (u_by_column * self.dx).sum(1),
                (u_by_row * self.dy).sum(1),
                (v_by_row * self.dy).sum(1),
                # Listed splats have an opacity of at least ALPHA_MIN, except the padding.
                -by_row.sum(1) / self.opacities.clamp_min(ALPHA_MIN),
                *grad_features,
            ],
            -1,
        )


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
