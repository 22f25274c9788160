"""Attention between the views of a moment."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from core.ops.group_norm import group_norm
from core.ops.residual_sum import residual_sum
from smpl_renderer.errors import InputError

ATTENTIONS = ("sdpa", "xformers")
"""Whose attention kernels: PyTorch's, or those of `xformers` where it is installed."""


def norm_of(channels: int) -> nn.GroupNorm:
    """LGM's 32 groups where channels are many; narrow layers get groups of at least 8 channels."""
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)


def normalize(norm: nn.GroupNorm, x: Tensor, silu: bool = False, shift: Tensor | None = None) -> Tensor:
    """What `norm` makes of `x` plus a bias, and SiLU of that where it is asked for, in few passes."""
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu, shift)


def attend(
    queries: Float[Tensor, "B Q N D"], keys: Float[Tensor, "B K N D"], values: Float[Tensor, "B K N D"], kernels: str
) -> Float[Tensor, "B Q N D"]:
    """Attention in each of N heads, by kernels that are one of `ATTENTIONS`."""
    if kernels == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(queries, keys, values)
    heads_first = (part.transpose(1, 2) for part in (queries, keys, values))
    return scaled_dot_product_attention(*heads_first).transpose(1, 2)


class MultiViewAttention(nn.Module):
    """Self-attention over the pixels of all views of a moment together, so that views can agree on the geometry.

    Source: Tang et al., LGM (2024), Sec. 3.2.
    """

    def __init__(self, channels: int, skip_scale: float):
        super().__init__()
        self.num_heads = max(1, min(16, channels // 32))
        self.skip_scale = skip_scale
        self.kernels = "sdpa"
        self.norm = norm_of(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "BC D H W"], num_views: int) -> Float[Tensor, "BC D H W"]:
        """`x` holds the views of a moment one after the other, `num_views` of them."""
        update = self.out(self._mix(self.norm(x), num_views))
        return (x + _as_maps(update, x).to(memory_format=torch.preserve_format)) * self.skip_scale

    def fused(self, x: Float[Tensor, "BC D H W"], num_views: int) -> Float[Tensor, "BC D H W"]:
        """The same in fewer passes over memory."""
        update = functional.linear(self._mix(normalize(self.norm, x), num_views), self.out.weight)
        return residual_sum(_as_maps(update, x), x, self.out.bias, self.skip_scale)

    def _mix(self, x: Float[Tensor, "BC D H W"], num_views: int) -> Float[Tensor, "B CHW D"]:
        """Channels come last, and so all of this is views of memory but the products themselves."""
        tokens = x.unflatten(0, (-1, num_views)).movedim(2, -1).flatten(1, 3)
        queries, keys, values = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # [B, CHW, heads, d]
        return attend(queries, keys, values, self.kernels if x.is_cuda else "sdpa").flatten(2)


def _as_maps(tokens: Float[Tensor, "B CHW D"], like: Float[Tensor, "BC D H W"]) -> Float[Tensor, "BC D H W"]:
    channels, height, width = like.shape[1:]
    return tokens.view(-1, height, width, channels).movedim(-1, 1)


def check_attention(kernels: str) -> None:
    """Refuse kernels that are not among `ATTENTIONS`, not installed, or not built for this GPU and PyTorch.

    Raises:
        InputError: If they are not.
    """
    if kernels not in ATTENTIONS:
        raise InputError(f"attention must be one of {', '.join(ATTENTIONS)}, got {kernels}")
    if kernels == "xformers":
        try:
            import xformers.ops  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"attention xformers cannot be loaded ({error}); see requirements-cuda.txt, or choose sdpa"
            ) from error
        if torch.cuda.is_available():
            probe = torch.zeros(1, 8, 1, 32, device="cuda", dtype=torch.bfloat16)
            try:
                attend(probe, probe, probe, kernels)
            except NotImplementedError as error:
                raise InputError(
                    "attention xformers has no kernels for this GPU, or was built for another PyTorch or CUDA; "
                    "`python -m xformers.info` says which; see requirements-cuda.txt, or choose sdpa"
                ) from error
