"""Posing as GPU kernels in Triton; what they compute is defined in plain PyTorch elsewhere in this package.

Whether any kernels of this project run is decided here, too.
"""

import functools
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

_wanted = ContextVar("kernels_wanted", default=True)


@contextmanager
def reference_operations() -> Iterator[None]:
    """Inside, the references compute everything but rasterization, which has its backends: to compare with."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def kernels_wanted() -> bool:
    """Whether the caller is outside `reference_operations`."""
    return _wanted.get()


def use_kernels() -> bool:
    """Whether kernels can run and are wanted."""
    return _wanted.get() and can_launch()


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels do for these inputs: float32 on CUDA, not empty, and no gradient is asked of any of them."""
    if any(not x.is_cuda or x.dtype != torch.float32 or x.numel() == 0 for x in tensors):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    return use_kernels()


@functools.cache  # asked many times in every step
def can_launch() -> bool:
    """Whether there is Triton and what it builds its launcher with: a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    return importlib.util.find_spec("triton") is not None and compiler is not None and headers.is_file()


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
