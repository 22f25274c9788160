"""Element type and precision of matrix products in kernels."""

import os

import torch
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ELEMENT = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def dot_element(dtype: torch.dtype) -> tl.dtype:
    """Type that the operands of a product are rounded to: float32 in the interpreter, which multiplies bf16 wrongly."""
    return tl.float32 if INTERPRETED else ELEMENT[dtype]


def dot_precision(dtype: torch.dtype) -> str:
    """Precision of a product of float32 factors that were computed from inputs of `dtype`.

    TF32 keeps 11 bits, as many as fp16 and three more than bf16.
    """
    return "ieee" if dtype == torch.float32 or INTERPRETED else "tf32"
