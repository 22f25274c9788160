"""Weights of the Gaussians that backend `triton` returns with the image, against gradients of the definition."""

import pytest
import torch
from render_scenes import Scene, hard_scene, stacked

pytest.importorskip("triton")

from core.render import triton_backend

pytestmark = pytest.mark.usefixtures("poisoned_memory")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def expected_weights(scene: Scene) -> torch.Tensor:
    """Gradient of the sum of each image's red channel with respect to the red of each Gaussian."""
    sets = []
    for index in range(2):
        gaussians = scene.gaussians[index].map(lambda x: x.double().requires_grad_())
        cameras = scene.cameras[index].to(torch.float64)
        rendering = Scene(gaussians, cameras).render(backend="torch")
        views = [
            torch.autograd.grad(view[0].sum(), gaussians.colors, retain_graph=True)[0][:, 0]
            for view in rendering.colors
        ]
        sets.append(torch.stack(views))
    return torch.stack(sets)


@pytest.mark.slow
@pytest.mark.parametrize("of_cameras, binning", [(False, "cells"), (True, "pairs")])
def test_weights_are_the_gradients_of_colour_sums(of_cameras, binning):
    size = {"count": 40, "width": 13, "height": 11, "views": 2}  # partial tiles
    scene = stacked(hard_scene(seed=1, **size), hard_scene(seed=2, **size)).to(torch.float32).to(DEVICE)
    c = scene.cameras
    viewmats = c.viewmats.clone().requires_grad_(of_cameras)
    arguments = scene.gaussians, viewmats, c.Ks, 13, 11, torch.ones(3, device=DEVICE), False
    rendering = triton_backend.rasterize(*arguments, binning=binning, return_weights=True)
    expected = expected_weights(scene)
    assert not rendering.weights.requires_grad
    # A tile stops at a transmittance of 1e-4.
    torch.testing.assert_close(rendering.weights.double(), expected, rtol=1e-3, atol=1e-3)
    if of_cameras:
        (gradient,) = torch.autograd.grad(rendering.colors.sum(), viewmats)
        assert gradient.isfinite().all() and (gradient != 0).any()


def test_without_a_request_there_are_none():
    scene = hard_scene(seed=3, count=10, width=9, height=7).to(torch.float32).to(DEVICE)
    assert scene.render(backend="triton").weights is None
