"""Kernels of group normalisation and SiLU for maps with channels last in memory, the order that convolutions prefer.

PyTorch's own kernel needs channels first and, under autocast, float32, and SiLU is one more pass. Here the forward pass
reads the maps twice, for the statistics and for the result, and so does the backward pass.

Reference: `group_norm_reference` in `core/ops/group_norm.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, BLOCK_CHANNELS, WARPS = 4096, 128, 4  # values and channels that a program holds at once
MAX_CHUNKS, PROGRAMS = 64, 2048  # chunks of an image's pixels, and programs in all: enough to fill a device


@triton.jit
def _channels(GROUPS, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The program's groups [BLOCK] and channels [BLOCK * WIDTH], and which of them exist; a group has WIDTH columns."""
    block = tl.program_id(1)
    column = tl.arange(0, BLOCK * WIDTH)
    group = block * BLOCK + column // WIDTH
    channel = group * SIZE + column % WIDTH
    groups = block * BLOCK + tl.arange(0, BLOCK)
    return groups, groups < GROUPS, channel, (group < GROUPS) & (column % WIDTH < SIZE)


@triton.jit
def _to_channels(values, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Values of groups [BLOCK], repeated for their channels [BLOCK * WIDTH]."""
    return tl.reshape(tl.broadcast_to(values[:, None], [BLOCK, WIDTH]), [BLOCK * WIDTH])


@triton.jit
def _group_sums(values, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    return tl.sum(tl.reshape(values, [BLOCK, WIDTH]), 1)


@triton.jit
def _load_tile(x, start, last, channel, exists, added, C, ROWS: tl.constexpr):
    """Pixels from `start` on [ROWS, channels] as float32, which of them exist, and their offsets."""
    pixel = start + tl.arange(0, ROWS)
    inside = (pixel < last)[:, None] & exists[None, :]
    offset = pixel[:, None] * C + channel[None, :]
    return tl.load(x + offset, inside, 0.0).to(tl.float32) + added[None, :], inside, offset


@triton.jit
def _load_shift(shift, channel, exists, HAS_SHIFT: tl.constexpr):
    added = tl.zeros(channel.shape, tl.float32)
    if HAS_SHIFT:
        added = tl.load(shift + channel, exists, 0.0).to(tl.float32)
    return added


@triton.jit
def _stats_kernel(
    x, shift, stats, pixels, chunk, C, GROUPS,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_SHIFT: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of every group in a chunk of an image's pixels (Welford's updates)."""
    groups, group_exists, channel, exists = _channels(GROUPS, SIZE, WIDTH, BLOCK)
    first = tl.program_id(0) * chunk
    last = tl.minimum(first + chunk, pixels)
    image = tl.program_id(2).to(tl.int64)
    added = _load_shift(shift, channel, exists, HAS_SHIFT)
    count = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, BLOCK * WIDTH], tl.float32)
    squares = tl.zeros([ROWS, BLOCK * WIDTH], tl.float32)
    for start in range(first, last, ROWS):
        value, inside, _ = _load_tile(x + image * pixels * C, start, last, channel, exists, added, C, ROWS)
        count += tl.where(start + tl.arange(0, ROWS) < last, 1.0, 0.0)
        delta = tl.where(inside, value - mean, 0.0)
        mean += delta * (1 / tl.maximum(count, 1.0))[:, None]
        squares += delta * (value - mean)

    total = (last - first).to(tl.float32)
    channel_mean = tl.sum(mean * count[:, None], 0) / total
    gap = tl.where(exists[None, :], mean - channel_mean[None, :], 0.0)
    channel_squares = tl.sum(squares + count[:, None] * gap * gap, 0)
    group_mean = _group_sums(channel_mean, WIDTH, BLOCK) / SIZE
    gap = tl.where(exists, channel_mean - _to_channels(group_mean, WIDTH, BLOCK), 0.0)
    group_squares = _group_sums(channel_squares + total * gap * gap, WIDTH, BLOCK)
    row = stats + (image * tl.num_programs(0) + tl.program_id(0)) * 2 * GROUPS
    tl.store(row + groups, group_mean, group_exists)
    tl.store(row + GROUPS + groups, group_squares, group_exists)


@triton.jit
def _combine(
    stats, image, groups, group_exists, pixels, chunk, eps, GROUPS, SIZE: tl.constexpr, CHUNKS: tl.constexpr
):  # fmt: skip
    """Mean and 1 / standard deviation of groups [BLOCK] in an image, from its chunks' values (Chan et al., 1979)."""
    index = tl.arange(0, CHUNKS)
    inside = (index < tl.num_programs(0))[:, None] & group_exists[None, :]
    row = stats + (image * tl.num_programs(0) + index[:, None]) * 2 * GROUPS + groups[None, :]
    means = tl.load(row, inside, 0.0)
    count = tl.maximum(tl.minimum(pixels - index * chunk, chunk), 0).to(tl.float32)[:, None] * SIZE
    total = pixels * 1.0 * SIZE
    mean = tl.sum(means * count, 0) / total
    gap = means - mean[None, :]
    squares = tl.sum(tl.load(row + GROUPS, inside, 0.0) + count * gap * gap, 0)
    return mean, 1 / tl.sqrt(squares / total + eps)


@triton.jit
def _fwd_kernel(
    x, shift, stats, weight, bias, y, pixels, chunk, eps, C, GROUPS,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    groups, group_exists, channel, exists = _channels(GROUPS, SIZE, WIDTH, BLOCK)
    first = tl.program_id(0) * chunk
    last = tl.minimum(first + chunk, pixels)
    image = tl.program_id(2).to(tl.int64)
    mean, rstd = _combine(stats, image, groups, group_exists, pixels, chunk, eps, GROUPS, SIZE, CHUNKS)
    added = _load_shift(shift, channel, exists, HAS_SHIFT)
    slope = tl.load(weight + channel, exists, 0.0).to(tl.float32) * _to_channels(rstd, WIDTH, BLOCK)
    added -= _to_channels(mean, WIDTH, BLOCK)
    offset = tl.load(bias + channel, exists, 0.0).to(tl.float32)
    for start in range(first, last, ROWS):
        begin = image * pixels * C
        value, inside, where = _load_tile(x + begin, start, last, channel, exists, added, C, ROWS)
        value = value * slope[None, :] + offset[None, :]
        if SILU:
            value = value * tl.sigmoid(value)
        tl.store(y + begin + where, value.to(y.dtype.element_ty), inside)


@triton.jit
def _before_silu(x_hat, g, scale, offset, SILU: tl.constexpr):
    """Gradient with respect to the normalised and scaled map, before SiLU."""
    if SILU:
        value = x_hat * scale[None, :] + offset[None, :]
        gate = tl.sigmoid(value)
        g = g * gate * (1 + value * (1 - gate))
    return g


@triton.jit
def _bwd_sums_kernel(
    x, shift, stats, weight, bias, g_y, sums, pixels, chunk, eps, C, GROUPS,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk's pixels for each channel: of the gradient times the normalised map, and of the gradient."""
    groups, group_exists, channel, exists = _channels(GROUPS, SIZE, WIDTH, BLOCK)
    first = tl.program_id(0) * chunk
    last = tl.minimum(first + chunk, pixels)
    image = tl.program_id(2).to(tl.int64)
    begin = image * pixels * C
    mean, rstd = _combine(stats, image, groups, group_exists, pixels, chunk, eps, GROUPS, SIZE, CHUNKS)
    added = _load_shift(shift, channel, exists, HAS_SHIFT) - _to_channels(mean, WIDTH, BLOCK)
    rstd = _to_channels(rstd, WIDTH, BLOCK)
    scale = tl.load(weight + channel, exists, 0.0).to(tl.float32)
    offset = tl.load(bias + channel, exists, 0.0).to(tl.float32)
    along = tl.zeros([ROWS, BLOCK * WIDTH], tl.float32)
    plain = tl.zeros([ROWS, BLOCK * WIDTH], tl.float32)
    for start in range(first, last, ROWS):
        value, inside, where = _load_tile(x + begin, start, last, channel, exists, added, C, ROWS)
        x_hat = value * rstd[None, :]
        g = _before_silu(x_hat, tl.load(g_y + begin + where, inside, 0.0).to(tl.float32), scale, offset, SILU)
        along += g * x_hat
        plain += g
    row = sums + (image * tl.num_programs(0) + tl.program_id(0)) * 2 * C
    tl.store(row + channel, tl.sum(along, 0), exists)
    tl.store(row + C + channel, tl.sum(plain, 0), exists)


@triton.jit
def _bwd_kernel(
    x, shift, stats, weight, bias, g_y, sums, g_x, g_shifts, pixels, chunk, eps, C, GROUPS,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    HAS_SHIFT: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """g_x = (w g - mean(w g) - x_hat mean(w g x_hat)) / deviation, means over the group; and the chunk's sums of it."""
    groups, group_exists, channel, exists = _channels(GROUPS, SIZE, WIDTH, BLOCK)
    first = tl.program_id(0) * chunk
    last = tl.minimum(first + chunk, pixels)
    image = tl.program_id(2).to(tl.int64)
    begin = image * pixels * C
    mean, rstd = _combine(stats, image, groups, group_exists, pixels, chunk, eps, GROUPS, SIZE, CHUNKS)
    added = _load_shift(shift, channel, exists, HAS_SHIFT) - _to_channels(mean, WIDTH, BLOCK)
    rstd = _to_channels(rstd, WIDTH, BLOCK)
    scale = tl.load(weight + channel, exists, 0.0).to(tl.float32)
    offset = tl.load(bias + channel, exists, 0.0).to(tl.float32)

    index = tl.arange(0, CHUNKS)
    row = sums + (image * tl.num_programs(0) + index[:, None]) * 2 * C + channel[None, :]
    counts = (index < tl.num_programs(0))[:, None] & exists[None, :]
    total = pixels * 1.0 * SIZE
    along = _group_sums(scale * tl.sum(tl.load(row, counts, 0.0), 0), WIDTH, BLOCK) / total
    plain = _group_sums(scale * tl.sum(tl.load(row + C, counts, 0.0), 0), WIDTH, BLOCK) / total
    along, plain = _to_channels(along, WIDTH, BLOCK), _to_channels(plain, WIDTH, BLOCK)

    total_g = tl.zeros([ROWS, BLOCK * WIDTH], tl.float32)
    for start in range(first, last, ROWS):
        value, inside, where = _load_tile(x + begin, start, last, channel, exists, added, C, ROWS)
        x_hat = value * rstd[None, :]
        g = _before_silu(x_hat, tl.load(g_y + begin + where, inside, 0.0).to(tl.float32), scale, offset, SILU)
        g = (g * scale[None, :] - plain[None, :] - x_hat * along[None, :]) * rstd[None, :]
        tl.store(g_x + begin + where, g.to(g_x.dtype.element_ty), inside)
        if HAS_SHIFT:
            total_g += tl.where(inside, g, 0.0)
    if HAS_SHIFT:
        row = g_shifts + (image * tl.num_programs(0) + tl.program_id(0)) * C
        tl.store(row + channel, tl.sum(total_g, 0), exists)


def _launch_plan(x: Tensor, num_groups: int) -> tuple[tuple[int, int, int], int, dict[str, int]]:
    """The grid (chunks, blocks of groups, images), the pixels of a chunk, and the kernels' constants."""
    images, channels, height, width = x.shape
    size = channels // num_groups
    columns = triton.next_power_of_2(size)
    block = min(max(1, BLOCK_CHANNELS // columns), triton.next_power_of_2(num_groups))
    rows = min(max(1, TILE // (block * columns)), triton.next_power_of_2(height * width))
    blocks = triton.cdiv(num_groups, block)
    tiles = triton.cdiv(height * width, rows)
    chunks = min(tiles, MAX_CHUNKS, max(1, PROGRAMS // (images * blocks)))
    chunk = triton.cdiv(tiles, chunks) * rows
    constants = {"C": channels, "GROUPS": num_groups, "SIZE": size, "WIDTH": columns, "BLOCK": block, "ROWS": rows}
    return (triton.cdiv(height * width, chunk), blocks, images), chunk, constants


class GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, shift, num_groups, eps, silu):
        grid, chunk, constants = _launch_plan(x, num_groups)
        constants["HAS_SHIFT"] = shift is not None
        pixels = x.shape[2] * x.shape[3]
        stats = x.new_empty(x.shape[0], grid[0], 2, num_groups, dtype=torch.float32)
        y = torch.empty_like(x)
        added = x if shift is None else shift
        with torch.cuda.device_of(x):
            _stats_kernel[grid](x, added, stats, pixels, chunk, **constants, num_warps=WARPS)
            constants |= {"CHUNKS": 16 if grid[0] <= 16 else MAX_CHUNKS, "SILU": silu}
            _fwd_kernel[grid](x, added, stats, weight, bias, y, pixels, chunk, eps, **constants, num_warps=WARPS)
        ctx.save_for_backward(x, weight, bias, shift, stats)
        ctx.grid, ctx.chunk, ctx.constants, ctx.eps = grid, chunk, constants, eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_y):
        x, weight, bias, shift, stats = ctx.saved_tensors
        images, channels, height, width = x.shape
        g_y = g_y.contiguous(memory_format=torch.channels_last)
        sums = x.new_empty(images, ctx.grid[0], 2, channels, dtype=torch.float32)
        g_x = torch.empty_like(x)
        g_shifts = sums if shift is None else torch.empty_like(sums[:, :, 0])
        added = x if shift is None else shift
        head, tail = (x, added, stats, weight, bias, g_y, sums), (height * width, ctx.chunk, ctx.eps)
        with torch.cuda.device_of(x):
            _bwd_sums_kernel[ctx.grid](*head, *tail, **ctx.constants, num_warps=WARPS)
            _bwd_kernel[ctx.grid](*head, g_x, g_shifts, *tail, **ctx.constants, num_warps=WARPS)
        g_weight = g_bias = g_shift = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            g_weight, g_bias = sums.sum((0, 1))
            g_weight, g_bias = g_weight.to(weight.dtype), g_bias.to(bias.dtype)
        if shift is not None:
            g_shift = g_shifts.sum((0, 1)).to(shift.dtype)
        return g_x, g_weight, g_bias, g_shift, None, None, None
