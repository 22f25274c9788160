"""Properties of the losses."""

from dataclasses import replace

import pytest
import torch

from core.losses.lpips import LPIPS
from core.losses.reconstruction import crops, reconstruction_loss, surface_distance_loss, weighted_sum
from core.options import LossOptions

PAPER = LossOptions()


def random_images(*batch: int, size: int = 16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    colors, targets = torch.rand(2, *batch, 3, size, size, generator=generator)
    alphas, target_alphas = torch.rand(2, *batch, 1, size, size, generator=generator)
    return colors, alphas, targets, target_alphas


def test_equal_images_have_zero_loss():
    colors, alphas, _, _ = random_images(2, 3, size=48)
    terms = reconstruction_loss(colors, alphas, colors, alphas, replace(PAPER, ssim=1.0), LPIPS("alex").eval())
    assert set(terms) == {"rgb", "alpha", "ssim", "lpips"}
    torch.testing.assert_close(weighted_sum(terms, replace(PAPER, ssim=1.0)), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_terms_are_those_of_the_paper_and_are_weighted():
    colors, alphas, targets, target_alphas = random_images(2)
    terms = reconstruction_loss(colors, alphas, targets, target_alphas, PAPER)
    assert set(terms) == {"rgb", "alpha"}  # no SSIM in the paper; no LPIPS without its network
    torch.testing.assert_close(terms["rgb"], (colors - targets).square().mean())
    torch.testing.assert_close(terms["alpha"], (alphas - target_alphas).square().mean())
    weights = replace(PAPER, rgb=2.0, alpha=0.5)
    torch.testing.assert_close(weighted_sum(terms, weights), 2 * terms["rgb"] + 0.5 * terms["alpha"])


def test_lpips_compares_resampled_images():
    colors, alphas, targets, target_alphas = random_images(2, 1, size=96)
    sizes = []

    class Recorder(torch.nn.Module):
        def forward(self, predicted, target):
            sizes.append((predicted.shape, target.shape))
            return predicted.mean((-3, -2, -1))

    options = replace(PAPER, lpips_size=48)
    term = reconstruction_loss(colors, alphas, targets, target_alphas, options, Recorder())["lpips"]
    assert sizes == [((2, 1, 3, 48, 48),) * 2]
    torch.testing.assert_close(term, colors.mean())  # area averages preserve the mean


@pytest.mark.parametrize("size", [48, 40, 96])
def test_crops_are_contiguous_and_cover_an_image(size):
    position = torch.arange(96.0)
    image = torch.stack([position[:, None].expand(96, 96), position.expand(96, 96), torch.zeros(96, 96)])
    count = (-(-96 // size)) ** 2
    batch = image.expand(2, 1, count, 3, 96, 96) + 1000 * torch.arange(2.0)[:, None, None, None, None, None]
    cut = crops(batch, size, crop_index=3)
    assert cut.shape == (2 * count, 3, size, size)
    for subject in (0, 1):
        own = cut[(cut[:, 2, 0, 0] == 1000 * subject)] - 1000 * subject
        seen = {(int(y), int(x)) for y, x in own[:, :2].flatten(2).transpose(1, 2).flatten(0, 1).tolist()}
        assert len(seen) == 96 * 96
        assert (own[:, 0].diff(dim=1) == 1).all() and (own[:, 1].diff(dim=2) == 1).all()


def test_lpips_compares_the_same_crops_of_both_images():
    colors, alphas, targets, target_alphas = random_images(2, 2, 3, size=96)
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, predicted, target):
            seen.append((predicted, target))
            return predicted.mean((-3, -2, -1))

    options = replace(PAPER, lpips_size=48, lpips_crops=True)
    for crop_index in (0, 1):
        reconstruction_loss(colors, alphas, targets, target_alphas, options, Recorder(), crop_index)
    first, second = seen
    for own, whole in zip(first, (colors, targets)):
        assert own.shape == (12, 3, 48, 48)
        assert torch.equal(own[0], whole[0, 0, 0, :, :48, :48])
        assert torch.equal(own[2], whole[1, 0, 0, :, :48, :48])  # the same for the other subject
    for own, whole in zip(second, (colors, targets)):
        assert torch.equal(own[0], whole[0, 0, 0, :, :48, 48:])


def test_surface_distance_loss_counts_only_masked_gaussians():
    distances = torch.tensor([[0.1, 0.2, float("nan")]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(surface_distance_loss(distances, mask), torch.tensor((1.0 + 8.0) / 2))
    assert surface_distance_loss(distances, torch.zeros_like(mask)) == 0
    others = surface_distance_loss(torch.full((1, 3), 0.3), torch.ones(1, 3, dtype=torch.bool))
    both = surface_distance_loss(
        torch.cat([distances, torch.full((1, 3), 0.3)]), torch.cat([mask, ~torch.zeros_like(mask)])
    )
    torch.testing.assert_close(both, (4.5 + others) / 2)  # subjects have equal weight, whatever the size of their masks


def test_surface_distance_loss_has_larger_gradients_farther_away_and_finite_ones():
    distances = torch.tensor([[0.05, 0.1, 0.0, float("inf")]], requires_grad=True)
    surface_distance_loss(distances, torch.tensor([[True, True, True, False]])).backward()
    near, far, zero, outside = distances.grad[0].tolist()
    assert far == pytest.approx(4 * near) and near > 0
    assert zero == 0 and outside == 0
