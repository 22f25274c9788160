"""Kernels of group normalisation and residual sums against their references, in the interpreter or on a GPU."""

import pytest
import torch
from torch import Tensor

from core.ops.group_norm import group_norm, group_norm_reference
from core.ops.residual_sum import residual_sum, residual_sum_reference

pytest.importorskip("triton")

from core.ops import group_norm_kernel as kernels
from core.ops.group_norm_kernel import GroupNorm
from core.ops.residual_sum_kernel import ResidualSum

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
"""Tolerances relative to the largest value of a result. float32 rounds by 6e-8 and loses some in sums; bfloat16 rounds
by 2^-8, or 2^-7 in the interpreter, which truncates."""


def maps(*shape: int, seed: int, mean: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random maps with channels last in memory. Each channel has its own mean and standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift = torch.rand(2, shape[1], 1, 1, generator=generator)
    x = (torch.randn(shape, generator=generator) + shift) * (0.5 + scale) + mean
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def vectors(count: int, channels: int, seed: int) -> list[Tensor]:
    return list(torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)).to(DEVICE))


def results(call, inputs: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    """Output and gradients of <output, cotangent>."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = call(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, cotangent.to(y.dtype))]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=tolerance * e.abs().max().item())


CASES = [
    # images, channels, groups, height, width
    (2, 16, 2, 5, 7),
    (1, 80, 10, 3, 5),
    (2, 48, 2, 4, 3),  # groups of 24
    (1, 96, 2, 2, 9),  # groups of 48
    (1, 128, 2, 3, 3),  # groups of 64
    (1, 320, 32, 2, 3),  # groups of 10, several blocks of them
    (3, 8, 1, 6, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("images", "channels", "groups", "height", "width"), CASES)
def test_norm_and_all_gradients_equal_the_reference(images, channels, groups, height, width, dtype):
    silu = width % 2 == 1
    x = maps(images, channels, height, width, seed=channels, dtype=dtype)
    weight, bias, shift = vectors(3, channels, seed=1)
    cotangent = maps(images, channels, height, width, seed=2, dtype=dtype)
    actual = results(lambda *v: GroupNorm.apply(*v, groups, 1e-5, silu), [x, weight, bias, shift], cotangent)
    assert actual[0].dtype == actual[1].dtype == dtype
    assert actual[0].is_contiguous(memory_format=torch.channels_last)
    exact = [v.double() for v in (x, weight, bias, shift)]
    expected = results(
        lambda x, w, b, s: group_norm_reference(x, groups, w, b, 1e-5, silu, s), exact, cotangent.double()
    )
    assert_close(actual[:2], expected[:2], ROUNDING[dtype])
    assert_close(actual[2:], expected[2:], 2e-5)  # sums over all pixels, in float32


@pytest.mark.parametrize("silu", [True, False])
def test_norm_without_shift(silu):
    x, cotangent = (maps(2, 16, 3, 3, seed=seed) for seed in range(2))
    weight, bias = vectors(2, 16, seed=1)
    actual = results(lambda *v: GroupNorm.apply(*v, None, 2, 1e-5, silu), [x, weight, bias], cotangent)
    exact = [v.double() for v in (x, weight, bias)]
    expected = results(lambda x, w, b: group_norm_reference(x, 2, w, b, 1e-5, silu), exact, cotangent.double())
    assert_close(actual, expected, 2e-5)


@pytest.mark.parametrize("limits", [(64, 64), (64, 3), (2, 2)])
def test_norm_does_not_depend_on_how_pixels_are_divided_among_programs(limits, monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 64)  # 4 pixels of 16 channels: 9 tiles, the last one in part
    monkeypatch.setattr(kernels, "MAX_CHUNKS", limits[0])
    monkeypatch.setattr(kernels, "PROGRAMS", limits[1])
    x, cotangent = (maps(1, 16, 5, 7, seed=seed) for seed in range(2))
    rest = vectors(3, 16, seed=1)
    actual = results(lambda *v: GroupNorm.apply(*v, 2, 1e-5, True), [x, *rest], cotangent)
    exact = [v.double() for v in (x, *rest)]
    expected = results(lambda x, w, b, s: group_norm_reference(x, 2, w, b, 1e-5, True, s), exact, cotangent.double())
    assert_close(actual, expected, 2e-5)


def test_a_large_mean_does_not_reduce_the_precision_of_the_deviation():
    x = maps(1, 16, 8, 8, seed=0, mean=1000.0)
    weight, bias = vectors(2, 16, seed=1)
    actual = GroupNorm.apply(x, weight, bias, None, 2, 1e-5, False)
    expected = group_norm_reference(x.double(), 2, weight.double(), bias.double())
    # float32 rounds values near 1000 by 6e-5. Differences of sums of squares would be off by 0.06.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=5e-4)


@pytest.mark.parametrize("channels", [8, 80, 192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_residual_sum_equals_the_reference(channels, dtype):
    x, skip, cotangent = (maps(2, channels, 5, 3, seed=seed, dtype=dtype) for seed in range(3))
    (bias,) = vectors(1, channels, seed=3)
    actual = results(lambda *v: ResidualSum.apply(*v, 0.7), [x, skip, bias], cotangent)
    assert actual[0].dtype == dtype
    exact = [v.double() for v in (x, skip, bias)]
    expected = results(lambda *v: residual_sum_reference(*v, 0.7), exact, cotangent.double())
    assert_close(actual, expected, ROUNDING[dtype])


def test_errors_name_the_wrong_argument():
    x, (weight, bias, other) = torch.zeros(1, 12, 2, 2), torch.zeros(3, 12)
    with pytest.raises(ValueError, match="multiple of num_groups 5"):
        group_norm(x, 5, weight, bias)
    with pytest.raises(ValueError, match="shift must be"):
        group_norm(x, 4, weight, bias, shift=other[:4])
    with pytest.raises(ValueError, match="one shape"):
        residual_sum(x, x[:, :4], bias, 1.0)
    with pytest.raises(ValueError, match="bias must be"):
        residual_sum(x, x, bias[:4], 1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("channels", "groups", "size"), [(64, 8, 256), (384, 32, 128), (80, 10, 64), (512, 32, 32), (2048, 32, 8)]
)
def test_usual_sizes_in_either_order_of_memory(channels, groups, size, dtype):
    x, cotangent = (maps(4, channels, size, size, seed=seed, dtype=dtype) for seed in range(2))
    rest = vectors(3, channels, seed=1)

    def call(x, weight, bias, shift):
        return group_norm(x, groups, weight, bias, silu=True, shift=shift)

    actual = results(call, [x, *rest], cotangent)
    for a, e in zip(results(call, [x.contiguous(), *rest], cotangent.contiguous()), actual, strict=True):
        assert torch.equal(a, e)
    exact = [v.double() for v in (x, *rest)]
    expected = results(
        lambda x, w, b, s: group_norm_reference(x, groups, w, b, 1e-5, True, s), exact, cotangent.double()
    )
    assert_close(actual[:2], expected[:2], 2 * ROUNDING[dtype])
    assert_close(actual[2:], expected[2:], 1e-4)
