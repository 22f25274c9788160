"""Gaussians to pictures."""

import math
import os
from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor

from core.gaussians import Gaussians
from core.render.backends import BACKENDS, available_backends, load_backend
from core.render.types import Rendering

__all__ = ["BACKENDS", "Rendering", "available_backends", "rasterize"]


def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    *,
    background: float | Float[Tensor, "3"] = 1.0,
    backend: str = "auto",
    return_depth: bool = False,
    check: bool | None = None,
) -> Rendering:
    """Draw sets of Gaussians `[*batch]`, each set from its own C cameras. What is drawn: core/render/torch_backend.py.

    Computes in float64 if any input is of it, else in float32, under mixed precision too. Gradients reach every
    attribute of the Gaussians, the background and `viewmats`; with backend `torch`, `Ks` as well.

    Args:
        gaussians: In the world of the cameras.
        viewmats: World to camera, OpenCV axes.
        Ks: Intrinsics in pixels of the `width` x `height` picture, pixel centres at +0.5. Only fx, fy, cx and cy count.
        width: Pixels.
        height: Pixels.
        background: Grey value or colour.
        backend: A name of `BACKENDS`, or `auto`: the fastest that can run here on the device of the Gaussians.
        return_depth: Fill in `Rendering.depths`.
        check: Look for NaN and infinities first, which waits for the device; by default if HGG_CHECK=1 is set.
    Raises:
        ValueError: If shapes, dtypes or devices do not fit, or the check finds something; names the argument.
        InputError: If the backend is unknown or cannot run here.
    """
    inputs = {f"gaussians.{f.name}": getattr(gaussians, f.name) for f in fields(Gaussians)}
    inputs |= {"viewmats": viewmats, "Ks": Ks}
    _check_layout(inputs)
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1 pixel, got {width} x {height}")
    if check if check is not None else os.environ.get("HGG_CHECK", "0") not in ("", "0"):
        _check_values(inputs)

    device = viewmats.device
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in inputs.values()) else torch.float32
    if isinstance(background, Tensor):
        background = background.to(device, dtype)
    else:
        background = torch.full((), background, dtype=dtype, device=device)  # a copy would wait for the device
    if background.shape not in ((), (3,)):
        raise ValueError(f"background must be a number or a colour [3], got {list(background.shape)}")

    *batch, num_cameras = viewmats.shape[:-2]
    num_sets = math.prod(batch)
    flat = gaussians.to(dtype).map(lambda x: x.reshape(num_sets, *x.shape[len(batch) :]))
    rendering = load_backend(backend, device)(
        flat,
        viewmats.to(dtype).reshape(num_sets, num_cameras, 4, 4),
        Ks.to(dtype).reshape(num_sets, num_cameras, 3, 3),
        width,
        height,
        background.expand(3),
        return_depth,
    )
    return rendering.map(lambda x: x.reshape(*batch, *x.shape[1:]))


def _check_layout(inputs: dict[str, Tensor]) -> None:
    """Shapes, dtypes and devices."""
    batch, count = inputs["gaussians.opacities"].shape[:-1], inputs["gaussians.opacities"].shape[-1]
    num_cameras = inputs["viewmats"].shape[-3] if inputs["viewmats"].ndim >= 3 else "C"
    axes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,)}
    expected = {f"gaussians.{name}": (count, *tail) for name, tail in axes.items()}
    expected |= {"viewmats": (num_cameras, 4, 4), "Ks": (num_cameras, 3, 3)}
    device = inputs["viewmats"].device
    for name, value in inputs.items():
        shape = (*batch, *expected[name])
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{name} must be [{', '.join(map(str, shape))}] to fit gaussians.opacities "
                f"{list(inputs['gaussians.opacities'].shape)}, got {list(value.shape)}"
            )
        if 0 in shape[: len(batch)] or num_cameras == 0:
            raise ValueError(f"{name} {list(shape)} holds no view to draw")
        if not value.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {value.dtype}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, viewmats on {device}; move them to one device")


def _check_values(inputs: dict[str, Tensor]) -> None:
    for name, value in inputs.items():
        bad = value.numel() - int(value.isfinite().sum())
        if bad:
            raise ValueError(f"{name} has {bad} of {value.numel()} values that are NaN or infinite")
