"""Noise on stored fits: smooth in time, constant for the shape, larger at the hands than at the spine."""

import numpy as np
import pytest
import torch

from scripts.synthetic.fits import perturb_fits
from smpl_renderer.types import BodyParams

FRAMES = tuple(range(5, 3005, 5))  # two minutes, five fits a second


@pytest.fixture(scope="module")
def errors():
    """Errors of a deviation of 0.02 rad on zero parameters [F]."""
    return errors_at(FRAMES)


def errors_at(frames) -> BodyParams:
    return perturb_fits(BodyParams.zeros(len(frames)), frames, 0.02, np.random.default_rng(3))


def test_errors_have_the_stated_size(errors):
    assert errors.body_pose.square().mean().sqrt() == pytest.approx(0.02, rel=0.15)
    spread = errors.body_pose.reshape(-1, 23, 3).square().mean((0, 2)).sqrt()
    hands, spine = spread[[19, 20, 21, 22]].mean(), spread[[2, 5, 8]].mean()
    assert hands > 2 * spine
    # Fractions of a centimetre and of a degree.
    assert 0.0005 < errors.transl.square().mean().sqrt() < 0.005
    assert 0.002 < errors.global_orient.square().mean().sqrt() < 0.012


def test_errors_of_consecutive_frames_are_alike(errors):
    pose = errors.body_pose
    change = (pose[1:] - pose[:-1]).square().mean().sqrt() / pose.square().mean().sqrt()
    assert change < 0.25  # independent errors would change by sqrt(2)
    later = (pose[50:] - pose[:-50]).square().mean().sqrt() / pose.square().mean().sqrt()
    assert later > 0.6


def test_the_error_of_the_shape_is_constant(errors):
    assert (errors.betas == errors.betas[:1]).all() and errors.betas.abs().max() > 0.01


def test_the_error_of_a_frame_does_not_depend_on_other_frames():
    few = errors_at(FRAMES[3:7])
    torch.testing.assert_close(few.body_pose, errors_at(FRAMES).body_pose[3:7])
