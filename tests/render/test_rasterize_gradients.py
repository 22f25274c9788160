"""Gradients of `rasterize`: against finite differences, and against autograd through a plain evaluation."""

from dataclasses import replace

import pytest
import torch
from render_scenes import (
    EXTREMES,
    Scene,
    around_the_camera,
    brute_force,
    gradients,
    make_scene,
    opacities_of_zero_and_one,
    render_bounded,
)

from core.render import rasterize
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians


def test_gradcheck():
    # Splats of two pixels or more in a tiny image: no alpha is near the cut at 1/255, where the image jumps.
    scene = make_scene(seed=3, count=4, views=1, width=5, height=4, size=0.5)
    g = scene.gaussians
    inputs = [*vars(g).values(), scene.cameras.viewmats, scene.cameras.Ks, torch.tensor([0.2, 0.5, 0.8]).double()]

    def images(means, quats, scales, opacities, colors, viewmats, Ks, background):
        gaussians = Gaussians(means, quats, scales, 0.2 + 0.6 * opacities, colors)
        rendering = rasterize(gaussians, viewmats, Ks, 5, 4, background=background, return_depth=True)
        return rendering.colors, rendering.alphas, rendering.depths

    assert images(*inputs)[1].min() > 0.1
    assert torch.autograd.gradcheck(images, [x.detach().clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize(
    "seed, options", [(0, {}), (1, {"size": 0.3, "count": 30}), (2, {"size": 0.003, "count": 200})]
)
def test_gradients_equal_those_of_brute_force(seed, options):
    scene = make_scene(seed=seed, views=2, **options)
    scene.gaussians.opacities[:10] = 1  # clamped at their centres
    actual = gradients(lambda s: s.render(return_depth=True), scene)
    expected = gradients(brute_force, scene)
    assert actual.keys() == expected.keys() == {*vars(scene.gaussians), "viewmats", "Ks"}
    for name, value in expected.items():
        # The same formulas in double precision, in another order; float32 has its own test.
        assert (actual[name] - value).norm() <= 1e-9 * value.norm(), name


def test_gradients_in_single_precision():
    scene = make_scene(views=2, count=200)
    expected = gradients(lambda s: s.render(return_depth=True), scene)
    actual = gradients(lambda s: s.render(return_depth=True), scene.to(torch.float32))
    for name, value in expected.items():
        # A pixel at the cut alpha = 1/255 has a gradient or none: a few such pixels cause most of the difference.
        assert (actual[name] - value).norm() <= 1e-3 * value.norm(), name


@pytest.mark.parametrize("max_fragments, max_pairs", [(1, 1), (1000, 100)])
def test_bounds_on_memory_change_no_gradient(max_fragments, max_pairs):
    scene = make_scene(views=2)
    actual = gradients(lambda s: render_bounded(s, max_fragments, max_pairs), scene)
    expected = gradients(lambda s: s.render(return_depth=True), scene)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("change", EXTREMES, ids=lambda f: f.__name__)
def test_images_and_gradients_are_finite_for_extreme_inputs(change, dtype):
    scene = change(make_scene(count=100)).to(dtype)
    rendering = scene.render(return_depth=True)
    for image in rendering.images.values():
        assert image.isfinite().all()
    for name, value in gradients(lambda s: s.render(return_depth=True), scene).items():
        assert value.isfinite().all(), name


def test_gaussians_that_are_not_drawn_have_no_gradient():
    scene = opacities_of_zero_and_one(around_the_camera(make_scene(count=100)))
    grads = gradients(lambda s: s.render(), scene)
    depths = scene.cameras.project(scene.gaussians.means)[1][0]
    hidden = (depths <= 0.01) | (scene.gaussians.opacities == 0)
    assert hidden.any() and not hidden.all()
    for name in vars(scene.gaussians):
        assert (grads[name][hidden] == 0).all()
        assert (grads[name][~hidden] != 0).any()


def test_a_clamped_alpha_has_no_gradient():
    # One opaque splat, and a pixel at its centre, where alpha is clamped.
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0, 2]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.ones(1, 3),
        opacities=torch.ones(1),
        colors=torch.full((1, 3), 0.3),
    )
    K = torch.tensor([[20.0, 0, 0.5], [0, 20, 0.5], [0, 0, 1]])
    for opacity, moves in ((1.0, False), (0.9, True)):
        inputs = replace(gaussians, opacities=torch.tensor([opacity], requires_grad=True))
        rendering = rasterize(inputs, torch.eye(4)[None], K[None], 1, 1)
        torch.testing.assert_close(rendering.alphas.item(), min(opacity, 0.999))
        rendering.colors.sum().backward()
        assert (inputs.opacities.grad.item() != 0) == moves


def test_only_inputs_that_require_gradients_get_them():
    scene = make_scene()
    colors = scene.gaussians.colors.clone().requires_grad_()
    rendering = scene.with_gaussians(colors=colors).render()
    (grad,) = torch.autograd.grad(rendering.colors.sum(), colors)
    assert grad.abs().sum() > 0
    assert not scene.render().colors.requires_grad


def test_camera_pose_is_recovered_by_gradient_descent():
    # Optimise the translation of the camera alone until it renders the image of the true camera.
    target = make_scene(count=30, size=0.2)
    image = target.render(background=0.0).colors
    shift = torch.tensor([0.05, -0.03, 0.1], dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([shift], 0.01)
    for _ in range(50):
        offset = torch.nn.functional.pad(shift[:, None], (3, 0, 0, 1))
        c = target.cameras
        cameras = Cameras(c.viewmats + offset, c.Ks, c.width, c.height)
        loss = (Scene(target.gaussians, cameras).render(background=0.0).colors - image).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift.abs().max() < 0.01
