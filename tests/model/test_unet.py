"""The U-Net: sizes, independence of the number and the order of views, and its fused operations."""

import sys
from types import SimpleNamespace

import pytest
import torch
from model_rig import TEST_UNET

from core.model.decode import RAW_CHANNELS
from core.model.unet import INPUT_CHANNELS, MultiViewAttention, UNet, attend
from core.options import BIG_UNET, MODELS, UNetOptions
from smpl_renderer.errors import InputError


def test_preset_big_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        unet = UNet(BIG_UNET, RAW_CHANNELS)
    count = sum(p.numel() for p in unet.parameters())
    assert count == pytest.approx(415e6, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_presets_give_maps_of_their_splat_size(name):
    options = MODELS[name].unet
    with torch.device("meta"):
        raw, features = UNet(options, RAW_CHANNELS)(
            torch.empty(1, 2, INPUT_CHANNELS, options.input_size, options.input_size)
        )
    assert raw.shape == (1, 2, RAW_CHANNELS, options.splat_size, options.splat_size)
    assert features.shape[-2:] == raw.shape[-2:]


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_any_number_of_views_is_accepted_and_their_order_does_not_matter(views):
    torch.manual_seed(0)
    unet = UNet(TEST_UNET, RAW_CHANNELS)
    x = torch.randn(2, views, INPUT_CHANNELS, 32, 32)
    order = torch.randperm(views)
    raw, features = unet(x)
    shuffled_raw, shuffled_features = unet(x[:, order])
    torch.testing.assert_close(shuffled_raw, raw[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled_features, features[:, order], rtol=1e-4, atol=1e-5)


def test_views_of_a_frame_influence_each_other_and_frames_do_not():
    torch.manual_seed(0)
    unet = UNet(TEST_UNET, RAW_CHANNELS)
    x = torch.randn(2, 2, INPUT_CHANNELS, 32, 32)
    changed = x.clone()
    changed[0, 1] += 1
    before, after = unet(x)[0], unet(changed)[0]
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-4
    torch.testing.assert_close(after[1], before[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"splat_size": 8},
        {"down_attention": (False,)},
        {"up_attention": (False,)},
        {"input_size": 34, "splat_size": 17},
        {"up_channels": (8, 8, 8, 8), "up_attention": (False,) * 4},
    ],
)
def test_contradictory_options_are_refused(wrong):
    options = {**TEST_UNET.__dict__, **wrong}
    with pytest.raises(InputError):
        UNet(UNetOptions(**options), RAW_CHANNELS)


def outputs_and_gradients(unet: UNet, x: torch.Tensor, fused: bool | None) -> list[torch.Tensor]:
    """Raw channels, features, and the gradients of every parameter for random cotangents.

    Args:
        fused: Run the plain or the fused operations; None: those that the network chooses.
    """
    outputs = unet(x) if fused is None else unet.maps(x, fused)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(y.shape, generator=generator).to(y) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(unet.parameters()), cotangents)]


@pytest.fixture
def unet() -> UNet:
    """A U-Net with random norms and biases."""
    torch.manual_seed(0)
    unet = UNet(TEST_UNET, RAW_CHANNELS)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 2, INPUT_CHANNELS, 32, 32, generator=torch.Generator().manual_seed(0))


def assert_equal_up_to_rounding(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=tolerance * e.abs().max().item())


def test_fused_operations_equal_plain_ones(unet, x):
    plain, fused = outputs_and_gradients(unet, x, False), outputs_and_gradients(unet, x, True)
    assert_equal_up_to_rounding(fused, plain, 1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_recomputation_does_not_change_gradients(unet, x, fused, monkeypatch):
    kept = outputs_and_gradients(unet, x, fused)
    calls = []
    forward = MultiViewAttention._mix
    monkeypatch.setattr(MultiViewAttention, "_mix", lambda *a: calls.append(1) or forward(*a))
    unet.recompute = True
    recomputed = outputs_and_gradients(unet, x, fused)
    assert len(calls) == 2 * sum(isinstance(module, MultiViewAttention) for module in unet.modules())
    assert_equal_up_to_rounding(recomputed, kept, 1e-6)


def test_the_order_of_memory_does_not_matter(unet, x):
    expected = unet(x)
    actual = unet.to(memory_format=torch.channels_last)(x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3))
    assert_equal_up_to_rounding(actual, expected, 1e-5)


def test_attention_by_xformers_gets_axes_in_its_order(unet, monkeypatch):
    def naive(queries, keys, values):  # [B, tokens, heads, D], as xformers documents it
        weights = torch.einsum("bqhd,bkhd->bhqk", queries, keys) / queries.shape[-1] ** 0.5
        return torch.einsum("bhqk,bkhd->bqhd", weights.softmax(-1), values)

    ops = SimpleNamespace(memory_efficient_attention=naive)
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=ops))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    unet.use_attention("xformers")
    parts = torch.randn(3, 2, 5, 4, 8)
    torch.testing.assert_close(attend(*parts, "xformers"), attend(*parts, "sdpa"))
    assert {m.implementation for m in unet.modules() if isinstance(m, MultiViewAttention)} == {"xformers"}


def test_attention_that_is_unknown_or_not_installed_is_refused(unet, monkeypatch):
    with pytest.raises(InputError, match="attention must be one of sdpa, xformers"):
        unet.use_attention("flash")
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(InputError, match="or choose sdpa"):
        unet.use_attention("xformers")


def test_xformers_built_for_another_pytorch_is_refused(unet, monkeypatch):
    def missing(*_):
        raise NotImplementedError("No operator found")

    ops = SimpleNamespace(memory_efficient_attention=missing)
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=ops))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)  # no CUDA device is needed
    with pytest.raises(InputError, match="another PyTorch or CUDA"):
        unet.use_attention("xformers")


def test_moving_the_network_clears_captured_graphs(unet):
    unet.graph_cache._graphs[None] = None
    unet.float()
    assert unet.graph_cache._graphs == {}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_fused_operations_equal_plain_ones_on_a_gpu(name):
    torch.manual_seed(0)
    unet = UNet(MODELS[name].unet, RAW_CHANNELS).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(2, 2, INPUT_CHANNELS, 256, 256, device="cuda")
    with torch.backends.cudnn.flags(allow_tf32=False):
        plain, fused = outputs_and_gradients(unet, x, False), outputs_and_gradients(unet, x, True)
        with torch.autocast("cuda", torch.bfloat16):
            lowered = outputs_and_gradients(unet, x, True)
            plain_lowered = outputs_and_gradients(unet, x, False)
    assert_equal_up_to_rounding(fused, plain, 1e-4)  # sums over 65,536 pixels, in another order
    for a, b, e in zip(lowered, plain_lowered, plain, strict=True):
        # The error of fused operations in bfloat16 is that of plain ones.
        assert (a - e).norm() < 1.5 * (b - e).norm() + 0.01 * e.norm()


@pytest.mark.gpu
def test_training_with_captured_graphs_gives_the_same_results():
    torch.manual_seed(0)
    unet = UNet(MODELS["demo"].unet, RAW_CHANNELS).cuda().to(memory_format=torch.channels_last)
    unet.graph_cache.enabled = True
    for step in range(8):  # two input signatures, each run without a graph, captured, and replayed
        x = torch.randn(2, 1 + step % 2, INPUT_CHANNELS, 256, 256, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            expected, actual = (outputs_and_gradients(unet, x, fused) for fused in (True, None))
        for a, e in zip(actual, expected, strict=True):
            assert (a - e).norm() < 0.04 * e.norm()  # sums in bfloat16, in another order: 2 % in an early norm
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter += 1e-3 * torch.randn_like(parameter)
    assert sum(graph is not None for graph in unet.graph_cache._graphs.values()) == 2


@pytest.mark.gpu
def test_attention_by_xformers_gives_the_same_results():
    pytest.importorskip("xformers")
    torch.manual_seed(0)
    unet = UNet(MODELS["demo"].unet, RAW_CHANNELS).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(1, 2, INPUT_CHANNELS, 256, 256, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        expected = outputs_and_gradients(unet, x, True)
        unet.use_attention("xformers")
        actual = outputs_and_gradients(unet, x, True)
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() < 0.05 * e.norm()  # 2.4 % of rounding to bfloat16 in the first convolution
