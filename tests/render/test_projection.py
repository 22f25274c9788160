"""EWA projection against the derivative of the camera's projection, and its numerical limits."""

from dataclasses import replace

import pytest
import torch
from render_scenes import make_scene
from torch import Tensor

from core.render.projection import ALPHA_MIN, Splats, project
from core.types.gaussians import Gaussians
from smpl_renderer.rotations import quat_to_matrix


def splats_of(scene):
    return project(scene.gaussians, scene.cameras.viewmats, scene.cameras.Ks, scene.cameras.width, scene.cameras.height)


def conics(splats: Splats) -> Tensor:
    """Inverse covariances (xx, xy, yy), in 1 / square pixels."""
    p, q, r = splats.whiteners.unbind(-1)
    return torch.stack([p * p, p * q, q * q + r * r], -1)


def needle(length: float, dtype: torch.dtype) -> Gaussians:
    """One Gaussian 2 m ahead, `length` metres long and a micrometre thick, at 45 degrees in the image."""
    return Gaussians(
        means=torch.tensor([[0.1, 0, 2]]),
        quats=torch.tensor([[0.9238795, 0, 0, 0.3826834]]),
        scales=torch.tensor([[length, 1e-6, 1e-6]]),
        opacities=torch.tensor([0.9]),
        colors=torch.zeros(1, 3),
    ).to(dtype)


def test_covariances_are_those_of_the_linearised_camera():
    scene = make_scene(count=12)
    splats = splats_of(scene)
    g, cameras = scene.gaussians, scene.cameras
    means2d, depths = cameras[0].project(g.means)
    torch.testing.assert_close(splats.means2d[0], means2d)
    torch.testing.assert_close(splats.depths[0], depths)
    rotations = quat_to_matrix(g.quats)
    for i in range(g.count):
        J = torch.autograd.functional.jacobian(lambda x: cameras[0].project(x[None])[0][0], g.means[i])
        M = J @ rotations[i] @ torch.diag(g.scales[i])
        expected = torch.linalg.inv(M @ M.T + 0.3 * torch.eye(2))
        actual = conics(splats)[0, i]
        torch.testing.assert_close(actual, torch.stack([expected[0, 0], expected[0, 1], expected[1, 1]]))


def test_cameras_are_a_batch_axis():
    scene = make_scene(views=3)
    for c in range(3):
        single = splats_of(replace(scene, cameras=scene.cameras[c]))
        for together, alone in zip(vars(splats_of(scene)).values(), vars(single).values()):
            torch.testing.assert_close(together[c], alone, rtol=0, atol=0)


def test_extents_bound_the_visible_ellipse_tightly():
    scene = make_scene(count=40)
    splats = splats_of(scene)
    extents, (p, q, r) = splats.extents[0], splats.whiteners[0].unbind(-1)
    drawn = scene.gaussians.opacities >= ALPHA_MIN
    assert drawn.any() and (extents[~drawn] == 0).all()
    # The extreme points of the ellipse alpha = ALPHA_MIN, from 3600 directions.
    angles = torch.linspace(0, 2 * torch.pi, 3600, dtype=torch.float64)
    u, v = angles.cos()[:, None], angles.sin()[:, None]
    radius = (2 * (scene.gaussians.opacities / ALPHA_MIN).clamp_min(1).log()).sqrt()
    dy = v * radius / r
    dx = (u * radius - q * dy) / p
    for reach, extent in ((dx.amax(0), extents[:, 0]), (dy.amax(0), extents[:, 1])):
        assert (extent >= reach)[drawn].all()
        assert (extent <= reach * 1.001 + 0.02)[drawn].all()


@pytest.mark.parametrize("length", [0.01, 1.0, 100.0])
def test_single_precision_keeps_needles_thin(length):
    camera = (torch.eye(4), torch.tensor([[600.0, 0, 256], [0, 600, 256], [0, 0, 1]]))
    single = project(needle(length, torch.float32), *camera, 512, 512)
    exact = project(needle(length, torch.float64), *(x.double() for x in camera), 512, 512)
    # A pixel far along the needle and 0.7 px off its axis. The textbook formulas in single precision give NaN there for
    # the longest needle; the exact value is 0.83.
    offset = torch.tensor([200.0, 201.0], dtype=torch.float64)

    def sigma(splats):
        p, q, r = splats.whiteners.double().unbind(-1)
        return 0.5 * ((p * offset[0] + q * offset[1]) ** 2 + (r * offset[1]) ** 2)

    torch.testing.assert_close(sigma(single), sigma(exact), rtol=1e-4, atol=1e-4)


def test_jacobian_is_evaluated_no_farther_outside_than_the_margin():
    scene = make_scene(count=1)
    cameras = scene.cameras
    K = cameras.Ks[0]
    edge = (1.15 * cameras.width - K[0, 2]) / K[0, 0]  # x / z where the margin ends

    def conic(tan_x: float):
        means = torch.tensor([[2 * tan_x, 0.1, 2.0]], dtype=torch.float64)
        gaussians = replace(scene.gaussians, means=means)
        return conics(project(gaussians, torch.eye(4, dtype=torch.float64), K, cameras.width, cameras.height)).flatten()

    torch.testing.assert_close(conic(5 * edge), conic(edge))
    assert not torch.allclose(conic(0.9 * edge), conic(edge))


@pytest.mark.parametrize("depth", [0.01, 0.0, -1.0])
def test_gaussians_at_or_behind_the_near_plane_are_not_drawn_and_have_no_gradient(depth):
    scene = make_scene(count=3)
    gaussians = scene.gaussians.map(lambda x: x.clone())
    gaussians.means[:, 2] = torch.tensor([2.0, depth, 0.0101], dtype=torch.float64)
    gaussians = gaussians.map(lambda x: x.requires_grad_())
    splats = project(gaussians, torch.eye(4, dtype=torch.float64), scene.cameras.Ks[0], 37, 29)
    assert (splats.extents > 0).all(-1).tolist() == [True, False, True]
    grads = torch.autograd.grad(
        splats.means2d.sum() + splats.whiteners.sum() + splats.depths.sum(),
        [gaussians.means, gaussians.quats, gaussians.scales],
    )
    for grad in grads:
        assert grad.isfinite().all()
    assert (grads[0][1] == 0).all()
    assert (grads[0][0] != 0).any()
