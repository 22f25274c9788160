"""Whether a kernel can take what a function was given."""

import torch
from torch import Tensor

from smpl_renderer.dispatch import use_kernels

DTYPES = torch.float32, torch.bfloat16, torch.float16
"""Of kernels; the references take float64, too."""


def kernels_take(*tensors: Tensor) -> bool:
    """Whether all are of one dtype that kernels have, on a CUDA device, and kernels can run there."""
    first = tensors[0]
    fitting = first.dtype in DTYPES and all(x.is_cuda and x.dtype == first.dtype for x in tensors)
    return fitting and use_kernels()


def layer_dtype(x: Tensor) -> torch.dtype | None:
    """In which dtype the kernels of a layer multiply rows x; None if they do not take them.

    They take what autocast makes of a network on a CUDA device: rows in float32, products in half precision.
    """
    if not (kernels_take(x) and x.dtype == torch.float32 and torch.is_autocast_enabled("cuda")):
        return None
    dtype, channels = torch.get_autocast_dtype("cuda"), x.shape[-1]
    return dtype if dtype in (torch.bfloat16, torch.float16) and channels in (16, 32, 64, 128) else None
