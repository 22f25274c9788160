"""Scenes of Gaussians and cameras, and a simple renderer of them that shares no code with the backends."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.render import Rendering, rasterize, torch_backend
from core.types.cameras import Cameras, look_at
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import quat_to_matrix


@dataclass(frozen=True)
class Scene:
    """Gaussians, and cameras that face them."""

    gaussians: Gaussians
    cameras: Cameras

    def to(self, *args) -> "Scene":
        return Scene(self.gaussians.to(*args), self.cameras.to(*args))

    def with_gaussians(self, **attributes: Tensor) -> "Scene":
        return replace(self, gaussians=replace(self.gaussians, **attributes))

    def render(self, **options) -> Rendering:
        c = self.cameras
        return rasterize(self.gaussians, c.viewmats, c.Ks, c.width, c.height, **options)


def make_scene(
    seed: int = 0, count: int = 60, views: int = 1, width: int = 37, height: int = 29, size: float = 0.06
) -> Scene:
    """Gaussians of about `size` metres in a ball of radius 0.35 m, seen from 2 m by views that are 0.9 m wide there."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    directions = torch.nn.functional.normalize(uniform(count, 3) - 0.5, dim=-1)
    gaussians = Gaussians(
        means=0.35 * uniform(count, 1) * directions,
        quats=2 * uniform(count, 4) - 1,  # not of unit length
        scales=size * torch.exp(2 * uniform(count, 3) - 1.5),
        opacities=uniform(count),
        colors=uniform(count, 3),
    )
    angles = torch.linspace(0.3, 2 * math.pi + 0.3, views + 1, dtype=torch.float64)[:-1]
    eyes = 2 * torch.stack([angles.sin(), torch.full_like(angles, 0.2), angles.cos()], -1)
    viewmats = look_at(eyes, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 1, 0], dtype=torch.float64))
    focal = width * 2 / 0.9
    # fx and fy differ, and the principal point is off the centre.
    K = torch.tensor([[focal, 0, 0.47 * width], [0, 1.1 * focal, 0.53 * height], [0, 0, 1]], dtype=torch.float64)
    return Scene(gaussians, Cameras(viewmats, K.expand(views, 3, 3), width, height))


def stacked(*scenes: Scene) -> Scene:
    """Stack several sets of Gaussians, each with its own cameras."""
    first = scenes[0]
    names = vars(first.gaussians)
    return Scene(
        Gaussians(**{name: torch.stack([getattr(s.gaussians, name) for s in scenes]) for name in names}),
        replace(
            first.cameras,
            viewmats=torch.stack([s.cameras.viewmats for s in scenes]),
            Ks=torch.stack([s.cameras.Ks for s in scenes]),
        ),
    )


def hard_scene(**options) -> Scene:
    """Gaussians that are opaque, invisible, huge, thin, or behind and beside the camera."""
    scene = make_scene(**options)
    g = scene.gaussians.map(torch.clone)
    g.opacities[0::6], g.opacities[1::6] = 1, 0
    g.scales[2::10] *= 8
    g.scales[3::10, 0] = 0.5
    g.scales[3::10, 1:] = 1e-4
    g.means[4::12] *= 12
    return replace(scene, gaussians=g)


def needles(scene: Scene) -> Scene:
    return scene.with_gaussians(scales=scene.gaussians.scales * torch.tensor([30.0, 1e-4, 1e-4]))


def around_the_camera(scene: Scene) -> Scene:
    """Place some Gaussians behind the camera, at its centre, and a centimetre in front of it."""
    means = scene.gaussians.means.clone()
    centre, ahead = scene.cameras.centers[0], scene.cameras.viewmats[0, 2, :3]
    steps = torch.tensor([-1.0, -1e-3, 0.0, 1e-3, 0.00999, 0.0101, 0.02]).to(means)
    means[:7] = centre + steps[:, None] * ahead
    return scene.with_gaussians(means=means)


def opacities_of_zero_and_one(scene: Scene) -> Scene:
    return scene.with_gaussians(opacities=scene.gaussians.opacities.round())


def points(scene: Scene) -> Scene:
    return scene.with_gaussians(scales=torch.zeros_like(scene.gaussians.scales))


def far_to_the_side(scene: Scene) -> Scene:
    return scene.with_gaussians(means=scene.gaussians.means * torch.tensor([1e4, 1, 1]))


EXTREMES = (needles, around_the_camera, opacities_of_zero_and_one, points, far_to_the_side)
"""Changes of a scene of at least 7 Gaussians for which formulas can divide by zero or overflow."""


def render_bounded(scene: Scene, max_fragments: int, max_pairs: int) -> Rendering:
    """Render by the torch backend with the given memory bounds, on white, with depth."""
    c = scene.cameras
    return torch_backend.rasterize(
        scene.gaussians.map(lambda x: x[None]),
        c.viewmats[None],
        c.Ks[None],
        c.width,
        c.height,
        background=torch.ones(3).to(c.Ks),
        return_depth=True,
        max_fragments=max_fragments,
        max_pairs=max_pairs,
    ).map(lambda x: x[0])


def brute_force(scene: Scene, background: float = 1.0) -> Rendering:
    """Composite one Gaussian after the other over all pixels, by the textbook formulas; no batch axes."""
    g, cameras = scene.gaussians, scene.cameras
    rows, columns = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (cameras.height, cameras.width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    rotations = quat_to_matrix(g.quats)
    colors, alphas, depths = [], [], []
    for viewmat, K in zip(cameras.viewmats, cameras.Ks):
        fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        centers = g.means @ viewmat[:3, :3].T + viewmat[:3, 3]
        color = torch.zeros(3, *x.shape, dtype=g.means.dtype)
        depth = torch.zeros_like(color[0])
        transmittance = torch.ones_like(color[0])
        for i in centers[:, 2].argsort(stable=True).tolist():
            X, Y, Z = centers[i]
            if Z <= 0.01:
                continue
            tan_x = (X / Z).clamp((-0.15 * cameras.width - cx) / fx, (1.15 * cameras.width - cx) / fx)
            tan_y = (Y / Z).clamp((-0.15 * cameras.height - cy) / fy, (1.15 * cameras.height - cy) / fy)
            zero = torch.zeros_like(Z)
            J = torch.stack([fx / Z, zero, -fx * tan_x / Z, zero, fy / Z, -fy * tan_y / Z]).view(2, 3)
            M = J @ viewmat[:3, :3] @ rotations[i] @ torch.diag(g.scales[i])
            conic = torch.linalg.inv(M @ M.T + 0.3 * torch.eye(2, dtype=M.dtype))
            offsets = torch.stack([x - (fx * X / Z + cx), y - (fy * Y / Z + cy)], -1)
            sigma = 0.5 * torch.einsum("hwi,ij,hwj->hw", offsets, conic, offsets)
            alpha = (g.opacities[i] * torch.exp(-sigma)).clamp(max=0.999)
            alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
            weight = alpha * transmittance
            color = color + weight * g.colors[i, :, None, None]
            depth = depth + weight * Z
            transmittance = transmittance * (1 - alpha)
        covered = transmittance < 1
        colors.append(color + transmittance * background)
        alphas.append(1 - transmittance)
        depths.append(torch.where(covered, depth / torch.where(covered, 1 - transmittance, 1.0), 0.0))
    return Rendering(*(torch.stack(x).view(len(x), -1, *y.shape) for x in (colors, alphas, depths)))


def gradients(render, scene: Scene, seed: int = 0) -> dict[str, Tensor]:
    """Gradients of a random linear function of the outputs of `render(scene)`, for the Gaussians and the cameras."""
    gaussians = scene.gaussians.map(lambda x: x.detach().clone().requires_grad_())
    cameras = replace(
        scene.cameras,
        viewmats=scene.cameras.viewmats.clone().requires_grad_(),
        Ks=scene.cameras.Ks.clone().requires_grad_(),
    )
    rendering = render(Scene(gaussians, cameras))
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    for image in (rendering.colors, rendering.alphas, rendering.depths):
        if image is not None:
            # Random instead of ones: errors could cancel in a plain sum.
            cotangent = torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image)
            loss = loss + (image * cotangent).sum()
    inputs = vars(gaussians) | {"viewmats": cameras.viewmats, "Ks": cameras.Ks}
    values = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {name: value for name, value in zip(inputs, values) if value is not None}


def take(gaussians: Gaussians, indices: Tensor) -> Gaussians:
    """Select Gaussians by one-dimensional `indices`, the same for every set."""
    axis = len(gaussians.batch_shape)
    return gaussians.map(lambda x: x.index_select(axis, indices))


def crop_cameras(cameras: Cameras, left: Tensor, top: Tensor, width: int, height: int) -> Cameras:
    """The same cameras for a window of their images that starts at pixel (`left`, `top`), which may be negative."""
    Ks = cameras.Ks.clone()
    Ks[..., 0, 2] -= left
    Ks[..., 1, 2] -= top
    return Cameras(cameras.viewmats, Ks, width, height)
