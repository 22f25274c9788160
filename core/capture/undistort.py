"""Images without lens distortion: every pixel is fetched from where the lens has put it."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.lens import Lens


def distort(points: Float[np.ndarray, "*batch 2"], lens: Lens) -> Float[np.ndarray, "*batch 2"]:
    """Where the lens puts points of the plane at depth 1.

    Source: OpenCV's documentation of `projectPoints` and of `fisheye::distortPoints`.
    """
    x, y = points[..., 0], points[..., 1]
    if lens.model == "fisheye":
        radius = np.hypot(x, y)
        angle = np.arctan(radius)
        k = lens.coefficients
        bent = angle * (1 + sum(c * angle ** (2 * i) for i, c in enumerate(k, start=1)))
        factor = np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)
        return points * factor[..., None]
    c = (*lens.coefficients, *[0.0] * (14 - len(lens.coefficients)))
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tx, ty = c
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + s1 * r2 + s2 * r2 * r2
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y + s3 * r2 + s4 * r2 * r2
    if not (tx or ty):
        return np.stack([u, v], -1)
    return _tilted(u, v, tx, ty)


def _tilted(u: np.ndarray, v: np.ndarray, tx: float, ty: float) -> np.ndarray:
    """A sensor that is turned by tx about x and ty about y."""
    Rx = np.array([[1, 0, 0], [0, np.cos(tx), np.sin(tx)], [0, -np.sin(tx), np.cos(tx)]])
    Ry = np.array([[np.cos(ty), 0, -np.sin(ty)], [0, 1, 0], [np.sin(ty), 0, np.cos(ty)]])
    R = Ry @ Rx
    M = np.array([[R[2, 2], 0, -R[0, 2]], [0, R[2, 2], -R[1, 2]], [0, 0, 1]]) @ R
    w = np.stack([u, v, np.ones_like(u)], -1) @ M.T
    return w[..., :2] / w[..., 2:]


def undistort_pixels(
    pixels: Float[np.ndarray, "*batch 2"], K: Float[np.ndarray, "3 3"], lens: Lens, steps: int = 20
) -> Float[np.ndarray, "*batch 2"]:
    """Where pixels of the distorted image are in the undistorted one with the same K: fixed-point iteration."""
    focal, center = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
    bent = (pixels - center) / focal
    rays = bent.copy()
    for _ in range(steps):
        rays = rays - (distort(rays, lens) - bent)
    return rays * focal + center


class Undistortion:
    """The map of one camera; the image keeps its size and K."""

    def __init__(self, K: Float[np.ndarray, "3 3"], lens: Lens, width: int, height: int):
        ys, xs = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(xs - K[0, 2]) / K[0, 0], (ys - K[1, 2]) / K[1, 1]], -1)
        rays[..., 0] -= K[0, 1] / K[0, 0] * rays[..., 1]
        bent = distort(rays, lens)
        pixels = bent * [K[0, 0], K[1, 1]] + K[:2, 2]
        pixels[..., 0] += K[0, 1] * bent[..., 1]
        self._grid: Tensor = torch.from_numpy(pixels / [width, height] * 2 - 1).float()[None]

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The undistorted image; beyond the recorded one its edge is repeated."""
        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        fetched = torch.nn.functional.grid_sample(
            planes, self._grid, mode="bicubic", padding_mode="border", align_corners=False
        )
        return fetched[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def mask(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """An undistorted mask, 0 beyond the recorded image."""
        plane = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        fetched = torch.nn.functional.grid_sample(plane, self._grid, mode="bilinear", align_corners=False)
        return fetched[0, 0].round().to(torch.uint8).numpy()
