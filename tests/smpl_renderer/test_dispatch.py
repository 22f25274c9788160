"""The choice between kernels and references."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.losses.lpips import LPIPS
from core.model.decode import RAW_CHANNELS
from core.model.unet import UNet
from core.options import MODELS
from smpl_renderer import dispatch
from smpl_renderer.dispatch import FLOAT_TYPES, can_use_kernels, layer_dtype


class CudaTensor(SimpleNamespace):
    """The attributes of a CUDA tensor on which the choice depends."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32, requires_grad: bool = False):
        super().__init__(is_cuda=True, dtype=dtype, shape=shape or (1, 3, 32, 32), requires_grad=requires_grad)

    def numel(self) -> int:
        return torch.Size(self.shape).numel()


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """A machine with everything that Triton needs; the check of it is not cached."""
    monkeypatch.setattr(dispatch, "can_launch", dispatch.can_launch.__wrapped__)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(dispatch.sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "Python.h").touch()
    return tmp_path


@pytest.fixture
def autocast(monkeypatch):
    """Autocast to bfloat16 on CUDA, without a device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)


@pytest.mark.parametrize("missing", [None, "compiler", "headers", "triton"])
def test_kernels_need_triton_a_compiler_and_headers(tools, monkeypatch, missing):
    if missing == "compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tools))
    elif missing == "headers":
        (tools / "Python.h").unlink()
    elif missing == "triton":
        monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    assert can_use_kernels(CudaTensor()) is (missing is None)


def test_reference_operations_turn_kernels_off_and_on_again(tools):
    assert can_use_kernels(CudaTensor())
    with dispatch.reference_operations():
        assert not can_use_kernels(CudaTensor()) and not dispatch.kernels_wanted()
        with dispatch.reference_operations():
            pass
        assert not can_use_kernels(CudaTensor())
    assert can_use_kernels(CudaTensor()) and dispatch.kernels_wanted()


@pytest.mark.parametrize("other", [torch.zeros(3), CudaTensor(0, 3), CudaTensor(dtype=torch.bfloat16)])
def test_tensors_must_be_on_cuda_not_empty_and_of_one_dtype(tools, other):
    x = CudaTensor()
    assert can_use_kernels(x, x, constants=[x], dtypes=FLOAT_TYPES)
    assert not can_use_kernels(x, other, dtypes=FLOAT_TYPES)
    assert not can_use_kernels(x, constants=[x, other], dtypes=FLOAT_TYPES)


def test_dtypes_are_those_of_the_kernel(tools):
    single, half, double = (CudaTensor(dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64))
    assert can_use_kernels(single) and not can_use_kernels(half) and not can_use_kernels(double)
    assert can_use_kernels(half, dtypes=FLOAT_TYPES) and not can_use_kernels(double, dtypes=FLOAT_TYPES)
    assert can_use_kernels(single, constants=[double], dtypes=None)
    assert not can_use_kernels(single, torch.zeros(1), dtypes=None)


def test_constants_must_not_require_gradients(tools):
    x = CudaTensor(requires_grad=True)
    assert can_use_kernels(x, constants=[CudaTensor()])
    assert not can_use_kernels(CudaTensor(), constants=[x])
    with torch.no_grad():
        assert can_use_kernels(CudaTensor(), constants=[x])


def test_layers_run_kernels_under_autocast_only(tools, autocast, monkeypatch):
    assert layer_dtype(CudaTensor(10, 64)) == torch.bfloat16
    assert layer_dtype(CudaTensor(10, 48)) is None
    assert layer_dtype(CudaTensor(10, 64, dtype=torch.bfloat16)) is None
    with dispatch.reference_operations():
        assert layer_dtype(CudaTensor(10, 64)) is None
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    assert layer_dtype(CudaTensor(10, 64)) is None


@pytest.mark.parametrize("wanted", [True, False])
def test_lpips_chooses_kernels_by_the_same_rule(tools, autocast, wanted):
    lpips = LPIPS.__new__(LPIPS)
    nn.Module.__init__(lpips)
    lpips.net = "vgg"
    with contextlib.nullcontext() if wanted else dispatch.reference_operations():
        assert lpips._can_use_kernels(CudaTensor(), CudaTensor()) is wanted
        assert not lpips._can_use_kernels(CudaTensor(), CudaTensor(requires_grad=True))


def test_tools_are_searched_for_once(monkeypatch):
    dispatch.can_launch()
    monkeypatch.setattr(dispatch.shutil, "which", lambda name: pytest.fail("searched again"))
    dispatch.can_launch()


def test_unet_runs_plain_operations_inside_reference_operations():
    unet = UNet(MODELS["demo-cpu"].unet, RAW_CHANNELS)
    unet.maps = lambda x, fused: fused
    unet.frozen.can_run = lambda network, x: False
    assert unet(CudaTensor())
    with dispatch.reference_operations():
        assert not unet(CudaTensor())
