"""Camera effects and soft masks: their size, their dependence on seeds, and their limits."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch

from scripts.synthetic.camera_effects import (
    _TABLE,
    READ_NOISE,
    CameraResponses,
    ImageNoise,
    _normal_deviates,
    blurred,
    expose,
    matte,
    sample_noise,
    sample_responses,
)

CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
IDEAL = CameraResponses(
    gains=torch.ones(1, 3),
    gammas=torch.ones(1),
    blurs=torch.tensor([1e-3]),
    wells=torch.tensor([1e12]),
    matte_widths=torch.tensor([1e-3]),
    matte_shifts=torch.zeros(1),
)
STILL = ImageNoise(grain=[0], edges=[0], slips=[(0, 0)])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_an_ideal_camera_changes_nothing():
    colors = torch.rand(1, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(expose(colors, IDEAL, [5]), colors.clamp(min=0.002), rtol=0, atol=2e-4)


@pytest.mark.parametrize("shade", [0.1, 0.3, 0.6, 0.9])  # black cloth to white cloth
def test_noise_leaves_a_psnr_of_40_db(shade):
    names = tuple(str(i) for i in range(12))
    responses = sample_responses(0, "train", 1, names, CPU)
    places = sample_noise(0, "train", 1, names, 55).grain
    colors = torch.full((12, 64, 64, 3), shade)
    noisy = expose(colors, responses, places)
    quiet = expose(colors, replace(responses, wells=responses.wells * 1e9), places)
    ratios = [psnr(n, q) for n, q in zip(noisy, quiet)]
    # Dark tones have the most noise, because display values spread them.
    assert min(ratios) > (40 if shade > 0.2 else 37) and max(ratios) < 52


def test_noise_is_shot_noise_and_read_noise():
    """In linear light the deviation is sqrt(light / well + (read noise / well)^2); neighbours are uncorrelated."""
    responses, light = replace(IDEAL, wells=torch.tensor([8000.0])), 0.25
    taken = expose(torch.full((1, 200, 200, 3), light ** (1 / 2.2)), responses, [77])[0] ** 2.2
    expected = np.sqrt(light / 8000 + (READ_NOISE / 8000) ** 2)
    assert float(taken.std()) == pytest.approx(expected, rel=0.02)  # 120,000 numbers: 0.2 % of the deviation
    assert float(taken.mean()) == pytest.approx(light, abs=1e-4)
    error = (taken - light) / expected
    assert (error[1:] * error[:-1]).mean().abs() < 0.02 and (error[..., 0] * error[..., 1]).mean().abs() < 0.02


def test_responses_depend_on_the_camera_and_noise_on_the_image():
    responses = sample_responses(1, "val", 4, NAMES, CPU)
    alone = sample_responses(1, "val", 4, NAMES[1:2], CPU)
    for name in CameraResponses.__dataclass_fields__:
        assert torch.equal(getattr(responses, name)[1:2], getattr(alone, name)), name
        assert len(getattr(responses, name).reshape(3, -1).unique(dim=0)) == 3, name
    assert sample_noise(1, "val", 4, NAMES, 55) == sample_noise(1, "val", 4, NAMES, 55)
    others = [
        sample_noise(1, "val", 4, NAMES, 60),
        sample_noise(1, "val", 5, NAMES, 55),
        sample_noise(2, "val", 4, NAMES, 55),
    ]
    assert all(other.grain != sample_noise(1, "val", 4, NAMES, 55).grain for other in others)


def test_images_may_be_larger_than_the_table():
    large = _normal_deviates([7, 9], (2, _TABLE // 2 + 3), CPU)
    assert large.shape == (2, 2, _TABLE // 2 + 3)
    assert large.std() == pytest.approx(1, abs=0.01)
    assert torch.equal(large[0, 0, 2:9], large[1, 0, :7])


def test_exposure_balance_and_tone_curve_follow_their_formula():
    """Light is display ** 2.2; it is multiplied by the gains and raised to gamma / 2.2."""
    responses = replace(IDEAL, gains=torch.tensor([[0.97, 1.0, 1.03]]), gammas=torch.tensor([1.02]))
    taken = expose(torch.full((1, 8, 8, 3), 0.5), responses, [0])[0, 4, 4].double()
    light = 0.5**2.2 * torch.tensor([0.97, 1.0, 1.03]).double()
    torch.testing.assert_close(taken, light ** (1.02 / 2.2), rtol=0, atol=1e-5)


def test_colors_differ_by_a_few_percent():
    names = tuple(str(i) for i in range(32))
    responses = sample_responses(0, "train", 1, names, CPU)
    gray = expose(torch.full((32, 8, 8, 3), 0.5), replace(responses, wells=responses.wells * 1e9), [0] * 32)[:, 4, 4]
    assert 0.003 < gray.std(0).mean() < 0.02
    assert (gray - 0.5).abs().max() < 0.025


def test_blur_is_gaussian():
    image = torch.rand(2, 24, 31, 2, generator=torch.Generator().manual_seed(1))
    actual = blurred(image, torch.tensor([0.4, 0.8]), 0.8)
    for original, out, deviation in zip(image.numpy(), actual.numpy(), (0.4, 0.8)):
        expected = scipy.ndimage.gaussian_filter(original, (deviation, deviation, 0), mode="nearest", radius=(3, 3, 0))
        np.testing.assert_allclose(out, expected, atol=1e-6)


def half_plane(size: int = 128) -> torch.Tensor:
    coverage = torch.zeros(1, size, size)
    coverage[:, :, size // 2 :] = 1
    return coverage


@pytest.mark.parametrize("index", range(8))
def test_edges_of_masks_are_ramps_near_the_truth(index):
    responses = sample_responses(0, "train", index, ("a",), CPU)
    soft = matte(half_plane(), responses, replace(STILL, edges=[1000 * index]))[0]
    assert (soft[:, :58] == 0).all() and (soft[:, 70:] > 1 - 1e-5).all()
    assert (soft.diff(dim=1) >= -1e-6).all()
    ramp = ((soft > 0.02) & (soft < 0.98)).sum(1).float()
    assert 1 <= ramp.mean() <= 4 and ramp.max() <= 5
    # The position of the edge, from the area: within half a pixel.
    assert (soft.sum(1) - 64).abs().max() < 0.5


def test_masks_are_displaced_rarely_and_by_a_few_pixels():
    responses = sample_responses(0, "train", 0, ("a",), CPU)
    moved = []
    for place in range(0, 40_000, 10_000):
        still = replace(STILL, edges=[place])
        true, displaced = (
            matte(half_plane(512), responses, n)[0, :, 200:300] for n in (still, replace(still, slips=[(0, 3)]))
        )
        moved.append((true - displaced).sum(1))
    moved = torch.stack(moved)
    assert 2 < moved.max() < 3.1
    assert moved.min() > -0.1
    assert 0.01 < (moved > 0.5).float().mean() < 0.25
    assert sum(slip != (0, 0) for i in range(100) for slip in sample_noise(0, "train", i, ("a",), 5).slips) < 45


@pytest.mark.gpu
def test_devices_agree():
    names = NAMES[:2]
    colors = torch.rand(2, 64, 76, 3, generator=torch.Generator().manual_seed(0))
    noise = sample_noise(0, "train", 1, names, 55)
    taken, cut = [], []
    for device in ("cpu", "cuda"):
        responses = sample_responses(0, "train", 1, names, torch.device(device))
        taken.append(expose(colors.to(device), responses, noise.grain).cpu())
        cut.append(matte(colors[..., 0].to(device), responses, noise).cpu())
    torch.testing.assert_close(taken[1], taken[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(cut[1], cut[0], rtol=0, atol=2e-5)
