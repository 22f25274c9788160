"""A U-Net whose weights do not train: its copy in bfloat16, which must follow them and cost nobody anything."""

import contextlib
import copy
from unittest.mock import MagicMock

import pytest
import torch
from model_rig import TEST_UNET

from core.model.decode import RAW_CHANNELS
from core.model.unet import INPUT_CHANNELS, UNet
from core.runtime import cuda_graphs as recorded
from core.runtime.cuda_graphs import CudaGraphCache

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def lowered() -> torch.autocast:
    return torch.autocast(DEVICE, torch.bfloat16)


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(TEST_UNET, RAW_CHANNELS).to(DEVICE).requires_grad_(False)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 2, INPUT_CHANNELS, 32, 32, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def run(unet: UNet, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As on CUDA: by the copy where it serves."""
    with lowered():
        assert unet.frozen.can_capture(unet, x)
        return unet.frozen(unet, x)


def test_serves_only_where_bfloat16_and_no_gradient_are_asked_for(unet, x):
    assert not unet.frozen.can_capture(unet, x)
    with lowered():
        assert unet.frozen.can_capture(unet, x)
        assert not unet.frozen.can_capture(unet, x.clone().requires_grad_())
        unet.conv_out.bias.requires_grad_()
        assert not unet.frozen.can_capture(unet, x)


def test_equals_the_network_and_keeps_nothing_for_a_backward_pass(unet, x):
    exact = unet.maps(x, fused=False)
    for lower, full in zip(run(unet, x), exact, strict=True):
        assert lower.dtype == torch.bfloat16 and lower.grad_fn is None
        # bfloat16 keeps 2^-9; some twenty roundings follow each other.
        assert (lower - full).norm() < 0.02 * full.norm()


def test_names_and_numbers_of_the_network_stay(unet, x):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    run(unet, x)
    after = unet.state_dict()
    assert list(after) == list(before) and len(list(unet.modules())) == len(list(copy.deepcopy(unet).modules()))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("change", ["load", "in place", "data", "train", "double"])
def test_never_stale(unet, x, change):
    old = run(unet, x)[0]
    torch.manual_seed(1)
    other = UNet(TEST_UNET, RAW_CHANNELS).to(DEVICE)
    if change == "load":
        unet.load_state_dict(other.state_dict())
    elif change == "in place":
        for own, new in zip(unet.parameters(), other.parameters()):
            own.copy_(new.detach())
    elif change == "data":
        for own, new in zip(unet.parameters(), other.parameters()):
            own.data = new.data
    elif change == "double":
        unet.double().float().load_state_dict(other.state_dict())
    else:
        unet.requires_grad_(True)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=0.1, fused=True)  # does not count its changes
        unet.frozen.can_capture(unet, x)
        sum(output.square().mean() for output in unet(x)).backward()
        optimizer.step()
        unet.requires_grad_(False)
    new = run(unet, x)[0]
    expected = unet.maps(x, fused=False)[0]
    assert (new - expected).norm() < 0.02 * expected.norm()
    assert (new - old).norm() > 0.1 * expected.norm()


def test_a_copied_network_has_a_copy_of_its_own(unet, x):
    old = run(unet, x)[0]
    twin = copy.deepcopy(unet)
    twin.conv_out.bias.add_(1)
    torch.testing.assert_close(run(twin, x)[0].float(), old.float() + 1, rtol=0.02, atol=0.02)
    assert torch.equal(run(unet, x)[0], old)


@pytest.fixture
def recording(unet, monkeypatch):
    """Without a CUDA device, recordings that give the results of when they were made, whatever their input."""
    unet.frozen.graph_cache.enabled = True
    if DEVICE == "cpu":
        monkeypatch.setattr(CudaGraphCache, "can_capture", lambda self, x: self.enabled)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", MagicMock)
        monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())


def test_recordings_of_inference_mode_serve_outside_of_it(unet, x, recording):
    with torch.inference_mode():
        for _ in range(3):
            inside = run(unet, x.clone())
    with torch.no_grad():
        outside = run(unet, x)
    assert [r is not None for r in unet.frozen.graph_cache._seen.values()] == [True]
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_without_memory_it_goes_on_without_recordings(unet, x, recording, monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(recorded, "CapturedGraph", fail)
    first, second = run(unet, x), run(unet, x)
    assert not unet.frozen.graph_cache.enabled and "no memory is left" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_recorded_calls_equal_launched_ones_for_every_shape(unet, x):
    inputs = [x, x[:1], x[:, :1], x + 1]
    launched = [run(unet, i) for i in inputs]
    unet.frozen.graph_cache.enabled = True
    for _ in range(3):
        recorded = [run(unet, i) for i in inputs]
    for a, b in zip(recorded, launched, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    unet.conv_out.bias.add_(1)
    torch.testing.assert_close(run(unet, x)[0].float(), launched[0][0].float() + 1, rtol=0.02, atol=0.02)


@pytest.mark.gpu
def test_recordings_follow_weights_that_are_loaded_or_move(unet, x):
    unet.frozen.graph_cache.enabled = True
    for _ in range(3):
        run(unet, x)
    torch.manual_seed(1)
    unet.load_state_dict(UNet(TEST_UNET, RAW_CHANNELS).state_dict())
    loaded = run(unet, x)[0]
    expected = unet.maps(x, fused=False)[0]
    assert (loaded - expected).norm() < 0.02 * expected.norm()
    unet.to("cpu").to(DEVICE)
    for _ in range(3):
        assert torch.equal(run(unet, x)[0], loaded)
