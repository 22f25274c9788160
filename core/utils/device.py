"""Selection of the compute device."""

from typing import Literal

import torch

from smpl_renderer.errors import InputError

DeviceName = Literal["auto", "cpu", "cuda"]


def pick_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` is CUDA if it is available, else the CPU.

    Raises:
        InputError: If `name` is `cuda` and no CUDA device is usable.
    """
    if name == "cuda" and not torch.cuda.is_available():
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no CUDA device is usable"
        raise InputError(f"--device cuda: {reason}; use --device cpu, or install a CUDA build of PyTorch and a driver")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
