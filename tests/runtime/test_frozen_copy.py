"""The bfloat16 copy of a U-Net whose weights are not trained: when it runs, its results, and that it is never stale."""

import contextlib
import copy
from unittest.mock import MagicMock

import pytest
import torch
from model_rig import TEST_UNET

from core.model.decode import RAW_CHANNELS
from core.model.unet import INPUT_CHANNELS, UNet
from core.runtime import cuda_graphs
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
    """Run the copy under autocast, as the U-Net does on CUDA."""
    with lowered():
        assert unet.frozen.can_run(unet, x)
        return unet.frozen(unet, x)


def test_runs_only_under_autocast_to_bfloat16_and_without_gradients(unet, x):
    assert not unet.frozen.can_run(unet, x)
    with lowered():
        assert unet.frozen.can_run(unet, x)
        assert not unet.frozen.can_run(unet, x.clone().requires_grad_())
        unet.conv_out.bias.requires_grad_()
        assert not unet.frozen.can_run(unet, x)


def test_matches_the_network_and_keeps_no_autograd_graph(unet, x):
    exact = unet.maps(x, fused=False)
    for lower, full in zip(run(unet, x), exact, strict=True):
        assert lower.dtype == torch.bfloat16 and lower.grad_fn is None
        # bfloat16 has a relative precision of 2^-9; about twenty roundings follow each other.
        assert (lower - full).norm() < 0.02 * full.norm()


def test_state_dict_and_modules_of_the_network_do_not_change(unet, x):
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    run(unet, x)
    after = unet.state_dict()
    assert list(after) == list(before) and len(list(unet.modules())) == len(list(copy.deepcopy(unet).modules()))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("change", ["load", "in place", "data", "train", "double"])
def test_copy_follows_changed_weights(unet, x, change):
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
        optimizer = torch.optim.AdamW(unet.parameters(), lr=0.1, fused=True)  # does not increment version counters
        unet.frozen.can_run(unet, x)
        sum(output.square().mean() for output in unet(x)).backward()
        optimizer.step()
        unet.requires_grad_(False)
    new = run(unet, x)[0]
    expected = unet.maps(x, fused=False)[0]
    assert (new - expected).norm() < 0.02 * expected.norm()
    assert (new - old).norm() > 0.1 * expected.norm()


def test_a_deepcopied_network_has_its_own_copy(unet, x):
    old = run(unet, x)[0]
    twin = copy.deepcopy(unet)
    twin.conv_out.bias.add_(1)
    torch.testing.assert_close(run(twin, x)[0].float(), old.float() + 1, rtol=0.02, atol=0.02)
    assert torch.equal(run(unet, x)[0], old)


@pytest.fixture
def graphs(unet, monkeypatch):
    """Enable graphs; without a CUDA device they are fakes that return the results of the capture for any input."""
    unet.frozen.graph_cache.enabled = True
    if DEVICE == "cpu":
        monkeypatch.setattr(CudaGraphCache, "can_capture", lambda self, x: self.enabled)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", MagicMock)
        monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())


def test_graphs_captured_in_inference_mode_are_replayed_outside_of_it(unet, x, graphs):
    with torch.inference_mode():
        for _ in range(3):
            inside = run(unet, x.clone())
    with torch.no_grad():
        outside = run(unet, x)
    assert [r is not None for r in unet.frozen.graph_cache._graphs.values()] == [True]
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_lack_of_memory_disables_graphs(unet, x, graphs, monkeypatch, caplog):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cuda_graphs, "CapturedGraph", fail)
    first, second = run(unet, x), run(unet, x)
    assert not unet.frozen.graph_cache.enabled and "not enough GPU memory" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_replayed_calls_equal_launched_ones_for_every_shape(unet, x):
    inputs = [x, x[:1], x[:, :1], x + 1]
    launched = [run(unet, i) for i in inputs]
    unet.frozen.graph_cache.enabled = True
    for _ in range(3):
        replayed = [run(unet, i) for i in inputs]
    for a, b in zip(replayed, launched, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    unet.conv_out.bias.add_(1)
    torch.testing.assert_close(run(unet, x)[0].float(), launched[0][0].float() + 1, rtol=0.02, atol=0.02)


@pytest.mark.gpu
def test_graphs_follow_loaded_and_moved_weights(unet, x):
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
