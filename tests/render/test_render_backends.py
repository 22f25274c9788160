"""Selection of a rasterizer, and inputs that `rasterize` refuses."""

import sys
from dataclasses import replace

import pytest
import torch
from render_scenes import make_scene

from core.render import available_backends, backends
from core.render.backends import load_backend
from smpl_renderer.errors import InputError

PEERS = ("gsplat", "diff_gaussian_rasterization")


@pytest.mark.parametrize("has_numba", [False, True])
def test_auto_on_a_cpu_selects_numba_if_it_is_installed(has_numba, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_can_load_numba", lambda: has_numba)
    assert backends.backend_name("auto", torch.device("cpu")) == ("numba" if has_numba else "torch")
    assert available_backends() == (("torch", "numba") if has_numba else ("torch",))


def test_numba_that_is_switched_off_or_broken_is_reported_with_a_remedy(monkeypatch, caplog):
    monkeypatch.setattr(backends, "_has_numba", lambda: False)
    with pytest.raises(InputError, match=r"numba is not installed .* backend torch"):
        load_backend("numba", torch.device("cpu"))
    assert not backends._can_load_numba.__wrapped__() and not caplog.records

    monkeypatch.setattr(backends, "_has_numba", lambda: True)
    monkeypatch.delattr("core.render.numba_backend", raising=False)
    monkeypatch.setitem(sys.modules, "core.render.numba_backend", None)  # importing it fails
    assert not backends._can_load_numba.__wrapped__()
    assert "cannot be loaded" in caplog.text and "choose backend torch" in caplog.text


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"triton", "tools", "gsplat"}, "triton"),
        ({"triton", "tools"}, "triton"),
        ({"triton", "gsplat"}, "gsplat"),  # no compiler
        ({"tools"}, "torch"),
    ],
)
def test_auto_selects_the_fastest_installed_backend_on_cuda(monkeypatch, installed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "can_launch", lambda: {"triton", "tools"} <= installed)
    monkeypatch.setattr(backends, "_has_gsplat", lambda: "gsplat" in installed)
    assert backends.backend_name("auto", torch.device("cuda")) == expected
    assert backends.backend_name("auto", torch.device("cpu")) in ("numba", "torch")


def test_triton_without_a_compiler_is_reported_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_has_triton", lambda: True)
    monkeypatch.setattr(backends, "can_launch", lambda: False)
    with pytest.raises(InputError, match=r"triton needs a C compiler .* backend torch"):
        load_backend("triton", torch.device("cuda"))


def test_an_unknown_backend_is_named():
    with pytest.raises(InputError, match=r"'opengl'.*auto.*torch.*gsplat"):
        make_scene().render(backend="opengl")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("installed, reason", [(False, "not installed"), (True, "needs a CUDA device")])
def test_a_peer_that_cannot_run_is_reported_in_one_line(peer, installed, reason, monkeypatch):
    monkeypatch.setattr(backends, f"_has_{peer}", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=f"{peer} .*{reason}") as caught:
        make_scene().render(backend=peer)
    assert "\n" not in str(caught.value) and "backend torch" in str(caught.value)


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_cannot_be_imported_is_reported_in_one_line(peer, monkeypatch):
    monkeypatch.setattr(backends, f"_has_{peer}", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, peer, None)  # importing it fails
    monkeypatch.delitem(sys.modules, f"core.render.{peer}_backend", raising=False)
    with pytest.raises(InputError, match=f"{peer} is installed but cannot be loaded: .*backend torch") as caught:
        load_backend(peer, torch.device("cuda"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("present", [(), ("gsplat",), PEERS])
def test_installed_peers_are_available(present, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for peer in PEERS:
        monkeypatch.setattr(backends, f"_has_{peer}", lambda peer=peer: peer in present)
    assert tuple(name for name in available_backends() if name in PEERS) == present


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
def test_gaussians_of_wrong_shape_or_dtype_are_named(name, value):
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
def test_cameras_of_wrong_shape_are_named(changes, message):
    scene = make_scene()
    with pytest.raises(ValueError, match=message):
        replace(scene, cameras=replace(scene.cameras, **changes)).render()


def test_a_background_of_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"background .* got \[4\]"):
        make_scene().render(background=torch.zeros(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_check_names_the_input_that_is_not_finite(value, monkeypatch):
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
    for a, e in zip(actual.images.values(), expected.images.values()):
        torch.testing.assert_close(a.cpu(), e, rtol=0, atol=1e-10)
