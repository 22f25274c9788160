"""How kernels multiply: the element type and the precision of their matrix products."""

import os

import torch
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ELEMENT = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def dot_element(dtype: torch.dtype) -> tl.dtype:
    """What operands of a product are rounded to. The interpreter multiplies bf16 wrongly, so there it is float32."""
    return tl.float32 if INTERPRETED else ELEMENT[dtype]


def dot_precision(dtype: torch.dtype) -> str:
    """How float32 factors are multiplied that come from inputs of `dtype`.

    TF32 keeps 11 bits: eight times as fine as bf16, of which it is exact, and no coarser than fp16.
    """
    return "ieee" if dtype == torch.float32 or INTERPRETED else "tf32"
