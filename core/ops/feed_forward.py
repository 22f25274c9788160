"""Residual feed-forward network: the last operations of every layer of the graph, after attention."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from smpl_renderer.dispatch import layer_dtype


class FeedForwardWeights(NamedTuple):
    """Weights of the update's map, of the LayerNorm, and of two linear maps with a GELU between them."""

    out_weight: Float[Tensor, "D D"]
    out_bias: Float[Tensor, "D"] | None
    norm_weight: Float[Tensor, "D"]
    norm_bias: Float[Tensor, "D"]
    weight1: Float[Tensor, "K D"]
    bias1: Float[Tensor, "K"]
    weight2: Float[Tensor, "D K"]
    bias2: Float[Tensor, "D"]


def residual_feed_forward_reference(
    x: Float[Tensor, "*batch D"], update: Float[Tensor, "*batch D"], weights: FeedForwardWeights
) -> Float[Tensor, "*batch D"]:
    """Define `residual_feed_forward` in plain PyTorch, for any device and dtype."""
    w = weights
    x = x + linear(update, w.out_weight, w.out_bias)
    hidden = linear(layer_norm(x, w.norm_weight.shape, w.norm_weight, w.norm_bias), w.weight1, w.bias1)
    return x + linear(gelu(hidden), w.weight2, w.bias2)


def residual_feed_forward(
    x: Float[Tensor, "*batch D"], update: Float[Tensor, "*batch D"], weights: FeedForwardWeights
) -> Float[Tensor, "*batch D"]:
    """Compute `y + network(y)` with `y = x + map(update)`, in the dtype of x.

    Under autocast on a CUDA device, the factors of products have half precision, their sums and the residual are
    float32, and only the inputs are kept for the backward pass.
    """
    dtype = layer_dtype(x)
    if dtype is None or len(weights.weight1) % 16:
        return residual_feed_forward_reference(x, update, weights)
    from core.ops.feed_forward_kernel import ResidualFeedForward

    rows = [x.reshape(-1, x.shape[-1]), update.to(dtype).reshape(-1, x.shape[-1])]
    return ResidualFeedForward.apply(*rows, *weights).view(x.shape)
