"""EWA projection of 3D Gaussians to the image of a pinhole camera.

A Gaussian with covariance S in camera space becomes the 2D Gaussian with covariance J S J^T + 0.3 I, where J is
the derivative of the perspective map at its centre. Zwicker et al., EWA Volume Splatting (2001), Sec. 4; Kerbl et al.
(2023), Sec. 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.types.gaussians import Gaussians
from smpl_renderer.rotations import quat_to_matrix

NEAR_PLANE = 0.01  # metres; a Gaussian whose centre is at or behind it is not drawn
DILATION = 0.3  # square pixels, added to both variances so that no splat falls between pixel centres
ALPHA_MIN = 1 / 255  # a splat is skipped at pixels where its alpha is below this
ALPHA_MAX = 0.999  # compositing divides by 1 - alpha in its backward pass
FRUSTUM_MARGIN = 0.15  # of the image's size; J is evaluated no farther outside the image than this


@dataclass(frozen=True)
class Splats:
    """Gaussians projected to the image of a camera, in pixels; pixel centres lie at +0.5."""

    means2d: Float[Tensor, "*batch N 2"]
    whiteners: Float[Tensor, "*batch N 3"]
    """(p, q, r) of W = [[p, q], [0, r]], which maps a pixel's offset d from the centre to standard deviations. The
    splat's density is exp(-|W d|^2 / 2), and W^T W is the inverse covariance, the conic. Computed from the conic, the
    density of a long thin splat would be a small difference of large numbers, lost in rounding."""
    depths: Float[Tensor, "*batch N"]
    """Distance along the optical axis, in metres."""
    extents: Float[Tensor, "*batch N 2"]
    """Half the width and height of the box outside of which alpha is below `ALPHA_MIN`; 0 if not drawn. No gradient."""


def project(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "*batch 4 4"],
    Ks: Float[Tensor, "*batch 3 3"],
    width: int,
    height: int,
) -> Splats:
    """Project Gaussians, whose batch axes broadcast with those of the cameras, for images of `width` x `height` pixels.

    Only fx, fy, cx, cy of `Ks` are used. Gaussians at or behind the near plane have finite values and zero gradients.
    """
    rotations, translations = viewmats[..., None, :3, :3], viewmats[..., None, :3, 3]
    centers = _rotate(gaussians.means, rotations) + translations
    in_front = centers[..., 2:] > NEAR_PLANE
    # A substitute one metre ahead keeps the divisions below, and their gradients, finite behind the near plane.
    x, y, z = torch.where(in_front, centers, centers.new_tensor([0.0, 0.0, 1.0])).unbind(-1)

    fx, fy, cx, cy = (Ks[..., None, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    tan_x, tan_y = x / z, y / z
    means2d = torch.stack([fx * tan_x + cx, fy * tan_y + cy], -1)

    # J grows without bound away from the image, where the linear approximation fails: evaluate it near the image.
    tan_x = _clamp(tan_x, (-FRUSTUM_MARGIN * width - cx) / fx, ((1 + FRUSTUM_MARGIN) * width - cx) / fx)
    tan_y = _clamp(tan_y, (-FRUSTUM_MARGIN * height - cy) / fy, ((1 + FRUSTUM_MARGIN) * height - cy) / fy)

    # M = J R_view R S has the rows u and v; its columns are the projected axes of the Gaussian.
    axes = (quat_to_matrix(gaussians.quats) * gaussians.scales[..., None, :]).transpose(-1, -2)
    axes_x, axes_y, axes_z = _rotate(axes, rotations[..., None, :, :]).unbind(-1)
    u = (fx / z)[..., None] * (axes_x - tan_x[..., None] * axes_z)
    v = (fy / z)[..., None] * (axes_y - tan_y[..., None] * axes_z)
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    # det(M M^T) is the sum of M's squared minors (Cauchy-Binet); uu * vv - uv * uv would cancel for thin splats.
    minors = torch.linalg.cross(u, v)
    determinants = (minors * minors).sum(-1) + DILATION * (uu + vv) + DILATION**2
    var_x, var_y = uu + DILATION, vv + DILATION
    sigma_y, area = var_y.sqrt(), determinants.sqrt()
    whiteners = torch.stack([sigma_y / area, -uv / (sigma_y * area), 1 / sigma_y], -1)

    with torch.no_grad():
        drawn = in_front[..., 0] & (gaussians.opacities >= ALPHA_MIN)
        # o exp(-r^2 / 2) = ALPHA_MIN at r standard deviations; the margin ensures that rounding drops no pixel.
        radii = (2 * torch.log(gaussians.opacities.clamp_min(ALPHA_MIN) / ALPHA_MIN)).sqrt()
        extents = radii[..., None] * torch.stack([var_x, var_y], -1).sqrt() * 1.0001 + 0.01
        extents = torch.where(drawn[..., None], extents, 0.0)
    return Splats(means2d, whiteners, z, extents)


def _rotate(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Matrix times vector without matmul, whose reduced-precision modes are too inaccurate for geometry."""
    return (matrices * vectors[..., None, :]).sum(-1)


def _clamp(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, low), high)
