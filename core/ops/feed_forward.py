"""How every layer of the graph ends: what attention found is mapped and added, then a feed-forward network."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from smpl_renderer.dispatch import layer_dtype


class FeedForwardWeights(NamedTuple):
    """The map of the update, then LayerNorm and two linear maps with a GELU in between."""

    out_weight: Float[Tensor, "C C"]
    out_bias: Float[Tensor, "C"] | None
    norm_weight: Float[Tensor, "C"]
    norm_bias: Float[Tensor, "C"]
    weight1: Float[Tensor, "K C"]
    bias1: Float[Tensor, "K"]
    weight2: Float[Tensor, "C K"]
    bias2: Float[Tensor, "C"]


def residual_feed_forward_reference(
    x: Float[Tensor, "*batch C"], update: Float[Tensor, "*batch C"], weights: FeedForwardWeights
) -> Float[Tensor, "*batch C"]:
    """Define `residual_feed_forward` in plain PyTorch, for any device and dtype."""
    w = weights
    x = x + linear(update, w.out_weight, w.out_bias)
    hidden = linear(layer_norm(x, w.norm_weight.shape, w.norm_weight, w.norm_bias), w.weight1, w.bias1)
    return x + linear(gelu(hidden), w.weight2, w.bias2)


def residual_feed_forward(
    x: Float[Tensor, "*batch C"], update: Float[Tensor, "*batch C"], weights: FeedForwardWeights
) -> Float[Tensor, "*batch C"]:
    """Add the mapped update to x, and to the sum what a feed-forward network makes of it; of the dtype of x.

    Under autocast on a CUDA device, products are of half precision, their sums and the residual of float32, and only
    the inputs are kept for the backward pass.
    """
    dtype = layer_dtype(x)
    if dtype is None or len(weights.weight1) % 16:
        return residual_feed_forward_reference(x, update, weights)
    from core.ops.feed_forward_kernel import ResidualFeedForward

    rows = [x.reshape(-1, x.shape[-1]), update.to(dtype).reshape(-1, x.shape[-1])]
    return ResidualFeedForward.apply(*rows, *weights).view(x.shape)
