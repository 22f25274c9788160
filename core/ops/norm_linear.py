"""LayerNorm and a linear map: how every attention begins."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from smpl_renderer.dispatch import layer_dtype


def norm_linear_reference(
    x: Float[Tensor, "*batch C"],
    norm_weight: Float[Tensor, "C"],
    norm_bias: Float[Tensor, "C"],
    weight: Float[Tensor, "O C"],
    bias: Float[Tensor, "O"],
) -> tuple[Float[Tensor, "*batch O"], Float[Tensor, "*batch C"]]:
    """Define `norm_linear` in plain PyTorch, for any device and dtype."""
    return linear(layer_norm(x, norm_weight.shape, norm_weight, norm_bias), weight, bias), x


def norm_linear(
    x: Float[Tensor, "*batch C"],
    norm_weight: Float[Tensor, "C"],
    norm_bias: Float[Tensor, "C"],
    weight: Float[Tensor, "O C"],
    bias: Float[Tensor, "O"],
) -> tuple[Float[Tensor, "*batch O"], Float[Tensor, "*batch C"]]:
    """Map normed rows.

    Returns:
        The mapped rows, of autocast's dtype where it is on; and x, to go on with: the gradients of both then meet in
        one kernel.
    """
    dtype = layer_dtype(x)
    if dtype is None or len(weight) % 16:
        return norm_linear_reference(x, norm_weight, norm_bias, weight, bias)
    from core.ops.norm_linear_kernel import NormLinear

    rows = x.reshape(-1, x.shape[-1])
    mapped, past = NormLinear.apply(rows, norm_weight, norm_bias, weight, bias, dtype)
    return mapped.view(*x.shape[:-1], -1), past.view(x.shape)
