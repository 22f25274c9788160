"""Dense layers of the graph: norm and projection before attention, residual feed-forward network after it."""

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


def norm_linear_reference(
    x: Float[Tensor, "*batch D"],
    norm_weight: Float[Tensor, "D"],
    norm_bias: Float[Tensor, "D"],
    weight: Float[Tensor, "O D"],
    bias: Float[Tensor, "O"],
) -> tuple[Float[Tensor, "*batch O"], Float[Tensor, "*batch D"]]:
    """Define `norm_linear` in plain PyTorch, for any device and dtype."""
    return linear(layer_norm(x, norm_weight.shape, norm_weight, norm_bias), weight, bias), x


def norm_linear(
    x: Float[Tensor, "*batch D"],
    norm_weight: Float[Tensor, "D"],
    norm_bias: Float[Tensor, "D"],
    weight: Float[Tensor, "O D"],
    bias: Float[Tensor, "O"],
) -> tuple[Float[Tensor, "*batch O"], Float[Tensor, "*batch D"]]:
    """Normalise rows and map them linearly.

    Returns:
        The mapped rows, in autocast's dtype where it is enabled, and x. A caller continues with this x: the gradients
        of both results are then added in one kernel.
    """
    dtype = layer_dtype(x)
    if dtype is None or len(weight) % 16:
        return norm_linear_reference(x, norm_weight, norm_bias, weight, bias)
    from core.ops.norm_linear_kernel import NormLinear

    rows = x.reshape(-1, x.shape[-1])
    mapped, x_again = NormLinear.apply(rows, norm_weight, norm_bias, weight, bias, dtype)
    return mapped.view(*x.shape[:-1], -1), x_again.view(x.shape)
