"""The rasterizers behind `rasterize`, by name. Each is loaded when it is first asked for."""

import importlib.util
from collections.abc import Callable

import torch

from core.render.types import Rendering
from smpl_renderer.errors import InputError

Backend = Callable[..., Rendering]
"""Called with what `rasterize` has checked: gaussians [B, N], viewmats [B, C, 4, 4], Ks [B, C, 3, 3], width, height,
background [3], return_depth. All tensors are on one device, and of one dtype: float32 or float64."""


def _load_torch() -> Backend:
    from core.render import torch_backend

    return torch_backend.rasterize


def _load_gsplat() -> Backend:
    if not _has_gsplat():
        raise InputError("backend gsplat is not installed; see requirements-cuda.txt, or choose backend torch")
    if not torch.cuda.is_available():
        raise InputError("backend gsplat needs a CUDA device, and there is none; choose backend torch")
    from core.render import gsplat_backend

    return gsplat_backend.rasterize


def _has_gsplat() -> bool:
    return importlib.util.find_spec("gsplat") is not None


BACKENDS: dict[str, Callable[[], Backend]] = {"torch": _load_torch, "gsplat": _load_gsplat}
"""Names, and what loads them or raises `InputError` where they cannot run."""


def available_backends() -> tuple[str, ...]:
    """The backends that can run here."""
    return ("torch", "gsplat") if torch.cuda.is_available() and _has_gsplat() else ("torch",)


def load_backend(name: str, device: torch.device) -> Backend:
    """The backend of that name; `auto` is the fastest that can run here on tensors of `device`.

    Raises:
        InputError: If there is no such backend, or it cannot run here.
    """
    if name == "auto":
        name = available_backends()[-1] if device.type == "cuda" else "torch"
    if name not in BACKENDS:
        raise InputError(f"no rasterizer is called {name!r}; choose auto or one of {', '.join(BACKENDS)}")
    return BACKENDS[name]()
