"""The U-Net: from the input images of a frame to splat maps, in the shape of LGM (Tang et al., 2024).

Each block defines its computation in plain PyTorch (`forward`), which runs on a CPU and under `torch.compile`. `fused`
computes the same in fewer passes over memory and runs on CUDA: beside convolutions on tensor cores, all other
operations are bound by memory.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, linear, scaled_dot_product_attention, silu
from torch.utils.checkpoint import checkpoint

from core.ops.group_norm import group_norm
from core.ops.residual_sum import residual_sum
from core.options import UNetOptions
from core.runtime.cuda_graphs import CudaGraphCache
from core.runtime.frozen_copy import FrozenCopy
from smpl_renderer.dispatch import kernels_wanted
from smpl_renderer.errors import InputError

INPUT_CHANNELS = 9
"""Normalised RGB and six Plücker coordinates."""
SKIP_SCALE = math.sqrt(0.5)
"""Factor on the sum of two branches that keeps the variance."""
ATTENTIONS = ("sdpa", "xformers")
"""Implementations of attention on CUDA: PyTorch's, and that of the package `xformers`."""


class UNet(nn.Module):
    """Splat maps: raw channels of a Gaussian for each pixel, and the features that they are computed from.

    The features are the input of the last convolution rather than a second output of it, so a U-Net that was trained on
    single frames alone has meaningful ones.

    Attributes:
        recompute: Keep only the inputs of layers for the backward pass, and recompute the rest.
        reference: Always run the plain operations.
        frozen: Copy that runs on CUDA in bfloat16 while no parameter requires a gradient.
        graph_cache: CUDA graphs of a network in training, if enabled; by default they are not.
    """

    def __init__(self, options: UNetOptions, out_channels: int):
        super().__init__()
        _check_options(options)
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

    def forward(
        self, x: Float[Tensor, "BF C 9 H W"]
    ) -> tuple[Float[Tensor, "BF C R S S"], Float[Tensor, "BF C D S S"]]:
        """Raw channels and features of the splat maps of B * F frames in C views."""
        fused = x.is_cuda and not self.reference and not torch.compiler.is_compiling() and kernels_wanted()
        if fused and self.frozen.can_run(self, x):
            return self.frozen(self, x)
        if fused and not self.recompute and self.graph_cache.can_capture(x):
            return self.graph_cache(self, self._fused_maps, x)
        return self.maps(x, fused)

    def _fused_maps(self, x: Float[Tensor, "BF C 9 H W"]) -> tuple[Tensor, Tensor]:
        return self.maps(x, fused=True)

    def maps(
        self, x: Float[Tensor, "BF C 9 H W"], fused: bool
    ) -> tuple[Float[Tensor, "BF C R S S"], Float[Tensor, "BF C D S S"]]:
        """The results of `forward`, by the plain or the fused operations."""
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

    def _run(self, layer: "Layer", *inputs: Tensor | int | bool) -> Float[Tensor, "BFC O H W"]:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)

    def use_attention(self, implementation: str) -> None:
        """Choose one of `ATTENTIONS`. The results are the same up to rounding.

        Raises:
            InputError: If it does not exist, is not installed, or does not run on this GPU.
        """
        check_attention(implementation)
        for module in self.modules():
            if isinstance(module, MultiViewAttention):
                module.implementation = implementation
        self.frozen.clear()
        self.graph_cache.clear()

    def _apply(self, *arguments, **settings) -> "UNet":
        self.frozen.clear()  # copies and captured graphs refer to the parameters' memory, which changes here
        self.graph_cache.clear()
        return super()._apply(*arguments, **settings)


class Layer(nn.Module):
    """A residual block, and optionally attention between views."""

    def __init__(self, in_channels: int, out_channels: int, attention: bool):
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels)
        self.attention = MultiViewAttention(out_channels, SKIP_SCALE) if attention else None

    def forward(
        self, x: Float[Tensor, "BFC X H W"], num_views: int, fused: bool, skip: Float[Tensor, "BFC Y H W"] | None = None
    ) -> Float[Tensor, "BFC O H W"]:
        if skip is not None:
            x = torch.cat([x, skip], 1)
        x = self.block.fused(x) if fused else self.block(x)
        if self.attention is None:
            return x
        return self.attention.fused(x, num_views) if fused else self.attention(x, num_views)


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a skip connection."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = norm_of(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm_of(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Float[Tensor, "BFC I H W"]) -> Float[Tensor, "BFC O H W"]:
        y = self.conv1(silu(self.norm1(x)))
        y = self.conv2(silu(self.norm2(y)))
        return (y + self.skip(x)) * SKIP_SCALE

    def fused(self, x: Float[Tensor, "BFC I H W"]) -> Float[Tensor, "BFC O H W"]:
        """The same. Biases of convolutions are added in the next pass over the map rather than in an extra pass."""
        y = conv2d(normalize(self.norm1, x, silu=True), self.conv1.weight, padding=1)
        y = conv2d(normalize(self.norm2, y, silu=True, shift=self.conv1.bias), self.conv2.weight, padding=1)
        bias = self.conv2.bias
        if isinstance(self.skip, nn.Conv2d):
            x, bias = conv2d(x, self.skip.weight), bias + self.skip.bias
        return residual_sum(y, x, bias, SKIP_SCALE)


class MultiViewAttention(nn.Module):
    """Self-attention over the pixels of all views of a frame, so that views can agree on the geometry.

    Source: Tang et al., LGM (2024), Sec. 3.2.
    """

    def __init__(self, channels: int, skip_scale: float):
        super().__init__()
        self.num_heads = max(1, min(16, channels // 32))
        self.skip_scale = skip_scale
        self.implementation = "sdpa"
        self.norm = norm_of(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "BFC D H W"], num_views: int) -> Float[Tensor, "BFC D H W"]:
        """Update maps `x`, which hold the `num_views` views of a frame one after the other."""
        update = self.out(self._mix(self.norm(x), num_views))
        return (x + _as_maps(update, x).to(memory_format=torch.preserve_format)) * self.skip_scale

    def fused(self, x: Float[Tensor, "BFC D H W"], num_views: int) -> Float[Tensor, "BFC D H W"]:
        """The same in fewer passes over memory."""
        update = linear(self._mix(normalize(self.norm, x), num_views), self.out.weight)
        return residual_sum(_as_maps(update, x), x, self.out.bias, self.skip_scale)

    def _mix(self, x: Float[Tensor, "BFC D H W"], num_views: int) -> Float[Tensor, "BF CHW D"]:
        """Attention without norm and output map. With channels last in memory, only the products copy memory."""
        tokens = x.unflatten(0, (-1, num_views)).movedim(2, -1).flatten(1, 3)
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # [BF, CHW, heads, d]
        return attend(queries, keys, values, self.implementation if x.is_cuda else "sdpa").flatten(2)


def _as_maps(tokens: Float[Tensor, "BF CHW D"], like: Float[Tensor, "BFC D H W"]) -> Float[Tensor, "BFC D H W"]:
    channels, height, width = like.shape[1:]
    return tokens.view(-1, height, width, channels).movedim(-1, 1)


def attend(
    queries: Float[Tensor, "BF Q heads D"],
    keys: Float[Tensor, "BF K heads D"],
    values: Float[Tensor, "BF K heads D"],
    implementation: str,
) -> Float[Tensor, "BF Q heads D"]:
    """Attention in each head, by one of `ATTENTIONS`."""
    if implementation == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(queries, keys, values)
    heads_first = (part.transpose(1, 2) for part in (queries, keys, values))
    return scaled_dot_product_attention(*heads_first).transpose(1, 2)


def norm_of(channels: int) -> nn.GroupNorm:
    """Group norm with LGM's 32 groups, or fewer in narrow layers, whose groups have at least 8 channels."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)


def normalize(norm: nn.GroupNorm, x: Tensor, silu: bool = False, shift: Tensor | None = None) -> Tensor:
    """Apply `norm` to `x` plus a bias, optionally followed by SiLU, in few passes over memory."""
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu, shift)


def check_attention(implementation: str) -> None:
    """Check that an implementation of attention exists, is installed, and runs on this GPU.

    Raises:
        InputError: If not.
    """
    if implementation not in ATTENTIONS:
        raise InputError(f"attention must be one of {', '.join(ATTENTIONS)}, got {implementation}")
    if implementation == "xformers":
        try:
            import xformers.ops  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"attention xformers cannot be loaded ({error}); see requirements-cuda.txt, or choose sdpa"
            ) from error
        if torch.cuda.is_available():
            probe = torch.zeros(1, 8, 1, 32, device="cuda", dtype=torch.bfloat16)
            try:
                attend(probe, probe, probe, implementation)
            except NotImplementedError as error:
                raise InputError(
                    "attention xformers does not support this GPU, or was built for another PyTorch or CUDA "
                    "(`python -m xformers.info` lists them); see requirements-cuda.txt, or choose sdpa"
                ) from error


def _check_options(options: UNetOptions) -> None:
    """Refuse options that contradict each other, before a concatenation of unequal maps fails."""
    if len(options.down_attention) != len(options.down_channels):
        raise InputError("down_attention must have one value for each of down_channels")
    if len(options.up_attention) != len(options.up_channels):
        raise InputError("up_attention must have one value for each of up_channels")
    if len(options.up_channels) > len(options.down_channels):
        raise InputError("up_channels must not have more levels than down_channels")
    halvings = len(options.down_channels) - 1
    if options.input_size % 2**halvings:
        raise InputError(f"input_size must be a multiple of {2**halvings}, got {options.input_size}")
    splat_size = options.input_size // 2 ** (len(options.down_channels) - len(options.up_channels))
    if options.splat_size != splat_size:
        raise InputError(f"splat_size must be {splat_size} with these levels, got {options.splat_size}")
