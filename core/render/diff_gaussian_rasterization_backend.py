"""Adapter to diff-gaussian-rasterization (Kerbl et al., 2023) and to forks that kept its interface, on CUDA.

Its kernels draw one view at a time, know a camera by tan(field of view / 2) and two matrices made for row vectors,
and put pixel centres on integers. What is drawn differs from the definition in small ways:

- a Gaussian whose centre is at 0.2 m or nearer is not drawn, and splats end at tiles 3 standard deviations away;
- alpha is at most 0.99, and a pixel stops before the splat that would bring its transmittance below 1e-4;
- single precision, and no gradient to the intrinsics. It works on CUDA's default stream and waits for the device once
  a view.

Alpha and depth come with the colours where the fork gives them (colour, radii, depth, alpha), as ashawkey's does. The
original has no alpha: each view is then drawn a second time with the colours (1, depth, 0).
"""

import math
from dataclasses import dataclass, replace

import torch
from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer
from jaxtyping import Float
from torch import Tensor

from core.render import torch_backend
from core.render.projection import FRUSTUM_MARGIN
from core.render.rendering import Rendering, compose, one_batch_axis
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import quat_to_matrix

REACH = 1.3 / 2
"""Of the picture's size: how far from its middle the kernels evaluate J, the derivative of the perspective map."""


@dataclass(frozen=True)
class Picture:
    """A picture with its camera's intrinsics, and where in it the one that is asked for begins; all in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    left: int = 0
    top: int = 0

    @property
    def projection(self) -> list[list[float]]:
        """P, which takes a point in camera space to (x, y, z, w) with w = its depth.

        The pixel is at ((x / w + 1) width - 1) / 2, with pixel centres on integers: half a pixel less than ours.
        """
        return [
            [2 * self.fx / self.width, 0.0, 2 * self.cx / self.width - 1, 0.0],
            [0.0, 2 * self.fy / self.height, 2 * self.cy / self.height - 1, 0.0],
            [0.0, 0.0, 1.0, 0.0],  # nothing reads z
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
    """Draw `gaussians` (batch axis B), view by view; the result has the dtype of the inputs."""
    if not viewmats.is_cuda:
        raise InputError(
            f"backend diff_gaussian_rasterization draws CUDA tensors, these are on {viewmats.device}; "
            "choose backend torch"
        )
    if gaussians.count == 0:  # the extension then returns black, whatever the background
        return torch_backend.rasterize(gaussians, viewmats, Ks, width, height, background, return_depth)
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
    single = gaussians.map(lambda x: x.float().contiguous())  # the backward pass takes contiguous memory for granted
    single = replace(single, quats=torch.nn.functional.normalize(single.quats, dim=-1))  # and both, unit quaternions
    pictures = [[enlarged(K, width, height) for K in cameras] for cameras in Ks.detach().tolist()]
    cameras = viewmats.float()
    # The extension gives cameras no gradients. Where they need some, the Gaussians are taken to the camera beforehand.
    moved = torch.is_grad_enabled() and viewmats.requires_grad
    view_matrices = (torch.eye(4, device=cameras.device).expand_as(cameras) if moved else cameras).mT.contiguous()
    projections = view_matrices.new_tensor([[picture.projection for picture in row] for row in pictures]).mT
    full_matrices = (view_matrices[..., None] * projections[..., None, :, :]).sum(-2)
    black = view_matrices.new_zeros(3)

    views = []
    for b, row in enumerate(pictures):
        for c, picture in enumerate(row):
            rasterizer = GaussianRasterizer(_settings(picture, view_matrices[b, c], full_matrices[b, c], black))
            images = _draw_view(rasterizer, single[b], cameras[b, c], moved, return_depth)
            views.append(images[:, picture.top : picture.top + height, picture.left : picture.left + width])
    images = torch.stack(views).unflatten(0, viewmats.shape[:2]).to(viewmats.dtype)
    return compose(images[:, :, :-1], images[:, :, -1:], background)


def _draw_view(
    rasterizer: GaussianRasterizer,
    gaussians: Gaussians,
    viewmat: Float[Tensor, "4 4"],
    moved: bool,
    return_depth: bool,
) -> Float[Tensor, "D+1 H W"]:
    """Weighted sums of the colours and, on request, of the depths; last the transmittance."""
    if moved:
        means = _to_camera(gaussians.means, viewmat)
        shapes = {"cov3D_precomp": _covariances(gaussians, viewmat[:3, :3])}
    else:
        means = gaussians.means
        shapes = {"scales": gaussians.scales, "rotations": gaussians.quats}

    def sums(features: Float[Tensor, "N 3"]) -> list[Tensor]:
        placeholder = torch.zeros_like(means)  # takes gradients of the projected centres, which nobody asks for
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


def enlarged(K: list[list[float]], width: int, height: int) -> Picture:
    """The picture around one of `width` x `height` pixels in which the kernels keep each splat's shape as we do.

    They bound J at `REACH` of the size to both sides of the principal point, we at `FRUSTUM_MARGIN` of it outside the
    picture. With the principal point in the middle that is the same. With it elsewhere, as after cropping, splats on
    the farther side would be drawn too thin, unless the picture is made larger on the other side.
    """
    (fx, _, cx), (_, fy, cy), _ = K
    full_width, left = _enlarged(width, cx)
    full_height, top = _enlarged(height, cy)
    return Picture(fx, fy, cx + left, cy + top, full_width, full_height, left, top)


def _enlarged(size: int, center: float) -> tuple[int, int]:
    """The larger size, and how many of its pixels come first."""
    needed = (max(center, size - center) + FRUSTUM_MARGIN * size) / REACH
    full = max(size, math.ceil(needed - 1e-3))  # no pixel more for the rounding of a principal point in the middle
    return full, full - size if center < size / 2 else 0


def _settings(
    picture: Picture, view_matrix: Float[Tensor, "4 4"], full_matrix: Float[Tensor, "4 4"], zeros: Float[Tensor, "3"]
) -> GaussianRasterizationSettings:
    """A camera in the terms of the extension, before a black background. Its matrices are for row vectors."""
    values = {
        "image_height": picture.height,
        "image_width": picture.width,
        "tanfovx": picture.width / (2 * picture.fx),
        "tanfovy": picture.height / (2 * picture.fy),
        "bg": zeros,
        "scale_modifier": 1.0,
        "viewmatrix": view_matrix,
        "projmatrix": full_matrix,
        "sh_degree": 0,
        "campos": zeros,  # only harmonics need it
        "prefiltered": False,
        "debug": False,
        "antialiasing": False,
    }
    names = GaussianRasterizationSettings._fields
    unknown = [name for name in names if name not in values]
    if unknown:
        raise InputError(
            f"this fork of diff-gaussian-rasterization has settings that HGG does not know: {', '.join(unknown)}; "
            "install one that requirements-cuda.txt names, or choose backend triton"
        )
    return GaussianRasterizationSettings(**{name: values[name] for name in names})


def _to_camera(points: Float[Tensor, "N 3"], viewmat: Float[Tensor, "4 4"]) -> Float[Tensor, "N 3"]:
    # Spelt out, as in core/render/projection.py: reduced-precision matmul modes would blur the geometry.
    return (viewmat[:3, :3] * points[:, None, :]).sum(-1) + viewmat[:3, 3]


def _covariances(gaussians: Gaussians, rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "N 6"]:
    """Upper triangles (xx, xy, xz, yy, yz, zz) of the covariances in the frame that `rotation` turns to."""
    axes = quat_to_matrix(gaussians.quats) * gaussians.scales[:, None, :]
    axes = (rotation[:, :, None] * axes[:, None, :, :]).sum(2)
    rows, columns = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    return (axes[:, rows] * axes[:, columns]).sum(-1)
