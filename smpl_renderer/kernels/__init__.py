"""Posing as GPU kernels in Triton; what they compute is defined in plain PyTorch elsewhere in this package."""

import functools
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import Tensor


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels do for these inputs: float32 on CUDA, not empty, and no gradient is asked of any of them."""
    if any(not x.is_cuda or x.dtype != torch.float32 or x.numel() == 0 for x in tensors):
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False
    return can_launch()


@functools.cache
def can_launch() -> bool:
    """Whether there is Triton and what it builds its launcher with: a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    return importlib.util.find_spec("triton") is not None and compiler is not None and headers.is_file()
