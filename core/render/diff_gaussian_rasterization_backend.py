"""Adapter to diff-gaussian-rasterization (Kerbl et al., 2023) and to forks that kept its interface, on CUDA.

Its kernels render one view at a time, describe a camera by tan(field of view / 2) and two matrices for row vectors, and
place pixel centres on integers. Differences from the definition:

- a Gaussian whose centre is at 0.2 m or nearer is not drawn, and splats end at tiles 3 standard deviations away;
- alpha is at most 0.99, and a pixel stops before the splat that would reduce its transmittance below 1e-4;
- single precision, and no gradient reaches the intrinsics;
- it runs on CUDA's default stream and synchronises once per view.

Forks that return (colour, radii, depth, alpha), as ashawkey's does, provide alpha and depth in one pass. The original
has no alpha: each view is then rendered a second time with the colours (1, depth, 0).
"""

import math
from dataclasses import dataclass, replace

import torch
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from jaxtyping import Float
from torch import Tensor

from core.render.projection import FRUSTUM_MARGIN
from core.render.rendering import Rendering, compose, one_batch_axis
from core.render.torch_backend import rasterize as rasterize_reference
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import quat_to_matrix

REACH = 1.3 / 2
"""Distance from the principal point, as a share of the image size, up to which the kernels evaluate J, the derivative
of the perspective map."""


@dataclass(frozen=True)
class PaddedImage:
    """An image that contains the requested one, and its intrinsics; all in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    left: int = 0
    """First column of the requested image."""
    top: int = 0
    """First row of the requested image."""

    @property
    def projection(self) -> list[list[float]]:
        """P, which maps a point in camera space to (x, y, z, w) with w = its depth.

        The pixel is at ((x / w + 1) width - 1) / 2 with pixel centres on integers: half a pixel less than here.
        """
        return [
            [2 * self.fx / self.width, 0.0, 2 * self.cx / self.width - 1, 0.0],
            [0.0, 2 * self.fy / self.height, 2 * self.cy / self.height - 1, 0.0],
            [0.0, 0.0, 1.0, 0.0],  # z is unused
            [0.0, 0.0, 1.0, 0.0],
        ]


@one_batch_axis
def rasterize(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
) -> Rendering:
    """Render `gaussians` (batch axis B), view by view; the result has the dtype of the inputs."""
    if not viewmats.is_cuda:
        raise InputError(
            f"backend diff_gaussian_rasterization renders CUDA tensors, got tensors on {viewmats.device}; "
            "choose backend torch"
        )
    if gaussians.count == 0:  # the extension then returns black on any background
        return rasterize_reference(gaussians, viewmats, Ks, width, height, background, return_depth)
    with torch.cuda.device(viewmats.device):
        return draw(gaussians, viewmats, Ks, width, height, background, return_depth)


def draw(
    gaussians: Gaussians,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    background: Float[Tensor, "3"],
    return_depth: bool,
) -> Rendering:
    """`rasterize` without its checks."""
    single = gaussians.map(lambda x: x.float().contiguous())  # the backward pass assumes contiguous memory
    single = replace(
        single, quats=torch.nn.functional.normalize(single.quats, dim=-1)
    )  # and both passes assume unit quaternions
    padded = [[pad_image(K, width, height) for K in cameras] for cameras in Ks.detach().tolist()]
    cameras = viewmats.float()
    # The extension gives cameras no gradients. If they are needed, Gaussians are transformed to camera space first.
    in_camera_space = torch.is_grad_enabled() and viewmats.requires_grad
    view_matrices = (
        torch.eye(4, device=cameras.device).expand_as(cameras) if in_camera_space else cameras
    ).mT.contiguous()
    projections = view_matrices.new_tensor([[image.projection for image in row] for row in padded]).mT
    full_matrices = (view_matrices[..., None] * projections[..., None, :, :]).sum(-2)
    black = view_matrices.new_zeros(3)

    views = []
    for b, row in enumerate(padded):
        for c, image in enumerate(row):
            rasterizer = GaussianRasterizer(_settings(image, view_matrices[b, c], full_matrices[b, c], black))
            maps = _draw_view(rasterizer, single[b], cameras[b, c], in_camera_space, return_depth)
            views.append(maps[:, image.top : image.top + height, image.left : image.left + width])
    images = torch.stack(views).unflatten(0, viewmats.shape[:2]).to(viewmats.dtype)
    return compose(images[:, :, :-1], images[:, :, -1:], background)


def _draw_view(
    rasterizer: GaussianRasterizer,
    gaussians: Gaussians,
    viewmat: Float[Tensor, "4 4"],
    in_camera_space: bool,
    return_depth: bool,
) -> Float[Tensor, "D+1 H W"]:
    """Weighted sums of the colours and, on request, of the depths; last the transmittance."""
    if in_camera_space:
        means = _to_camera(gaussians.means, viewmat)
        shapes = {"cov3D_precomp": _covariances(gaussians, viewmat[:3, :3])}
    else:
        means = gaussians.means
        shapes = {"scales": gaussians.scales, "rotations": gaussians.quats}

    def sums(features: Float[Tensor, "N 3"]) -> list[Tensor]:
        placeholder = torch.zeros_like(means)  # receives gradients of the projected centres, which are not used
        image, _radii, *others = rasterizer(
            means, placeholder, gaussians.opacities[:, None], colors_precomp=features, **shapes
        )
        return [image, *others]

    colors, *others = sums(gaussians.colors)
    if len(others) == 2:
        depths, alphas = others
    else:
        z = _to_camera(gaussians.means, viewmat)[:, 2]
        images = sums(torch.stack([torch.ones_like(z), z, torch.zeros_like(z)], -1))[0]
        alphas, depths = images[:1], images[1:2]
    return torch.cat([colors, depths, 1 - alphas] if return_depth else [colors, 1 - alphas])


def pad_image(K: list[list[float]], width: int, height: int) -> PaddedImage:
    """Pad an image of `width` x `height` pixels such that the kernels bound J as the definition does.

    They bound it at `REACH` of the size to both sides of the principal point, the definition at `FRUSTUM_MARGIN` of the
    size outside the image. Both agree for a centred principal point. Otherwise, as after cropping, splats on the
    farther side would be too thin, unless the image is padded on the other side.
    """
    (fx, _, cx), (_, fy, cy), _ = K
    full_width, left = _pad_axis(width, cx)
    full_height, top = _pad_axis(height, cy)
    return PaddedImage(fx, fy, cx + left, cy + top, full_width, full_height, left, top)


def _pad_axis(size: int, center: float) -> tuple[int, int]:
    """The padded size, and the number of pixels before the image."""
    needed = (max(center, size - center) + FRUSTUM_MARGIN * size) / REACH
    full = max(size, math.ceil(needed - 1e-3))  # rounding of a centred principal point must not add a pixel
    return full, full - size if center < size / 2 else 0


def _settings(
    image: PaddedImage, view_matrix: Float[Tensor, "4 4"], full_matrix: Float[Tensor, "4 4"], zeros: Float[Tensor, "3"]
) -> GaussianRasterizationSettings:
    """Camera parameters of the extension, with a black background. Its matrices are for row vectors."""
    values = {
        "image_height": image.height,
        "image_width": image.width,
        "tanfovx": image.width / (2 * image.fx),
        "tanfovy": image.height / (2 * image.fy),
        "bg": zeros,
        "scale_modifier": 1.0,
        "viewmatrix": view_matrix,
        "projmatrix": full_matrix,
        "sh_degree": 0,
        "campos": zeros,  # used for spherical harmonics only
        "prefiltered": False,
        "debug": False,
        "antialiasing": False,
    }
    names = GaussianRasterizationSettings._fields
    unknown = [name for name in names if name not in values]
    if unknown:
        raise InputError(
            f"this fork of diff-gaussian-rasterization has unsupported settings: {', '.join(unknown)}; "
            "install one that requirements-cuda.txt names, or choose backend triton"
        )
    return GaussianRasterizationSettings(**{name: values[name] for name in names})


def _to_camera(points: Float[Tensor, "N 3"], viewmat: Float[Tensor, "4 4"]) -> Float[Tensor, "N 3"]:
    # Without matmul, as in core/render/projection.py: its reduced-precision modes are too inaccurate for geometry.
    return (viewmat[:3, :3] * points[:, None, :]).sum(-1) + viewmat[:3, 3]


def _covariances(gaussians: Gaussians, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "N 6"]:
    """Upper triangles (xx, xy, xz, yy, yz, zz) of the covariances in the frame that `rotation` maps to."""
    axes = quat_to_matrix(gaussians.quats) * gaussians.scales[:, None, :]
    axes = (rotation[:, :, None] * axes[:, None, :, :]).sum(2)
    rows, columns = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    return (axes[:, rows] * axes[:, columns]).sum(-1)
