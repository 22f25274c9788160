"""LayerNorm followed by a linear map: the first operations of every attention in the graph."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from smpl_renderer.dispatch import layer_dtype


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
