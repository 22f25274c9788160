"""Choosing a rasterizer, what `rasterize` refuses, and whether other backends agree with the definition."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from render_scenes import gradients, make_scene

from core.render import available_backends, backends, rasterize
from core.render.backends import load_backend
from smpl_renderer.errors import InputError


def test_auto_is_torch_on_a_cpu():
    assert load_backend("auto", torch.device("cpu")) is load_backend("torch", torch.device("cpu"))
    assert "torch" in available_backends()


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"triton", "tools", "gsplat"}, "triton"),
        ({"triton", "tools"}, "triton"),
        ({"triton", "gsplat"}, "gsplat"),  # no compiler
        ({"tools"}, "torch"),
    ],
)
def test_auto_takes_the_fastest_that_is_installed_on_cuda(monkeypatch, installed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_has_triton", lambda: "triton" in installed)
    monkeypatch.setattr(backends, "_has_launch_tools", lambda: "tools" in installed)
    monkeypatch.setattr(backends, "_has_gsplat", lambda: "gsplat" in installed)
    assert backends.backend_name("auto", torch.device("cuda")) == expected
    assert backends.backend_name("auto", torch.device("cpu")) == "torch"


def test_triton_without_a_compiler_is_one_line_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_has_triton", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"triton needs a C compiler .* backend torch"):
        load_backend("triton", torch.device("cuda"))


def test_unknown_backend_is_refused_by_name():
    with pytest.raises(InputError, match=r"'opengl'.*auto.*torch.*gsplat"):
        make_scene().render(backend="opengl")


@pytest.mark.parametrize("installed, reason", [(False, "not installed"), (True, "CUDA")])
def test_gsplat_where_it_cannot_run_is_one_line_with_a_remedy(installed, reason, monkeypatch):
    monkeypatch.setattr(backends, "_has_gsplat", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=reason) as caught:
        make_scene().render(backend="gsplat")
    assert "\n" not in str(caught.value) and "backend torch" in str(caught.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("means", torch.zeros(60, 2)),
        ("quats", torch.zeros(59, 4)),
        ("scales", torch.zeros(1, 60, 3)),
        ("opacities", torch.zeros(60, 1)),
        ("colors", torch.zeros(60, 3, dtype=torch.uint8)),
    ],
)
def test_gaussians_that_do_not_fit_are_named(name, value):
    with pytest.raises(ValueError, match=r"gaussians\."):
        make_scene().with_gaussians(**{name: value}).render()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Ks": torch.zeros(1, 4, 4)}, r"Ks must be \[1, 3, 3\].*got \[1, 4, 4\]"),
        ({"Ks": torch.zeros(2, 3, 3)}, r"Ks must be \[1, 3, 3\]"),
        ({"viewmats": torch.zeros(4, 4)}, r"viewmats must be \[C, 4, 4\]"),
        ({"viewmats": torch.zeros(2, 1, 4, 4)}, r"viewmats must be \[1, 4, 4\]"),
        ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, "no view"),
        ({"width": 0}, "width and height"),
    ],
)
def test_cameras_that_do_not_fit_are_named(changes, message):
    scene = make_scene()
    with pytest.raises(ValueError, match=message):
        replace(scene, cameras=replace(scene.cameras, **changes)).render()


def test_background_that_is_no_color_is_named():
    with pytest.raises(ValueError, match=r"background .* got \[4\]"):
        make_scene().render(background=torch.zeros(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_names_what_is_not_finite(value, monkeypatch):
    scene = make_scene()
    scene.gaussians.scales[5, 1] = value
    scene.render()
    with pytest.raises(ValueError, match=r"gaussians.scales has 1 of 180"):
        scene.render(check=True)
    monkeypatch.setenv("HGG_CHECK", "1")
    with pytest.raises(ValueError, match=r"gaussians.scales"):
        scene.render()
    scene.render(check=False)


@pytest.mark.gpu
def test_torch_on_cuda_equals_torch_on_cpu():
    scene = make_scene(views=2)
    expected = scene.render(return_depth=True, backend="torch")
    actual = scene.to("cuda").render(return_depth=True, backend="torch")
    for a, e in zip(vars(actual).values(), vars(expected).values()):
        torch.testing.assert_close(a.cpu(), e, rtol=0, atol=1e-10)


needs_gsplat = pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")


def sparse_scene(**options):
    """Opacity at most 0.5 and little overlap, so that no pixel comes near gsplat's stop at a transmittance of 1e-4."""
    scene = make_scene(count=60, width=150, height=110, size=0.02, **options)
    return scene.with_gaussians(opacities=0.1 + 0.4 * scene.gaussians.opacities).to(torch.float32).to("cuda")


@pytest.mark.gpu
@needs_gsplat
def test_gsplat_agrees_where_it_does_not_stop_early():
    scene = sparse_scene(views=3)
    actual = scene.render(return_depth=True, backend="gsplat", background=0.4)
    expected = scene.to(torch.float64).render(return_depth=True, backend="torch", background=0.4)
    for a, e in zip((actual.colors, actual.alphas), (expected.colors, expected.alphas)):
        difference = (a - e).abs()
        # Single precision and fast exponentials; a pixel on the cut at alpha = 1/255 may lose or gain that much.
        assert difference.mean() < 2e-5
        assert (difference > 1e-4).double().mean() < 1e-3
        assert difference.max() < 2 / 255
    # Depth is a quotient: compare it where something is.
    seen = expected.alphas > 0.05
    assert (actual.depths - expected.depths)[seen].abs().mean() < 1e-3

    reference = gradients(lambda s: s.render(backend="torch"), scene.to(torch.float64))
    for name, value in gradients(lambda s: s.render(backend="gsplat"), scene).items():
        # Probes saw up to 2e-2, of single precision in gsplat's projection; a wrong factor or sign would be of order 1.
        assert (value - reference[name]).norm() < 3e-2 * reference[name].norm(), name


@pytest.mark.gpu
@needs_gsplat
def test_gsplat_is_close_on_average_where_it_does():
    scene = make_scene(count=3000, width=128, height=128, size=0.03, views=2).to(torch.float32).to("cuda")
    actual, expected = scene.render(backend="gsplat"), scene.to(torch.float64).render(backend="torch")
    # What is behind a transmittance of 1e-4 is at most that bright, and at the cut pixels differ.
    assert (actual.colors - expected.colors).abs().mean() < 1e-4


@pytest.mark.gpu
@needs_gsplat
def test_gsplat_takes_batches_as_a_loop_would():
    scenes = [sparse_scene(views=2, seed=seed) for seed in range(6)]

    def stacked(values):
        return torch.stack(list(values)).unflatten(0, (2, 3))

    gaussians = replace(
        scenes[0].gaussians,
        **{name: stacked(getattr(s.gaussians, name) for s in scenes) for name in vars(scenes[0].gaussians)},
    )
    viewmats, Ks = stacked(s.cameras.viewmats for s in scenes), stacked(s.cameras.Ks for s in scenes)
    options = {"return_depth": True, "backend": "gsplat"}
    together = rasterize(gaussians, viewmats, Ks, 150, 110, **options)
    assert together.colors.shape == (2, 3, 2, 3, 110, 150)
    for i, scene in enumerate(scenes):
        alone = scene.render(**options)
        for a, e in zip(vars(together).values(), vars(alone).values()):
            torch.testing.assert_close(a[i // 3, i % 3], e)


@pytest.mark.gpu
@needs_gsplat
def test_gsplat_draws_nothing_and_double_precision_too():
    scene = sparse_scene()
    empty = replace(scene, gaussians=scene.gaussians.take(torch.zeros(0, dtype=torch.long, device="cuda")))
    assert (empty.render(backend="gsplat").colors == 1).all()
    assert scene.to(torch.float64).render(backend="gsplat").colors.dtype == torch.float64
