"""Metrics against independent formulas, and their properties."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from core.losses.metrics import PSNR_CEILING, box_mask, person_boxes, psnr, psnr_in_box, quantize
from core.losses.ssim import _blur, ssim, ssim_reference
from core.losses.ssim_window import ssim_window


def noisy_pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(*shape, generator=generator)
    return (target + 0.1 * torch.randn(*shape, generator=generator)).clamp(0, 1), target


def test_ssim_equals_the_published_formula():
    predicted, target = noisy_pair(3, 24, 31)
    per_channel = []
    for x, y in zip(predicted.double().numpy(), target.double().numpy()):
        # radius 5: scipy's filter then has the 11 x 11 window; the border that it pads is cut off.
        mean = lambda a: gaussian_filter(a, sigma=1.5, radius=5)[5:-5, 5:-5]  # noqa: E731
        mu_x, mu_y = mean(x), mean(y)
        var_x, var_y, cov = mean(x * x) - mu_x**2, mean(y * y) - mu_y**2, mean(x * y) - mu_x * mu_y
        luminance = (2 * mu_x * mu_y + 1e-4) / (mu_x**2 + mu_y**2 + 1e-4)
        per_channel.append((luminance * (2 * cov + 9e-4) / (var_x + var_y + 9e-4)).mean())
    torch.testing.assert_close(
        ssim(predicted.double(), target.double()).item(), np.mean(per_channel), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("size", [(11, 40), (57, 33)])  # a single row of windows; several squares, none of them full
def test_ssim_kernels_equal_the_definition(size):
    pytest.importorskip("triton")
    from core.losses.ssim_kernel import SsimMeans

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predicted, target = (x.to(device) for x in noisy_pair(3, *size))
    weights = torch.tensor([1.0, -2.0, 0.3], device=device)
    results = []
    for dtype, function in ((torch.float32, SsimMeans.apply), (torch.float64, ssim_reference)):
        x = predicted.to(dtype).requires_grad_()
        means = function(x, target.to(dtype))
        results.append((means.double(), torch.autograd.grad((weights * means).sum(), x)[0].double()))
    (means, grads), (expected, expected_grads) = results
    # Variances are differences of means close to 1: errors of 1e-7, relative to c2 = 9e-4.
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-3, atol=1e-3 * expected_grads.abs().max().item())


@pytest.mark.parametrize("size", [(11, 11), (30, 17)])  # one window, and more in each direction
def test_blur_on_a_cpu_equals_convolutions(size):
    maps = torch.rand(3, 5, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    window = ssim_window(maps)
    kernel = (window[:, None] * window).expand(5, 1, 11, 11)
    results = []
    for blur in (_blur, lambda x: torch.nn.functional.conv2d(x, kernel, groups=5)):
        leaf = maps.clone().requires_grad_()
        blurred = blur(leaf)
        cotangent = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        results.append((blurred, *torch.autograd.grad(blurred, leaf, cotangent)))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)  # sums of 121 terms in double precision


def test_ssim_is_symmetric_and_1_for_equal_images():
    predicted, target = noisy_pair(2, 4, 3, 16, 16)
    assert ssim(predicted, target).shape == (2, 4)
    torch.testing.assert_close(ssim(target, target), torch.ones(2, 4))
    torch.testing.assert_close(ssim(predicted, target), ssim(target, predicted))
    assert (ssim(predicted, target) < 0.99).all()
    with pytest.raises(ValueError, match="at least 11"):
        ssim(predicted[..., :8], target[..., :8])


def test_psnr_is_computed_per_image():
    target = torch.full((2, 3, 4, 4), 0.5)
    predicted = target + torch.tensor([0.1, 0.01])[:, None, None, None]
    torch.testing.assert_close(psnr(predicted, target), torch.tensor([20.0, 40.0]), rtol=1e-4, atol=0)
    assert psnr(target, target).tolist() == [PSNR_CEILING] * 2


def test_quantized_images_hold_multiples_of_1_255th():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.7])
    assert (quantize(values) * 255).tolist() == [0, 0, 0, 1, 255, 255]


def test_boxes_of_masks():
    alphas = torch.zeros(3, 1, 40, 60)
    alphas[0, 0, 10:30, 20:25] = 1  # longer side 20, so one pixel of padding
    alphas[1, 0, 0, 59] = 1  # a corner: the padding is clipped
    assert person_boxes(alphas).tolist() == [[19, 9, 26, 31], [58, 0, 60, 2], [0, 0, 60, 40]]
    mask = box_mask(person_boxes(alphas), 40, 60)
    assert mask.shape == alphas.shape and mask.sum((-3, -2, -1)).tolist() == [7 * 22, 4, 2400]


def test_psnr_in_the_box_ignores_the_rest_of_the_image():
    predicted, target = noisy_pair(1, 3, 40, 40)
    alphas = torch.zeros(1, 1, 40, 40)
    alphas[..., 8:32, 10:20] = 1
    left, top, right, bottom = person_boxes(alphas)[0]
    expected = psnr(predicted[..., top:bottom, left:right], target[..., top:bottom, left:right])
    predicted[..., :5, :5] = 7.0
    torch.testing.assert_close(psnr_in_box(predicted, target, alphas), expected)
