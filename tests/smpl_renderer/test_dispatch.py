"""Who may run kernels: those that can launch them, outside of comparisons."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.losses.lpips import LPIPS
from core.model.decode import RAW_CHANNELS
from core.model.unet import UNet
from core.options import MODELS
from smpl_renderer import dispatch as kernels
from smpl_renderer.dispatch import kernels_take


class OnCuda(SimpleNamespace):
    """What is asked of a tensor on a CUDA device before its kernels run."""

    def __init__(self):
        super().__init__(is_cuda=True, dtype=torch.float32, shape=(1, 3, 32, 32), requires_grad=False)

    def numel(self) -> int:
        return 3 * 32 * 32


@pytest.fixture
def answers(monkeypatch):
    """Asks everybody who decides between kernels and reference."""
    monkeypatch.setattr(kernels, "can_launch", kernels.can_launch.__wrapped__)  # anew at each call
    lpips = LPIPS.__new__(LPIPS)
    nn.Module.__init__(lpips)
    lpips.net = "vgg"
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    x = OnCuda()
    return lambda: {kernels_take(x, x), kernels.takes(x), lpips._takes_kernels(x, x), kernels.use_kernels()}


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A machine with all that kernels take to launch."""
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(kernels.sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path


@pytest.mark.parametrize("missing", [None, "compiler", "headers", "triton"])
def test_nobody_takes_kernels_where_they_cannot_launch(answers, tools, monkeypatch, missing):
    if missing == "compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tools))
    elif missing == "headers":
        (tools / "Python.h").unlink()
    elif missing == "triton":
        monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    assert answers() == {missing is None}


@pytest.mark.parametrize("inside", [True, False])
def test_nobody_takes_kernels_inside_reference_operations(answers, tools, inside):
    with kernels.reference_operations() if inside else contextlib.nullcontext():
        assert answers() == {not inside}
        assert kernels.kernels_wanted() is not inside
    assert answers() == {True}


def test_the_machine_is_looked_at_once(monkeypatch):
    kernels.can_launch()
    monkeypatch.setattr(kernels.shutil, "which", lambda name: pytest.fail("looked again"))
    kernels.can_launch()


def test_unet_runs_plain_operations_where_references_are_wanted():
    unet = UNet(MODELS["demo-cpu"].unet, RAW_CHANNELS)
    unet.maps = lambda x, fused: fused
    unet.frozen.can_capture = lambda network, x: False
    assert unet(OnCuda())
    with kernels.reference_operations():
        assert not unet(OnCuda())
