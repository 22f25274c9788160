"""Rendering of Gaussians to images: `rasterize`, and the backends that it chooses from."""

import os

import torch
from jaxtyping import Float
from torch import Tensor

from core.render.backends import BACKENDS, WITH_WEIGHTS, available_backends, backend_name, load_backend
from core.render.rendering import Rendering
from core.types.gaussians import Gaussians

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
    return_weights: bool = False,
    check: bool | None = None,
) -> Rendering:
    """Render sets of Gaussians `[*batch]`, each set from its own C cameras. Definition: core/render/torch_backend.py.

    The result is float64 if any input is float64, else float32, also under mixed precision; only backend `torch`
    computes in float64. Gradients reach every attribute of the Gaussians, the background and `viewmats`; with the
    backends `torch` and `triton`, `Ks` as well. Pad sets of unequal size at their ends with Gaussians of opacity 0:
    `triton` skips blocks of them.

    Args:
        gaussians: In the world frame of the cameras.
        viewmats: World to camera, OpenCV axes.
        Ks: Intrinsics in pixels of the `width` x `height` image, pixel centres at +0.5. Only fx, fy, cx, cy are used.
        width: Width of the images in pixels.
        height: Height of the images in pixels.
        background: Grey value or colour.
        backend: A name in `BACKENDS`, or `auto`: the fastest backend available on the device of the Gaussians.
        return_depth: Fill in `Rendering.depths`.
        return_weights: Fill in `Rendering.weights` if the backend can (`WITH_WEIGHTS`); otherwise it stays None.
        check: Reject NaN and infinities, which synchronises with the device; by default only if HGG_CHECK=1 is set.
    Raises:
        ValueError: If shapes, dtypes or devices do not fit, or the check fails; the message names the argument.
        InputError: If the backend is unknown or cannot run here.
    """
    _check_layout(gaussians, viewmats, Ks)
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1 pixel, got {width} x {height}")
    if check if check is not None else os.environ.get("HGG_CHECK", "0") not in ("", "0"):
        _check_values(_by_name(gaussians, viewmats, Ks) | {"background": torch.as_tensor(background)})

    device = viewmats.device
    dtypes = {viewmats.dtype, Ks.dtype, *(value.dtype for value in vars(gaussians).values())}
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    if isinstance(background, Tensor):
        if background.shape not in ((), (3,)):
            raise ValueError(f"background must be a number or a colour [3], got {list(background.shape)}")
        background = background.to(device, dtype).expand(3)
    else:
        background = torch.full((3,), background, dtype=dtype, device=device)  # a copy would synchronise
    if dtypes != {dtype}:
        gaussians, viewmats, Ks = gaussians.to(dtype), viewmats.to(dtype), Ks.to(dtype)
    options = {"return_weights": True} if return_weights and backend_name(backend, device) in WITH_WEIGHTS else {}
    draw = load_backend(backend, device)
    return draw(gaussians, viewmats, Ks, width, height, background, return_depth, **options)


def _check_layout(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor) -> None:
    """Raise ValueError unless shapes, dtypes and devices fit."""
    batch, count = gaussians.batch_shape, gaussians.count
    num_cameras = viewmats.shape[-3] if viewmats.ndim >= 3 else "C"
    expected = ((count, 3), (count, 4), (count, 3), (count,), (count, 3), (num_cameras, 4, 4), (num_cameras, 3, 3))
    device = viewmats.device
    for (name, value), axes in zip(_by_name(gaussians, viewmats, Ks).items(), expected):
        shape = (*batch, *axes)
        if value.shape != shape:
            raise ValueError(
                f"{name} must be [{', '.join(map(str, shape))}] to fit gaussians.opacities "
                f"{list(gaussians.opacities.shape)}, got {list(value.shape)}"
            )
        if not value.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {value.dtype}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, viewmats on {device}; move them to one device")
    if 0 in batch or num_cameras == 0:
        raise ValueError(f"viewmats {list(viewmats.shape)} hold no view to render; pass at least one camera")


def _by_name(gaussians: Gaussians, viewmats: Tensor, Ks: Tensor) -> dict[str, Tensor]:
    """Input tensors by the names that messages use."""
    inputs = {f"gaussians.{name}": value for name, value in vars(gaussians).items()}
    return inputs | {"viewmats": viewmats, "Ks": Ks}


def _check_values(inputs: dict[str, Tensor]) -> None:
    """Raise ValueError if any value is NaN or infinite."""
    for name, value in inputs.items():
        bad = value.numel() - int(value.isfinite().sum())
        if bad:
            raise ValueError(f"{name} has {bad} of {value.numel()} values that are NaN or infinite")
