"""From the pictures of a moment to splat maps: a U-Net in the shape of LGM (Tang et al., 2024).

Blocks say what they compute in plain PyTorch (`forward`), which runs on a CPU and is what `torch.compile` fuses by
itself, and the same in fewer passes over memory (`fused`), which runs on CUDA: next to convolutions on tensor cores,
everything else is a matter of bytes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, silu
from torch.utils.checkpoint import checkpoint

from core.model.attention import MultiViewAttention, check_attention, norm_of, normalize
from core.ops.residual_sum import residual_sum
from core.options import UNetOptions
from core.runtime.cuda_graphs import CudaGraphCache
from core.runtime.frozen_copy import FrozenCopy
from smpl_renderer.dispatch import kernels_wanted
from smpl_renderer.errors import InputError

INPUT_CHANNELS = 9
"""Normalised RGB and six Plücker coordinates."""
SKIP_SCALE = math.sqrt(0.5)
"""Keeps the variance of a sum of two branches."""


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a skip."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = norm_of(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm_of(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Float[Tensor, "N I H W"]) -> Float[Tensor, "N O H W"]:
        y = self.conv1(silu(self.norm1(x)))
        y = self.conv2(silu(self.norm2(y)))
        return (y + self.skip(x)) * SKIP_SCALE

    def fused(self, x: Float[Tensor, "N I H W"]) -> Float[Tensor, "N O H W"]:
        """The same; biases wait for the next pass over the map, where convolutions would take one more to add them."""
        y = conv2d(normalize(self.norm1, x, silu=True), self.conv1.weight, padding=1)
        y = conv2d(normalize(self.norm2, y, silu=True, shift=self.conv1.bias), self.conv2.weight, padding=1)
        bias = self.conv2.bias
        if isinstance(self.skip, nn.Conv2d):
            x, bias = conv2d(x, self.skip.weight), bias + self.skip.bias
        return residual_sum(y, x, bias, SKIP_SCALE)


class Layer(nn.Module):
    """A residual block, and attention between views where it is asked for."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool):
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels)
        self.attention = MultiViewAttention(out_channels, SKIP_SCALE) if attention else None

    def forward(
        self, x: Float[Tensor, "N X H W"], num_views: int, fused: bool, skip: Float[Tensor, "N Y H W"] | None = None
    ) -> Float[Tensor, "N O H W"]:
        if skip is not None:
            x = torch.cat([x, skip], 1)
        x = self.block.fused(x) if fused else self.block(x)
        if self.attention is None:
            return x
        return self.attention.fused(x, num_views) if fused else self.attention(x, num_views)


class UNet(nn.Module):
    """Pixels of a splat map, each with raw numbers of a Gaussian and the features that they were read from.

    The features are those that the last convolution reads, not a further output of it, so that a U-Net trained on
    single frames alone already has meaningful ones.

    Attributes:
        recompute: Keep only the inputs of layers for the backward pass, and compute what is between them again.
        reference: Always run the plain operations.
        frozen: The copy that runs on CUDA in bfloat16 while no parameter requires a gradient.
        recorder: Plays the launches of a network that is trained, if enabled; it is not by default.
    """

    def __init__(self, options: UNetOptions, out_channels: int):
        super().__init__()
        _check(options)
        down, up = options.down_channels, options.up_channels
        self.options = options
        self.recompute = self.reference = False
        self.frozen = FrozenCopy()
        self.graph_cache = CudaGraphCache()
        self.graph_cache.enabled = False
        self.conv_in = nn.Conv2d(INPUT_CHANNELS, down[0], 3, padding=1)

        channels, skips = down[0], [down[0]]
        self.down_levels, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(down):
            layers = nn.ModuleList()
            for _ in range(options.layers_per_block):
                layers.append(Layer(channels, width, options.down_attention[level]))
                channels = width
                skips.append(channels)
            self.down_levels.append(layers)
            if level < len(down) - 1:
                self.downsamplers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)

        self.mid = nn.ModuleList(
            [Layer(channels, channels, options.mid_attention), Layer(channels, channels, attention=False)]
        )

        self.up_levels, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(up):
            layers = nn.ModuleList()
            for _ in range(options.layers_per_block + 1):
                layers.append(Layer(channels + skips.pop(), width, options.up_attention[level]))
                channels = width
            self.up_levels.append(layers)
            if level < len(up) - 1:
                self.upsamplers.append(nn.Conv2d(channels, channels, 3, padding=1))

        self.feature_channels = channels
        self.norm_out = norm_of(channels)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C 9 H W"]) -> tuple[Float[Tensor, "B C R S S"], Float[Tensor, "B C D S S"]]:
        """Raw numbers and features of the splat maps of B moments, each seen by C cameras."""
        fused = x.is_cuda and not self.reference and not torch.compiler.is_compiling() and kernels_wanted()
        if fused and self.frozen.can_capture(self, x):
            return self.frozen(self, x)
        if fused and not self.recompute and self.graph_cache.can_capture(x):
            return self.graph_cache(self, self._fused_maps, x)
        return self.maps(x, fused)

    def _fused_maps(self, x: Float[Tensor, "B C 9 H W"]) -> tuple[Tensor, Tensor]:
        return self.maps(x, fused=True)

    def maps(
        self, x: Float[Tensor, "B C 9 H W"], fused: bool
    ) -> tuple[Float[Tensor, "B C R S S"], Float[Tensor, "B C D S S"]]:
        """The same, by the plain or the fused operations."""
        num_views = x.shape[1]
        x = self.conv_in(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        skips = [x]
        for level, layers in enumerate(self.down_levels):
            for layer in layers:
                x = self._run(layer, x, num_views, fused)
                skips.append(x)
            if level < len(self.downsamplers):
                x = self.downsamplers[level](x)
                skips.append(x)
        for layer in self.mid:
            x = self._run(layer, x, num_views, fused)
        for level, layers in enumerate(self.up_levels):
            for layer in layers:
                x = self._run(layer, x, num_views, fused, skips.pop())
            if level < len(self.upsamplers):
                x = self.upsamplers[level](interpolate(x, scale_factor=2.0, mode="nearest"))
        features = normalize(self.norm_out, x, silu=True) if fused else silu(self.norm_out(x))
        views = (-1, num_views)
        return self.conv_out(features).unflatten(0, views), features.unflatten(0, views)

    def _run(self, layer: Layer, *inputs: Tensor | int | bool) -> Float[Tensor, "N O H W"]:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def use_attention(self, kernels: str) -> None:
        """Choose the attention's kernels, `sdpa` (PyTorch's) or `xformers`: the results are the same up to rounding.

        Raises:
            InputError: If they do not exist or are not installed.
        """
        check_attention(kernels)
        for module in self.modules():
            if isinstance(module, MultiViewAttention):
                module.kernels = kernels
        self.frozen.clear()
        self.graph_cache.clear()

    def _apply(self, *arguments, **settings) -> "UNet":
        self.frozen.clear()  # their memory, too, is to move
        self.graph_cache.clear()
        return super()._apply(*arguments, **settings)


def _check(options: UNetOptions) -> None:
    """Options that contradict each other would fail late, in a concatenation of unequal maps."""
    if len(options.down_attention) != len(options.down_channels):
        raise InputError("down_attention must say yes or no for each of down_channels")
    if len(options.up_attention) != len(options.up_channels):
        raise InputError("up_attention must say yes or no for each of up_channels")
    if len(options.up_channels) > len(options.down_channels):
        raise InputError("up_channels must not have more levels than down_channels")
    halvings = len(options.down_channels) - 1
    if options.input_size % 2**halvings:
        raise InputError(f"input_size must be a multiple of {2**halvings}, got {options.input_size}")
    splat_size = options.input_size // 2 ** (len(options.down_channels) - len(options.up_channels))
    if options.splat_size != splat_size:
        raise InputError(f"splat_size must be {splat_size} with these levels, got {options.splat_size}")
