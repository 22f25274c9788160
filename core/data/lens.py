"""Lens distortion: OpenCV's two models, and the map that undoes it when images are read.

The undistorted image has the size and K of the distorted one. Points `x y` are at depth 1 in the camera; pixel centres
are at +0.5. Source of the formulas: OpenCV documentation, modules calib3d and calib3d::fisheye.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

LENS_MODELS = ("opencv", "fisheye")
OPENCV_COUNTS = (4, 5, 8, 12, 14)
NODE_SPACING = 8
"""Pixels of the calibrated image between the nodes of a map; linear interpolation between them errs by some hundredths
of a pixel with strong distortion."""
OUTSIDE = -1e6
"""Distorted pixel coordinates where the model is not invertible: outside of every image."""


@dataclass(frozen=True)
class Lens:
    """The distortion of one camera.

    `opencv`: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]]. `fisheye`: k1 k2 k3 k4 of OpenCV's fisheye module.

    Raises:
        ValueError: If the model is unknown, or takes another number of coefficients.
    """

    model: Literal["opencv", "fisheye"]
    coefficients: tuple[float, ...]

    def __post_init__(self):
        if self.model not in LENS_MODELS:
            raise ValueError(f"model must be one of {', '.join(LENS_MODELS)}, got {self.model}")
        counts = OPENCV_COUNTS if self.model == "opencv" else (4,)
        if len(self.coefficients) not in counts:
            expected = ", ".join(map(str, counts))
            raise ValueError(f"{self.model} takes {expected} coefficients, got {len(self.coefficients)}")
        if not np.isfinite(self.coefficients).all():
            raise ValueError("coefficients must be finite")

    def distort(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Distorted positions of ideal points."""
        return _distort_fisheye(points, self.coefficients) if self.model == "fisheye" else self._distort_opencv(points)

    def _distort_opencv(self, points: Tensor) -> Tensor:
        k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tx, ty = self.coefficients + (0.0,) * (
            14 - len(self.coefficients)
        )
        x, y = points.unbind(-1)
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        x_d = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + r2 * (s1 + r2 * s2)
        y_d = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + r2 * (s3 + r2 * s4)
        if tx == 0 and ty == 0:
            return torch.stack([x_d, y_d], -1)
        tilted = torch.stack([x_d, y_d, torch.ones_like(x_d)], -1) @ _tilt(tx, ty).to(points).mT
        return tilted[..., :2] / tilted[..., 2:]

    def valid_radius(self, largest: float) -> float:
        """Radius up to which distorted radii grow with ideal ones, at most `largest`; beyond it images repeat."""
        radii = torch.linspace(0, largest, 2000, dtype=torch.float64)
        straight = Lens(self.model, (*self.coefficients[:2], 0.0, 0.0, *self.coefficients[4:8]))
        lens = self if self.model == "fisheye" else straight  # radial terms only
        grows = lens.distort(torch.stack([radii, torch.zeros_like(radii)], -1))[:, 0].diff() > 0
        return largest if grows.all() else float(radii[int(grows.int().argmin())])


def _distort_fisheye(points: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    k1, k2, k3, k4 = coefficients
    r = points.norm(dim=-1, keepdim=True)
    theta = r.atan()
    t2 = theta * theta
    theta_d = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    return points * torch.where(r > 1e-9, theta_d / r.clamp_min(1e-9), torch.ones_like(r))


def _tilt(tx: float, ty: float) -> Float[Tensor, "3 3"]:
    """Projection onto a sensor that is tilted about x and y, in radians."""
    cx, sx, cy, sy = np.cos(tx), np.sin(tx), np.cos(ty), np.sin(ty)
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    R = about_y @ about_x
    return torch.from_numpy(np.array([[R[2, 2], 0, -R[0, 2]], [0, R[2, 2], -R[1, 2]], [0, 0, 1]]) @ R)


def distort_pixels(lens: Lens, K: Float[Tensor, "3 3"], pixels: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Positions in the distorted image of pixels of the ideal one; both in pixels of the size that K is for."""
    K = K.to(pixels)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    points = (homogeneous @ torch.linalg.inv(K).mT)[..., :2]
    distorted = lens.distort(points)
    return torch.cat([distorted, torch.ones_like(distorted[..., :1])], -1) @ K.mT[:, :2]


@lru_cache(maxsize=128)
def _node_map(
    lens: Lens, K: tuple[float, ...], width: int, height: int
) -> tuple[Float[Tensor, "1 2 h w"], tuple[int, int]]:
    """Distorted pixel coordinates at nodes every `NODE_SPACING` pixels of the undistorted image, from its corner on."""
    columns, rows = (int(np.ceil(length / NODE_SPACING)) + 1 for length in (width, height))
    y, x = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    pixels = torch.stack([x, y], -1) * NODE_SPACING
    matrix = torch.tensor(K, dtype=torch.float64).view(3, 3)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    radii = (homogeneous @ torch.linalg.inv(matrix).mT)[..., :2].norm(dim=-1)
    distorted = distort_pixels(lens, matrix, pixels)
    distorted[radii > lens.valid_radius(1.01 * float(radii.max()))] = OUTSIDE
    return distorted.permute(2, 0, 1)[None].float(), (columns, rows)


def undistort(
    image: np.ndarray,
    lens: Lens,
    K: Float[Tensor, "3 3"],
    size: tuple[int, int],
    exact: tuple[float, float],
    region: tuple[int, int, int, int],
) -> np.ndarray:
    """Undistort a rectangle of an image, bilinearly; 0 where the image shows nothing.

    Args:
        image: Distorted, whole, [H, W, channels] uint8.
        lens: Distortion.
        K: Intrinsics of the calibrated image.
        size: Width and height of the calibrated image.
        exact: Width and height of `image` at its resolution, which need not be whole (JPEG decoded at 1/2).
        region: Left, top, right and bottom of the rectangle, in pixels of `image`; it may reach over the borders.
    Returns:
        [bottom - top, right - left, channels] uint8.
    """
    left, top, right, bottom = region
    scale = torch.tensor([size[0] / exact[0], size[1] / exact[1]], dtype=torch.float32)
    nodes, (columns, rows) = _node_map(lens, tuple(K.flatten().tolist()), *size)
    y, x = torch.meshgrid(
        torch.arange(top, bottom, dtype=torch.float32), torch.arange(left, right, dtype=torch.float32), indexing="ij"
    )
    pixels = (torch.stack([x, y], -1) + 0.5) * scale  # of the undistorted calibrated image
    last = torch.tensor([columns - 1, rows - 1], dtype=torch.float32) * NODE_SPACING
    distorted = grid_sample(nodes, (2 * pixels / last - 1)[None], align_corners=True, padding_mode="border")
    inside = ((pixels >= 0) & (pixels <= torch.tensor(size, dtype=torch.float32))).all(-1)
    source = distorted[0].permute(1, 2, 0) / scale  # of `image`
    shape = torch.tensor([image.shape[1], image.shape[0]], dtype=torch.float32)
    # Copies: arrays of Pillow are read-only, which torch warns about.
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    sampled = grid_sample(values, (2 * source / shape - 1)[None], align_corners=False, padding_mode="zeros")[0]
    return (sampled * inside).round().to(torch.uint8).permute(1, 2, 0).numpy()
