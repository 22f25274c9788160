"""Measures of what no input image shows."""

import math
from dataclasses import replace

import pytest
import torch
from model_rig import ring_cameras

from core.inference.evaluation import MetricSuite
from core.types.cameras import Cameras
from core.types.frames import Frames
from scripts.benchmarks.unseen import (
    METRICS,
    color_errors,
    far_views,
    measure_unseen,
    unseen_faces,
    unseen_pixels,
    visible_faces,
)
from smpl_renderer.types import BodyParams

SIZE = 64


@pytest.fixture(scope="module")
def frames(body) -> Frames:
    """The body in grey from four sides: front, left, back and right."""
    params = BodyParams.zeros(1)
    params = replace(params, transl=-body(params).joints[:, 0])
    ring = ring_cameras(4, SIZE)
    cameras = Cameras(ring.viewmats[None], ring.Ks[None], SIZE, SIZE)
    alphas = (visible_faces(body, params, cameras) >= 0).float()[:, :, None]
    images = (1 - 0.6 * alphas).expand(1, 4, 3, SIZE, SIZE)
    return Frames(images, alphas, cameras, params)


def test_the_back_is_far_from_the_front_and_unseen_in_it(body, frames):
    front = frames.select_views([0])
    turned = ring_cameras(12, SIZE)
    assert far_views(turned, front.cameras[0]).nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]
    share = unseen_pixels(body, unseen_faces(body, front), frames).sum((-3, -2, -1)) / frames.alphas.sum((-3, -2, -1))
    own, left, back, right = share[0].tolist()
    assert own == 0 and back > 0.85 and 0.3 < left < 0.85 and abs(left - right) < 0.1


def test_errors_of_patterns_do_not_count_in_local_means():
    images = torch.full((1, 1, 3, SIZE, SIZE), 0.5)
    mask = torch.ones(1, 1, 1, SIZE, SIZE, dtype=torch.bool)
    stripes = torch.tensor([0.1, -0.1]).repeat(SIZE // 2)
    pixels, local, _ = color_errors(images + stripes, images, mask)
    assert pixels == pytest.approx(25.5, abs=1e-3) and local < 6
    brighter = color_errors(images + 0.1, images, mask)
    assert brighter == pytest.approx((25.5, 25.5, 0.0), abs=1e-3)
    redder = color_errors(images + torch.tensor([0.1, 0, 0])[:, None, None], images, mask)
    assert redder[0] == pytest.approx(8.5, abs=1e-3) and redder[2] > 8
    assert all(math.isnan(x) for x in color_errors(images, images, ~mask))


def test_all_metrics_are_measured(body, frames):
    """Equal images have no error, and a wrong back lowers the measures of far views most."""
    suite = MetricSuite(torch.device("cpu"), ())
    front, targets = frames.select_views([0]), frames.select_views([1, 2, 3])
    perfect = measure_unseen(targets.images, targets, front, body, suite)
    assert list(perfect) == list(METRICS)
    assert perfect["PSNR"] == perfect["far PSNR"] == 100 and perfect["unseen"] < 0.5
    rendered = targets.images.clone()
    rendered[:, 1] -= 0.3 * targets.alphas[:, 1]
    wrong = measure_unseen(rendered, targets, front, body, suite)
    assert wrong["far PSNR"] < wrong["PSNR"] and wrong["unseen"] > 20
    assert math.isnan(wrong["LPIPS"])
