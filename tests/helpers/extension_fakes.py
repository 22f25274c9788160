"""Fakes of diff-gaussian-rasterization and its forks: their interface and conventions, in plain PyTorch.

They are slow and run on any device, so that the adapter can be tested without the extension. Matrices act on row
vectors, pixel centres are integers, quaternions are not normalized, and the Jacobian is bounded symmetrically.
"""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor


class OriginalSettings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool


class AntialiasingSettings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool
    antialiasing: bool


class UnknownSettings(NamedTuple):
    image_height: int
    kernel_size: float


def fake_extension(returns: str, settings: type = OriginalSettings) -> ModuleType:
    """A module whose rasterizer returns image and radii and, unless `returns` is "colors", the extras that it names."""

    class GaussianRasterizer(torch.nn.Module):
        def __init__(self, raster_settings):
            super().__init__()
            self.raster_settings = raster_settings

        def forward(
            self,
            means3D,
            means2D,
            opacities,
            shs=None,
            colors_precomp=None,
            scales=None,
            rotations=None,
            cov3D_precomp=None,
        ):
            assert shs is None and (scales is None) == (rotations is None) != (cov3D_precomp is None)
            assert means2D.shape == means3D.shape and opacities.shape == (len(means3D), 1)
            for x in (means3D, colors_precomp, scales, rotations):
                assert x is None or (x.is_contiguous() and x.dtype == torch.float32)
            assert not self.raster_settings.viewmatrix.requires_grad  # the extension gives it no gradient
            covariances = covariances_of(scales, rotations) if cov3D_precomp is None else symmetric(cov3D_precomp)
            outputs = composite(self.raster_settings, means3D, covariances, opacities[:, 0], colors_precomp)
            radii = torch.ones(len(means3D), dtype=torch.int32)
            extras = {"colors": (), "inverse depth": outputs[1:2], "depth and alpha": outputs[1:]}[returns]
            return outputs[0], radii, *extras

    module = ModuleType("diff_gaussian_rasterization")
    module.GaussianRasterizer, module.GaussianRasterizationSettings = GaussianRasterizer, settings
    return module


def covariances_of(scales: Tensor, quats: Tensor) -> Tensor:
    w, x, y, z = quats.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    axes = torch.stack([torch.stack(row, -1) for row in rows], -2) * scales[:, None, :]
    return axes @ axes.mT


def symmetric(six: Tensor) -> Tensor:
    xx, xy, xz, yy, yz, zz = six.unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))


def composite(s, means: Tensor, covariances: Tensor, opacities: Tensor, colors: Tensor) -> tuple[Tensor, ...]:
    """Image [3, H, W] on the background, and the weighted sums of depths and alphas [1, H, W]."""
    homogeneous = torch.cat([means, torch.ones_like(means[:, :1])], -1)
    x, y, z, _ = (homogeneous @ s.viewmatrix).unbind(-1)
    clip = homogeneous @ s.projmatrix
    size = means.new_tensor([s.image_width, s.image_height])
    centers = ((clip[:, :2] / clip[:, 3:] + 1) * size - 1) / 2
    focal_x, focal_y = s.image_width / (2 * s.tanfovx), s.image_height / (2 * s.tanfovy)
    tan_x = (x / z).clamp(-1.3 * s.tanfovx, 1.3 * s.tanfovx)
    tan_y = (y / z).clamp(-1.3 * s.tanfovy, 1.3 * s.tanfovy)
    zero = torch.zeros_like(z)
    J = torch.stack([focal_x / z, zero, -focal_x * tan_x / z, zero, focal_y / z, -focal_y * tan_y / z], -1)
    T = J.unflatten(-1, (2, 3)) @ s.viewmatrix[:3, :3].T
    conics = torch.linalg.inv(T @ covariances @ T.mT + 0.3 * torch.eye(2))

    rows, columns = torch.arange(s.image_height, dtype=means.dtype), torch.arange(s.image_width, dtype=means.dtype)
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # [H, W, (x, y)]
    transmittance = torch.ones(s.image_height, s.image_width)
    image, depth = torch.zeros(3, *transmittance.shape), torch.zeros_like(transmittance)
    for i in z.argsort().tolist():
        if z[i] <= 0.2:
            continue
        offsets = pixels - centers[i]
        alpha = (opacities[i] * torch.exp(-0.5 * ((offsets @ conics[i]) * offsets).sum(-1))).clamp(max=0.99)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        image, depth = image + transmittance * alpha * colors[i, :, None, None], depth + transmittance * alpha * z[i]
        transmittance = transmittance * (1 - alpha)
    return image + transmittance * s.bg[:, None, None], depth[None], 1 - transmittance[None]
