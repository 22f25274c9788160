"""Selection of the compute device, and memory of the CPU."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Literal

from smpl_renderer.errors import InputError

if TYPE_CHECKING:  # modules of options import this one, and must not wait for PyTorch
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)


def pick_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` is CUDA if it is available, else the CPU.

    Raises:
        InputError: If `name` is `cuda` and no CUDA device is usable.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no CUDA device is usable"
        raise InputError(f"--device cuda: {reason}; use --device cpu, or install a CUDA build of PyTorch and a driver")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system, where the C library is glibc.

    By default, each large tensor on a CPU is new memory, whose pages the system clears at their first use: a quarter of
    the time of making an avatar. The peak memory grows by a seventh.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
