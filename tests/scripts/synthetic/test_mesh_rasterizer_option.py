"""The option `--mesh-rasterizer` of the commands that draw synthetic people."""

import importlib.machinery
import importlib.util

import pytest
import torch

from scripts.synthetic import CaptureOptions, write_dataset
from scripts.synthetic.drawing import pick_mesh_rasterizer
from smpl_renderer.errors import InputError


@pytest.mark.parametrize(
    ("name", "device", "installed", "expected"),
    [
        ("torch", "cuda", True, "torch"),
        ("auto", "cuda", True, "nvdiffrast"),
        ("auto", "cuda", False, "torch"),
        ("auto", "cpu", True, "torch"),
        ("nvdiffrast", "cuda", True, "nvdiffrast"),
    ],
)
def test_auto_selects_nvdiffrast_on_cuda_where_it_is_installed(name, device, installed, expected, monkeypatch):
    spec = importlib.machinery.ModuleSpec("nvdiffrast", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    assert pick_mesh_rasterizer(name, torch.device(device)) == expected


@pytest.mark.parametrize(
    ("device", "installed", "reason"), [("cpu", True, "needs CUDA, got device cpu"), ("cuda", False, "not installed")]
)
def test_nvdiffrast_that_cannot_run_is_refused_before_drawing(device, installed, reason, monkeypatch):
    spec = importlib.machinery.ModuleSpec("nvdiffrast", None) if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match=f"--mesh-rasterizer nvdiffrast .*{reason}.*; choose torch"):
        pick_mesh_rasterizer("nvdiffrast", torch.device(device))


def test_the_selected_rasterizer_draws_the_images(tmp_path):
    """The adapter to nvdiffrast refuses CPU tensors, so that it must have been called."""
    options = CaptureOptions(frames=(5,), cameras=1, width=32, height=32, samples=1)
    with pytest.raises(InputError, match=r"nvdiffrast .*CUDA tensors"):
        write_dataset(tmp_path, {"209001": 1}, options, mesh_rasterizer="nvdiffrast")
