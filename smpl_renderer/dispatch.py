"""The choice between Triton kernels and their references in plain PyTorch, made here for the whole project."""

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

FLOAT_TYPES = torch.float32, torch.bfloat16, torch.float16
"""Data types of kernels that convert to float32 on load; references also take float64."""

_wanted = ContextVar("kernels_wanted", default=True)


@contextmanager
def reference_operations() -> Iterator[None]:
    """Run references instead of kernels inside the `with` block; rasterizers are chosen by their backend instead."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def kernels_wanted() -> bool:
    """True outside of `reference_operations`."""
    return _wanted.get()


@functools.cache  # called many times per training step
def can_launch() -> bool:
    """True if Triton and what it compiles its launcher with, a C compiler and Python's headers, are installed."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    return importlib.util.find_spec("triton") is not None and compiler is not None and headers.is_file()


def can_use_kernels(
    *inputs: Tensor, constants: Sequence[Tensor] = (), dtypes: Collection[torch.dtype] | None = (torch.float32,)
) -> bool:
    """True if a kernel can stand in for its reference with these tensors.

    All tensors must be on a CUDA device, not be empty, and share one of the data types. Kernels must be wanted
    (`reference_operations`) and Triton installed (`can_launch`).

    Args:
        inputs: Tensors that the kernel differentiates, or that never need a gradient.
        constants: Tensors for which the kernel has no gradient; none may require one while gradients are enabled.
        dtypes: Data types that the kernel takes; None stands for any, which need not be the same.
    """
    tensors = (*inputs, *constants)
    if not _wanted.get() or any(not x.is_cuda or x.numel() == 0 for x in tensors):
        return False
    if dtypes is not None and (tensors[0].dtype not in dtypes or any(x.dtype != tensors[0].dtype for x in tensors)):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in constants):
        return False
    return can_launch()


def layer_dtype(x: Tensor) -> torch.dtype | None:
    """Data type of the matrix products in a layer's kernels for rows `x`; None if the reference has to run.

    The kernels do what autocast does with a layer on CUDA: float32 rows in and out, products in half precision.
    """
    if not (torch.is_autocast_enabled("cuda") and can_use_kernels(x)):
        return None
    dtype, channels = torch.get_autocast_dtype("cuda"), x.shape[-1]
    return dtype if dtype in (torch.bfloat16, torch.float16) and channels in (16, 32, 64, 128) else None
