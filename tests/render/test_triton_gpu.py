"""Backend `triton` on a GPU: scenes that are too large for the interpreter, and properties that only a GPU has."""

import logging
from dataclasses import replace

import pytest
import torch
from render_scenes import Scene, gradients, make_scene

pytest.importorskip("triton")

from core.render import triton_backend

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, params=["cells", "pairs"])
def binning(request, monkeypatch):
    """Every test runs with both binnings."""
    monkeypatch.setenv("HGG_BINNING", request.param)


def on_gpu(scene: Scene) -> Scene:
    return scene.to(torch.float32).to("cuda")


def many(**options) -> Scene:
    return make_scene(count=4000, width=203, height=147, size=0.015, views=2, **options)


def hard() -> Scene:
    """A fifth opaque, a fifth invisible, needles, huge ones, and some behind, beside and at the cameras."""
    scene = make_scene(count=600, width=150, height=101, size=0.05, views=3)
    g = scene.gaussians.map(torch.clone)
    g.opacities[0::5], g.opacities[1::5] = 1, 0
    g.scales[2::9, 0] = 0.6
    g.scales[2::9, 1:] = 1e-4
    g.scales[3::50] *= 30
    g.means[4::11] *= 12
    g.means[5] = scene.cameras.centers[0]
    return replace(scene, gaussians=g)


def stack() -> Scene:
    """Thousands of Gaussians at the same few pixels."""
    scene = make_scene(count=5000, width=41, height=37, size=0.05)
    return scene.with_gaussians(means=0.02 * scene.gaussians.means, opacities=0.004 + 0.03 * scene.gaussians.opacities)


SCENES = {
    "many": many,
    "hard": hard,
    "stack": stack,
    "opaque": lambda: many().with_gaussians(opacities=torch.ones(4000, dtype=torch.float64)),
    "64 views": lambda: make_scene(count=300, width=40, height=31, size=0.04, views=64),
    "one pixel": lambda: make_scene(count=100, width=1, height=1),
}


@pytest.mark.parametrize("name", SCENES)
def test_matches_the_definition_in_double_precision(name):
    scene = on_gpu(SCENES[name]())
    options = {"return_depth": True, "background": 0.3}
    actual = scene.render(backend="triton", **options)
    expected = scene.to(torch.float64).render(backend="torch", **options)
    for a, e in ((actual.colors, expected.colors), (actual.alphas, expected.alphas)):
        difference = (a.double() - e).abs()
        assert difference.mean() < 2e-5
        # A pixel where some alpha is within rounding of 1/255 may differ by that much.
        assert (difference > 1e-4).double().mean() < 1e-3
        assert difference.max() < 2 / 255

    def render(s: Scene, backend: str):
        cameras = scene.cameras.to(s.cameras.Ks.dtype)  # cameras without gradient, which select the projection kernel
        return Scene(s.gaussians, cameras).render(backend=backend, background=0.3)

    reference = gradients(lambda s: render(s, "torch"), scene.to(torch.float64))
    for key, value in gradients(lambda s: render(s, "triton"), scene).items():
        assert (value.double() - reference[key]).norm() < 1e-3 * reference[key].norm(), key


def test_forward_is_deterministic():
    scene = on_gpu(many())
    first, second = (scene.render(backend="triton", return_depth=True) for _ in range(2))
    assert first.weights is None  # not requested
    for name in ("colors", "alphas", "depths"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_captured_cuda_graph_uses_its_current_inputs():
    scene = on_gpu(many())
    means = scene.gaussians.means.clone().requires_grad_()
    moved = scene.with_gaussians(means=means)

    def step():
        (grad,) = torch.autograd.grad(moved.render(backend="triton").colors.square().sum(), means)
        return grad

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        means += 0.01
    graph.replay()
    expected = step()
    assert (captured - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("count, views, size, scale", [(150_000, 3, 512, 0.003), (3000, 2, 700, 0.3)])
def test_both_binnings_give_equal_images(count, views, size, scale):
    """Many splats, and wide ones: many parts of a bin, and many bins of a splat."""
    scene = on_gpu(make_scene(count=count, width=size, height=size - 9, size=scale, views=views))
    c = scene.cameras
    white = torch.ones(3, device="cuda")
    arguments = scene.gaussians, c.viewmats, c.Ks, c.width, c.height, white, False
    one, other = (triton_backend.rasterize(*arguments, binning=name).colors for name in ("cells", "pairs"))
    assert torch.equal(one, other)


def test_does_not_synchronise_with_the_device():
    scene = on_gpu(many(seed=1))
    means = scene.gaussians.means.requires_grad_()
    scene.render(backend="triton").colors.sum().backward()  # the first call measures the lists
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        colors = scene.with_gaussians(means=means).render(backend="triton").colors
        torch.autograd.grad(colors, means, torch.ones_like(colors))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_overflow_renders_the_same_image_and_is_reported(caplog):
    small = on_gpu(make_scene(count=777, width=99, height=77, size=0.002))
    large = small.with_gaussians(scales=20 * small.gaussians.scales)
    small.render(backend="triton")
    expected = large.to(torch.float64).render(backend="torch")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert (large.render(backend="triton").colors - expected.colors).abs().mean() < 2e-5
            torch.cuda.synchronize()
    assert sum("capacity" in message for message in caplog.messages) == 1


def test_an_overflow_in_a_cuda_graph_renders_the_same_image_and_is_reported(caplog):
    scene = on_gpu(make_scene(count=778, width=99, height=77, size=0.002))
    scales = scene.gaussians.scales.clone()
    scene = scene.with_gaussians(scales=scales)
    for _ in range(2):
        scene.render(backend="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = scene.render(backend="triton")
    scales *= 20
    expected = scene.to(torch.float64).render(backend="torch")
    graph.replay()
    assert (captured.colors - expected.colors).abs().mean() < 2e-5
    torch.cuda.synchronize()
    with caplog.at_level(logging.WARNING):
        scene.render(backend="triton")
    assert sum("capacity" in message for message in caplog.messages) == 1


def test_more_fragments_than_32_bits_can_count():
    count, size = 9000, 512
    scene = on_gpu(make_scene(count=count, width=size, height=size))
    g = scene.gaussians
    scene = scene.with_gaussians(
        means=0.01 * g.means, scales=torch.full_like(g.scales, 50.0), opacities=torch.full_like(g.opacities, 0.0041)
    )
    assert count * size * size > 2**31
    opacities = scene.gaussians.opacities.clone().requires_grad_()
    rendering = scene.with_gaussians(opacities=opacities).render(backend="triton", background=0.0)
    # The transmittance of every pixel is 0.9959^9000, practically 0; a tile stops at 1e-4.
    assert (rendering.alphas > 1 - 1.1e-4).all() and (rendering.alphas <= 1).all()
    (grad,) = torch.autograd.grad(rendering.colors.sum(), opacities)
    # All cover all pixels: with o = 0.0041, the k-th adds o (1 - o)^k of its colour. Gradients decay at the same rate.
    assert grad.isfinite().all()
    depths = scene.cameras.project(scene.gaussians.means)[1][0]
    nearest, farthest = depths.argsort()[:1000], depths.argsort()[-1000:]
    assert grad[nearest].abs().mean() > 100 * grad[farthest].abs().mean()


def test_a_crowded_bucket_renders_the_same_before_and_after_sorting_is_used():
    scene = make_scene(count=3000, width=90, height=70, size=0.02)
    forward = scene.cameras.viewmats[0, 2, :3]
    means = scene.gaussians.means
    scene = on_gpu(scene.with_gaussians(means=means - (means @ forward)[:, None] * forward))
    first, second, third = (scene.render(backend="triton").colors for _ in range(3))
    assert torch.equal(first, second) and torch.equal(first, third)


def test_all_outputs_are_written():
    scene = on_gpu(many(seed=2))
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    try:
        rendering = scene.render(backend="triton", return_depth=True)
        values = gradients(lambda s: s.render(backend="triton", return_depth=True), scene)
        cameras = scene.cameras
        own = gradients(lambda s: Scene(s.gaussians, cameras).render(backend="triton", return_depth=True), scene)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    for value in (*rendering.images.values(), *values.values(), *own.values()):
        assert value.isfinite().all()


def test_more_views_than_the_second_grid_axis_allows():
    """Sets and cameras together exceed 65,535, the limit of the second axis of a grid."""
    scene = on_gpu(make_scene(count=3, width=8, height=8))
    g, c = scene.gaussians.map(lambda x: x[None]), scene.cameras
    views = 66000
    rendering = triton_backend.rasterize(
        g,
        c.viewmats.expand(1, views, 4, 4),
        c.Ks.expand(1, views, 3, 3),
        8,
        8,
        torch.ones(3, device="cuda"),
        False,
    )
    assert (rendering.colors == rendering.colors[:, :1]).all()
