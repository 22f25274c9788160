"""The adapter to diff-gaussian-rasterization: conventions of cameras and pixels, forks, missing gradients.

The extension needs CUDA; these tests use fakes of it. The real package is tested in test_peer_backends.py.
"""

import importlib
import sys
from dataclasses import replace

import pytest
import torch
from extension_fakes import AntialiasingSettings, OriginalSettings, UnknownSettings, fake_extension
from render_scenes import Scene, crop_cameras, gradients, make_scene

from core.render import Rendering, torch_backend
from smpl_renderer.errors import InputError

FORKS = {
    "original": ("colors", OriginalSettings),
    "original, newer": ("inverse depth", AntialiasingSettings),
    "with depth and alpha": ("depth and alpha", OriginalSettings),
}


@pytest.fixture
def load_adapter(monkeypatch):
    """Load the adapter with a fake of some fork."""

    def load(returns: str = "depth and alpha", settings: type = OriginalSettings):
        monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", fake_extension(returns, settings))
        monkeypatch.delitem(sys.modules, "core.render.diff_gaussian_rasterization_backend", raising=False)
        return importlib.import_module("core.render.diff_gaussian_rasterization_backend")

    yield load
    sys.modules.pop("core.render.diff_gaussian_rasterization_backend", None)


def draw(draw_function, scene: Scene, background: torch.Tensor) -> Rendering:
    """Render one set of Gaussians, with depth."""
    cameras = scene.cameras
    rendering = draw_function(
        scene.gaussians.map(lambda x: x[None]),
        cameras.viewmats[None],
        cameras.Ks[None],
        cameras.width,
        cameras.height,
        background,
        True,
    )
    return rendering.map(lambda x: x[0])


def sparse(scene: Scene) -> Scene:
    """Reduce opacities to at most 0.5, so that alpha never reaches the bound that differs."""
    return scene.with_gaussians(opacities=0.1 + 0.4 * scene.gaussians.opacities)


def aside(scene: Scene, right: float, down: float) -> Scene:
    """Move Gaussians by so many metres at a depth of 2 m, and the image window with them."""
    cameras = scene.cameras
    offset = torch.tensor([right, down, 0], dtype=torch.float64) @ cameras.viewmats[0, :3, :3]
    left, top = right / 2 * cameras.Ks[:, 0, 0], down / 2 * cameras.Ks[:, 1, 1]
    moved = scene.with_gaussians(means=scene.gaussians.means + offset)
    return replace(moved, cameras=crop_cameras(cameras, left, top, cameras.width, cameras.height))


@pytest.mark.parametrize("fork", FORKS)
def test_every_fork_matches_the_definition(fork, load_adapter):
    """Images, alpha, depth and gradients. fx is not fy, and the principal point is off centre."""
    adapter = load_adapter(*FORKS[fork])
    scene = sparse(make_scene(count=25, views=2))
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    actual = draw(adapter.draw, scene, background)
    expected = draw(torch_backend.rasterize, scene, background)
    for name in expected.images:
        difference = (getattr(actual, name) - getattr(expected, name)).abs()
        # Single precision; a pixel on the cut at alpha = 1/255 may lose or gain that much.
        assert difference.mean() < 1e-5 and (difference > 1e-4).double().mean() < 5e-3, name
    reference = gradients(lambda s: draw(torch_backend.rasterize, s, background), scene)
    for name, value in gradients(lambda s: draw(adapter.draw, s, background), scene).items():
        assert (value - reference[name]).norm() < 1e-3 * reference[name].norm(), name


@pytest.mark.parametrize("offset", [(1.5, 0.3), (-1.2, 0), (0.1, -1)])
def test_a_crop_of_a_larger_image_keeps_the_shapes_of_splats(offset, load_adapter):
    """Its principal point is outside, where the kernels' bound on J would make the splats too thin."""
    adapter = load_adapter()
    scene = aside(sparse(make_scene(count=25)), *offset)
    background = torch.ones(3, dtype=torch.float64)
    actual = draw(adapter.draw, scene, background)
    expected = draw(torch_backend.rasterize, scene, background)
    assert expected.alphas.max() > 0.5
    assert (actual.colors - expected.colors).abs().mean() < 1e-5


@pytest.mark.parametrize(
    ("size", "center", "expected"),
    [
        (512, 256, (512, 0)),  # centred: no padding
        (512, 255.9995, (512, 0)),
        (100, 70, (131, 0)),  # (70 + 15) / 0.65
        (100, 30, (131, 31)),
        (100, -50, (254, 154)),
    ],
)
def test_images_are_padded_no_more_than_needed(size, center, expected, load_adapter):
    adapter = load_adapter()
    K = [[300.0, 0.0, center], [0.0, 300.0, size / 2], [0.0, 0.0, 1.0]]
    image = adapter.pad_image(K, size, size)
    assert (image.width, image.left) == expected and (image.height, image.top) == (size, 0)
    assert image.cx == center + image.left


def test_matrices_project_points_as_our_camera_model_does(load_adapter):
    """Pixel centres are integers there and at +0.5 here."""
    adapter = load_adapter()
    cameras = make_scene(views=1).cameras
    image = adapter.pad_image(cameras.Ks[0].tolist(), cameras.width, cameras.height)
    points = 0.3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    homogeneous = torch.cat([points, torch.ones(20, 1)], -1)
    clip = homogeneous @ cameras.viewmats[0].T @ torch.tensor(image.projection, dtype=torch.float64).T
    size = torch.tensor([image.width, image.height])
    pixels = ((clip[:, :2] / clip[:, 3:] + 1) * size - 1) / 2
    expected, depths = cameras.project(points)
    offset = torch.tensor([image.left, image.top]) - 0.5
    torch.testing.assert_close(pixels, expected[0] + offset, rtol=0, atol=1e-9)
    torch.testing.assert_close(clip[:, 3], depths[0], rtol=0, atol=1e-12)


def test_unsupported_settings_are_named(load_adapter):
    adapter = load_adapter(settings=UnknownSettings)
    with pytest.raises(InputError, match=r"kernel_size.*requirements-cuda\.txt"):
        draw(adapter.draw, make_scene(count=3), torch.ones(3))


def test_cpu_tensors_are_refused(load_adapter):
    adapter = load_adapter()
    with pytest.raises(InputError, match=r"CUDA tensors.*backend torch"):
        draw(adapter.rasterize, make_scene(count=3), torch.ones(3))
