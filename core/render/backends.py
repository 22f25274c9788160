"""Rasterization backends by name. Each is imported at its first use."""

import functools
import importlib
import importlib.util
import logging
import os
import threading
from collections.abc import Callable

import torch

from core.render.rendering import Rendering
from smpl_renderer.dispatch import can_launch
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

Backend = Callable[..., Rendering]
"""A function of gaussians [*batch, N], viewmats [*batch, C, 4, 4], Ks [*batch, C, 3, 3], width, height, background [3]
and return_depth. `rasterize` has checked them: tensors are on one device, of one dtype, float32 or float64."""


def _load_torch() -> Backend:
    from core.render import torch_backend

    return torch_backend.rasterize


def _load_numba() -> Backend:
    if not _has_numba():
        raise InputError(
            "backend numba is not installed (or switched off by NUMBA_DISABLE_JIT); run `pip install numba`, or choose "
            "backend torch"
        )
    try:
        from core.render import numba_backend
    except (ImportError, OSError) as error:  # a version that does not support the installed NumPy
        reason = str(error).partition("\n")[0]
        raise InputError(f"backend numba is installed but cannot be loaded: {reason}; choose backend torch") from error
    return numba_backend.rasterize


@functools.cache  # called for every rendering
def _has_numba() -> bool:
    is_disabled = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")  # kernels would run in plain Python
    return importlib.util.find_spec("numba") is not None and not is_disabled


@functools.cache  # called for every rendering
def _can_load_numba() -> bool:
    """True if numba is installed and works; if it does not work, the reason is logged once."""
    try:
        _load_numba()
    except InputError as error:
        if _has_numba():
            logger.warning("%s", error)
        return False
    return True


def _load_gsplat() -> Backend:
    return _load_peer("gsplat", _has_gsplat())


def _load_diff_gaussian_rasterization() -> Backend:
    return _load_peer("diff_gaussian_rasterization", _has_diff_gaussian_rasterization())


def _load_peer(name: str, installed: bool) -> Backend:
    """Adapter to the CUDA rasterizer of the package `name`."""
    if not installed:
        raise InputError(f"backend {name} is not installed; see requirements-cuda.txt, or choose backend torch")
    if not torch.cuda.is_available():
        raise InputError(f"backend {name} needs a CUDA device, and none is available; choose backend torch")
    try:
        return importlib.import_module(f"core.render.{name}_backend").rasterize
    except (ImportError, OSError) as error:  # compiled for another PyTorch version, or not compiled
        reason = str(error).partition("\n")[0]
        raise InputError(f"backend {name} is installed but cannot be loaded: {reason}; choose backend torch") from error


@functools.cache  # called for every rendering
def _has_gsplat() -> bool:
    return importlib.util.find_spec("gsplat") is not None


@functools.cache  # called for every rendering
def _has_diff_gaussian_rasterization() -> bool:
    return importlib.util.find_spec("diff_gaussian_rasterization") is not None


def _load_triton() -> Backend:
    if not _has_triton():
        raise InputError("backend triton is not installed, or not available for this system; choose backend torch")
    if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"):
        raise InputError("backend triton needs a CUDA device, and none is available; choose backend torch")
    if torch.cuda.is_available() and not can_launch():
        raise InputError(
            "backend triton needs a C compiler and Python's headers (on Debian and Ubuntu: gcc and python3-dev); "
            "install them, or choose backend torch"
        )
    from core.render import triton_backend

    return triton_backend.rasterize


@functools.cache  # called for every rendering
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


BACKENDS: dict[str, Callable[[], Backend]] = {
    "torch": _load_torch,
    "numba": _load_numba,
    "triton": _load_triton,
    "gsplat": _load_gsplat,
    "diff_gaussian_rasterization": _load_diff_gaussian_rasterization,
}
"""Loaders of the backends by name; they raise `InputError` where a backend cannot run."""
WITH_WEIGHTS = ("numba", "triton")
"""Backends that fill in `Rendering.weights` for float32."""


def available_backends(device: torch.device | None = None) -> tuple[str, ...]:
    """Names of the backends that can run on a device; by default on the GPU or, if there is none, on the CPU."""
    if not torch.cuda.is_available() or (device is not None and device.type == "cpu"):
        return ("torch", "numba") if _can_load_numba() else ("torch",)
    installed = {
        "torch": True,
        "triton": can_launch(),
        "gsplat": _has_gsplat(),
        "diff_gaussian_rasterization": _has_diff_gaussian_rasterization(),
    }
    return tuple(name for name, present in installed.items() if present)


def backend_name(name: str, device: torch.device) -> str:
    """Resolve `auto` to the fastest backend for tensors on `device`; other names are returned as they are."""
    if name != "auto":
        return name
    if device.type == "cpu" and _can_load_numba():
        return "numba"
    if device.type != "cuda":
        return "torch"
    return next(name for name in ("triton", "gsplat", "torch") if name in available_backends())


def load_backend(name: str, device: torch.device) -> Backend:
    """Load the backend of that name; `auto` is resolved by `backend_name`.

    Raises:
        InputError: If the backend is unknown or cannot run on this machine.
    """
    name = backend_name(name, device)
    if name not in BACKENDS:
        raise InputError(f"unknown rasterizer {name!r}; choose auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name]()


def prepare_backend(name: str, device: torch.device) -> None:
    """Check that a backend can run, and start what its first rendering would have to wait for.

    The kernels of `numba` are compiled or loaded in a thread; the first time on a machine, this takes some seconds.

    Raises:
        InputError: As `load_backend`.
    """
    load_backend(name, device)
    if backend_name(name, device) == "numba":
        from core.render.numba_backend import warm_up

        threading.Thread(target=warm_up).start()  # not a daemon: a compiler must not run while the process ends
