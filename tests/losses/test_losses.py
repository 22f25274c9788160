"""Laws of the losses."""

from dataclasses import replace

import pytest
import torch

from core.losses.lpips import LPIPS
from core.losses.reconstruction import crops, reconstruction_loss, surface_distance_loss, weighted_sum
from core.options import LossOptions

PAPER = LossOptions()


def pictures(*batch: int, size: int = 16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    colors, targets = torch.rand(2, *batch, 3, size, size, generator=generator)
    alphas, target_alphas = torch.rand(2, *batch, 1, size, size, generator=generator)
    return colors, alphas, targets, target_alphas


def test_equal_pictures_cost_nothing():
    colors, alphas, _, _ = pictures(2, 3, size=48)
    terms = reconstruction_loss(colors, alphas, colors, alphas, replace(PAPER, ssim=1.0), LPIPS("alex").eval())
    assert set(terms) == {"rgb", "alpha", "ssim", "lpips"}
    torch.testing.assert_close(weighted_sum(terms, replace(PAPER, ssim=1.0)), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_terms_are_those_of_the_paper_and_weighted():
    colors, alphas, targets, target_alphas = pictures(2)
    terms = reconstruction_loss(colors, alphas, targets, target_alphas, PAPER)
    assert set(terms) == {"rgb", "alpha"}  # no SSIM in the paper; no LPIPS without its network
    torch.testing.assert_close(terms["rgb"], (colors - targets).square().mean())
    torch.testing.assert_close(terms["alpha"], (alphas - target_alphas).square().mean())
    weights = replace(PAPER, rgb=2.0, alpha=0.5)
    torch.testing.assert_close(weighted_sum(terms, weights), 2 * terms["rgb"] + 0.5 * terms["alpha"])


def test_lpips_sees_reduced_pictures():
    colors, alphas, targets, target_alphas = pictures(2, 1, size=96)
    sizes = []

    class CudaGraphCache(torch.nn.Module):
        def forward(self, predicted, target):
            sizes.append((predicted.shape, target.shape))
            return predicted.mean((-3, -2, -1))

    options = replace(PAPER, lpips_size=48)
    term = reconstruction_loss(colors, alphas, targets, target_alphas, options, CudaGraphCache())["lpips"]
    assert sizes == [((2, 1, 3, 48, 48),) * 2]
    torch.testing.assert_close(term, colors.mean())  # averages of areas keep the mean


@pytest.mark.parametrize("size", [48, 40, 96])
def test_pieces_are_cut_out_and_cover_a_picture(size):
    place = torch.arange(96.0)
    picture = torch.stack([place[:, None].expand(96, 96), place.expand(96, 96), torch.zeros(96, 96)])
    count = (-(-96 // size)) ** 2
    batch = picture.expand(2, 1, count, 3, 96, 96) + 1000 * torch.arange(2.0)[:, None, None, None, None, None]
    cut = crops(batch, size, crop_index=3)
    assert cut.shape == (2 * count, 3, size, size)
    for person in (0, 1):
        own = cut[(cut[:, 2, 0, 0] == 1000 * person)] - 1000 * person
        seen = {(int(y), int(x)) for y, x in own[:, :2].flatten(2).transpose(1, 2).flatten(0, 1).tolist()}
        assert len(seen) == 96 * 96
        assert (own[:, 0].diff(dim=1) == 1).all() and (own[:, 1].diff(dim=2) == 1).all()


def test_lpips_may_see_pieces():
    colors, alphas, targets, target_alphas = pictures(2, 2, 3, size=96)
    seen = []

    class CudaGraphCache(torch.nn.Module):
        def forward(self, predicted, target):
            seen.append((predicted, target))
            return predicted.mean((-3, -2, -1))

    options = replace(PAPER, lpips_size=48, lpips_crops=True)
    for crop_index in (0, 1):
        reconstruction_loss(colors, alphas, targets, target_alphas, options, CudaGraphCache(), crop_index)
    first, second = seen
    for own, whole in zip(first, (colors, targets)):
        assert own.shape == (12, 3, 48, 48)
        assert torch.equal(own[0], whole[0, 0, 0, :, :48, :48])
        assert torch.equal(own[2], whole[1, 0, 0, :, :48, :48])  # of the other person the same
    for own, whole in zip(second, (colors, targets)):
        assert torch.equal(own[0], whole[0, 0, 0, :, :48, 48:])


def test_tie_loss_counts_only_what_is_masked():
    distances = torch.tensor([[0.1, 0.2, float("nan")]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(surface_distance_loss(distances, mask), torch.tensor((1.0 + 8.0) / 2))
    assert surface_distance_loss(distances, torch.zeros_like(mask)) == 0
    others = surface_distance_loss(torch.full((1, 3), 0.3), torch.ones(1, 3, dtype=torch.bool))
    both = surface_distance_loss(
        torch.cat([distances, torch.full((1, 3), 0.3)]), torch.cat([mask, ~torch.zeros_like(mask)])
    )
    torch.testing.assert_close(both, (4.5 + others) / 2)  # persons count the same, whatever they have in the mask


def test_tie_loss_pulls_the_far_ones_most_and_leaves_finite_gradients():
    distances = torch.tensor([[0.05, 0.1, 0.0, float("inf")]], requires_grad=True)
    surface_distance_loss(distances, torch.tensor([[True, True, True, False]])).backward()
    near, far, zero, outside = distances.grad[0].tolist()
    assert far == pytest.approx(4 * near) and near > 0
    assert zero == 0 and outside == 0
