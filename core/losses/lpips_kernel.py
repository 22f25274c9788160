"""LPIPS with VGG in half precision, and its gradient with respect to the prediction, for training.

Reference: `LPIPS.forward` in `core/losses/lpips.py`. Convolutions run in cuDNN; all other operations are bound by
memory traffic. The bias and ReLU of a layer are one kernel, the comparison at a tap and the pooling after it another,
and the gradients of tap, pooling and ReLU a third. Maps are channels-last; the second half of a batch holds the
targets.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

TILE = 1024  # values of one map per program of the tap kernels
BLOCK = 4096  # values per program of the ReLU kernel
EPS = tl.constexpr(1e-10)


@triton.jit
def _bias_relu_kernel(y, bias, total, C: tl.constexpr, BLOCK: tl.constexpr):
    """Add the bias and apply ReLU, in place."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    shifted = tl.load(y + i, i < total, 0.0).to(tl.float32) + tl.load(bias + i % C).to(tl.float32)
    tl.store(y + i, tl.maximum(shifted, 0.0).to(y.dtype.element_ty), i < total)


@triton.jit
def _pixels(block, corner, height, width, P: tl.constexpr, POOL: tl.constexpr):
    """Pixels [P] of a program, or one corner (0 to 3) of its 2 x 2 windows, and which of them exist."""
    window = block * P + tl.arange(0, P)
    if POOL:
        columns = width // 2
        pixel = (window // columns * 2 + corner // 2) * width + window % columns * 2 + corner % 2
        exists = window < columns * (height // 2)
    else:
        pixel, exists = window, window < width * height
    return pixel, exists


@triton.jit
def _unit(x):
    """Normalised vectors [P, C], and their lengths."""
    length = tl.sqrt(tl.sum(x * x, 1))
    return x / (length + EPS)[:, None], length


@triton.jit
def _tap_fwd_kernel(
    maps, head, pooled, sums, num_pairs, height, width, C: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr
):
    block, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, C)
    weights = tl.load(head + channel)
    first, second = maps + pair * height * width * C, maps + (pair + num_pairs) * height * width * C
    total = tl.zeros([P], tl.float32)
    # The maps are outputs of a ReLU, hence at least 0.
    max_first, max_second = tl.zeros([P, C], tl.float32), tl.zeros([P, C], tl.float32)
    for corner in tl.static_range(4 if POOL else 1):
        pixel, exists = _pixels(block, corner, height, width, P, POOL)
        where = pixel[:, None] * C + channel[None, :]
        a = tl.load(first + where, exists[:, None], 0.0).to(tl.float32)
        b = tl.load(second + where, exists[:, None], 0.0).to(tl.float32)
        max_first, max_second = tl.maximum(max_first, a), tl.maximum(max_second, b)
        unit_a, _ = _unit(a)
        unit_b, _ = _unit(b)
        total += tl.sum((unit_a - unit_b) * (unit_a - unit_b) * weights[None, :], 1)
    tl.store(sums + pair * tl.num_programs(0) + block, tl.sum(total, 0))
    if POOL:
        window = block * P + tl.arange(0, P)
        count = (height // 2) * (width // 2)
        where = window[:, None] * C + channel[None, :]
        dtype = pooled.dtype.element_ty
        tl.store(pooled + pair * count * C + where, max_first.to(dtype), (window < count)[:, None])
        tl.store(pooled + (pair + num_pairs) * count * C + where, max_second.to(dtype), (window < count)[:, None])


@triton.jit
def _tap_bwd_kernel(
    maps, head, g_distances, g_pooled, g_maps, num_pairs, height, width,
    C: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr,
):  # fmt: skip
    """Gradient before the ReLU, for the first half only; that of a pooled pixel goes to the first maximum of four."""
    block, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, C)
    weights = tl.load(head + channel)[None, :] * (tl.load(g_distances + pair) * 2 / (height * width))
    first, second = maps + pair * height * width * C, maps + (pair + num_pairs) * height * width * C
    out = g_maps + pair * height * width * C
    if POOL:
        window = block * P + tl.arange(0, P)
        count = (height // 2) * (width // 2)
        where = window[:, None] * C + channel[None, :]
        g_max = tl.load(g_pooled + pair * count * C + where, (window < count)[:, None], 0.0).to(tl.float32)
        maximum = tl.zeros([P, C], tl.float32)
        for corner in tl.static_range(4):
            pixel, exists = _pixels(block, corner, height, width, P, POOL)
            a = tl.load(first + pixel[:, None] * C + channel[None, :], exists[:, None], 0.0)
            maximum = tl.maximum(maximum, a.to(tl.float32))
    for corner in tl.static_range(4 if POOL else 1):
        pixel, exists = _pixels(block, corner, height, width, P, POOL)
        where = pixel[:, None] * C + channel[None, :]
        a = tl.load(first + where, exists[:, None], 0.0).to(tl.float32)
        b = tl.load(second + where, exists[:, None], 0.0).to(tl.float32)
        unit_a, length = _unit(a)
        unit_b, _ = _unit(b)
        g_unit = (unit_a - unit_b) * weights
        along = tl.sum(g_unit * unit_a, 1) / tl.maximum(length, EPS)
        g = g_unit / (length + EPS)[:, None] - unit_a * along[:, None]
        if POOL:
            g += tl.where(a == maximum, g_max, 0.0)
            g_max = tl.where(a == maximum, 0.0, g_max)
        tl.store(out + where, tl.where(a > 0, g, 0.0).to(g_maps.dtype.element_ty), exists[:, None])


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = conv2d(x, weight, padding=1).contiguous(memory_format=torch.channels_last)
    _bias_relu_kernel[(triton.cdiv(y.numel(), BLOCK),)](y, bias, y.numel(), y.shape[1], BLOCK)
    return y


def _tap_plan(maps: Tensor, pool: bool) -> tuple[tuple[int, int], tuple]:
    """Grid of the tap kernels, and their last arguments."""
    num_pairs, channels, (height, width) = len(maps) // 2, maps.shape[1], maps.shape[2:]
    block = max(1, TILE // channels)
    count = height * width // (4 if pool else 1)
    return (triton.cdiv(count, block), num_pairs), (num_pairs, height, width, channels, block, pool)


def _tap(maps: Tensor, head: Tensor, pool: bool) -> tuple[Tensor | None, Tensor]:
    """The pooled maps, or None without pooling, and the distance of each pair."""
    grid, arguments = _tap_plan(maps, pool)
    images, channels, height, width = maps.shape
    sums = maps.new_empty(grid[1], grid[0], dtype=torch.float32)
    pooled = None
    if pool:
        pooled = maps.new_empty(images, height // 2, width // 2, channels).movedim(-1, 1)
    _tap_fwd_kernel[grid](maps, head, maps if pooled is None else pooled, sums, *arguments)
    return pooled, sums.sum(1) / (height * width)


def _tap_backward(maps: Tensor, head: Tensor, g_distances: Tensor, g_pooled: Tensor | None) -> Tensor:
    pool = g_pooled is not None
    grid, arguments = _tap_plan(maps, pool)
    g_maps = torch.empty_like(maps[: len(maps) // 2])
    g_pooled = g_pooled.contiguous(memory_format=torch.channels_last) if pool else maps
    _tap_bwd_kernel[grid](maps, head, g_distances, g_pooled, g_maps, *arguments)
    return g_maps


class VggDistance(torch.autograd.Function):
    """Distances [n] of images [n, 3, H, W] from targets; gradients reach `predicted` only.

    Args:
        predicted: Images in [0, 1].
        target: Images in [0, 1].
        gain: Factor of the input normalisation, [3, 1, 1].
        offset: Offset of the input normalisation, [3, 1, 1].
        weights: Weights of each convolution.
        biases: Biases of each convolution.
        heads: Weights of the channels at each tap.
        taps: Indices of the convolutions whose outputs are compared; all but the last are followed by pooling.
    """

    @staticmethod
    def forward(ctx, predicted, target, gain, offset, weights, biases, heads, taps):
        dtype = weights[0].dtype
        images = torch.addcmul(offset, torch.cat([predicted, target]), gain)
        x = images.to(dtype).contiguous(memory_format=torch.channels_last)
        inputs, outputs, distances = [], [], []
        with torch.cuda.device_of(x):
            for index, (weight, bias) in enumerate(zip(weights, biases)):
                inputs.append(x)
                x = _conv_relu(x, weight, bias)
                outputs.append(x)
                if index in taps:
                    tap = taps.index(index)
                    x, distance = _tap(x, heads[tap], pool=index != taps[-1])
                    distances.append(distance)
        ctx.save_for_backward(gain, *weights, *heads, *inputs, *outputs)
        ctx.taps = taps
        return torch.stack(distances).sum(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_distances: Float[Tensor, " n"]):
        taps, (gain, *saved) = ctx.taps, ctx.saved_tensors
        count = (len(saved) - len(taps)) // 3
        weights, heads, inputs, outputs = (
            saved[:count],
            saved[count : count + len(taps)],
            saved[-2 * count : -count],
            saved[-count:],
        )
        num_pairs, g_distances = len(g_distances), g_distances.contiguous()
        g = None
        with torch.cuda.device_of(gain):
            for index in reversed(range(count)):
                if index in taps:
                    g = _tap_backward(outputs[index], heads[taps.index(index)], g_distances, g)
                else:
                    g = torch.ops.aten.threshold_backward(g, outputs[index][:num_pairs], 0)
                ones, zeros = [1, 1], [0, 0]
                g, _, _ = torch.ops.aten.convolution_backward(
                    g, inputs[index][:num_pairs], weights[index], None,
                    ones, ones, ones, False, zeros, 1, [True, False, False],
                )  # fmt: skip
        return g.float() * gain, *[None] * 7
