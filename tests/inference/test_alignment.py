"""Alignment of fits, cameras and colour gains: an avatar of known truth pulls wrong inputs back to it."""

from dataclasses import replace

import pytest
import torch
from striped_avatar import render_frames, striped_avatar

from core.inference.alignment import Aligner, AlignOptions, balanced_order, without_gains
from core.inference.corrections import Scales
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix

POSES_ONLY = Scales(0.015, 0.006, 0.03, 0.0, 0.0, 0.0, 0.0)
CAMERAS_ONLY = Scales(0.0, 0.0, 0.0, 0.0, 0.0, 0.002, 0.003)
NOTHING = Scales(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LEFT_ELBOW = 17
"""Joint of `body_pose`."""
FREE = AlignOptions(steps=25, prior=1e-6)


@pytest.fixture(scope="module")
def truth(body):
    return striped_avatar(body)


@pytest.fixture(scope="module")
def inputs(truth, body) -> Frames:
    return render_frames(truth, body, 2, [0.0, 110.0])


def error(fits, inputs: Frames, body) -> float:
    """Mean distance of vertices in millimetres."""
    return 1000 * (body(fits).vertices - body(inputs.body).vertices).norm(dim=-1).mean().item()


def wrong_fits(inputs: Frames):
    pose = inputs.body.body_pose.clone()
    pose[:, 3 * LEFT_ELBOW + 1] -= 0.25
    shifts = torch.tensor([[0.02, 0.0, 0.01], [0.0, -0.015, -0.02]])
    turns = torch.tensor([[0.0, 0.06, 0.0], [0.02, 0.0, -0.04]])
    return replace(inputs.body, body_pose=pose, transl=inputs.body.transl + shifts, global_orient=turns)


@pytest.mark.slow
def test_poses_are_recovered(truth, inputs, body):
    wrong = replace(inputs, body=wrong_fits(inputs))
    result = Aligner(body, replace(FREE, rates=POSES_ONLY))(truth, wrong)
    assert error(result.fits, inputs, body) < 0.25 * error(wrong.body, inputs, body)
    assert result.error_after < 0.3 * result.error_before
    assert result.cameras.equal(torch.eye(4).expand(2, 4, 4)) and not result.fits.transl.requires_grad


@pytest.mark.slow
def test_bodies_of_kernels_have_rotations_of_their_own(truth, inputs, body, monkeypatch):
    """On a GPU, bodies that are posed without gradients are a `PosedBody`."""
    aligner = Aligner(body, replace(FREE, steps=2))
    expected = aligner(truth, inputs)

    def forward(self, params):
        return self.pose_reference(params) if torch.is_grad_enabled() else self.pose(params)

    monkeypatch.setattr(BodyModel, "forward", forward)
    result = aligner(truth, inputs)
    assert result.fits.body_pose.equal(expected.fits.body_pose) and result.error_after == expected.error_after


def test_the_shape_is_recovered_and_common_to_all_frames(truth, inputs, body):
    betas = inputs.body.betas.clone()
    betas[:, 0] += 1.0
    rates = replace(NOTHING, betas=0.08, transl=0.003)
    result = Aligner(body, replace(FREE, rates=rates))(truth, replace(inputs, body=replace(inputs.body, betas=betas)))
    assert result.fits.betas[0].equal(result.fits.betas[1])
    assert error(result.fits, inputs, body) < 0.3 * error(replace(inputs.body, betas=betas), inputs, body)


def test_cameras_are_recovered_and_the_first_is_kept(truth, inputs, body):
    """A camera that is off in all frames; the bodies are right."""
    off = torch.eye(4)
    off[:3, :3] = axis_angle_to_matrix(torch.tensor([0.012, -0.01, 0.02]))
    off[:3, 3] = torch.tensor([0.01, 0.02, 0.0])
    viewmats = inputs.cameras.viewmats.clone()
    viewmats[:, 1] = off @ viewmats[:, 1]
    wrong = replace(inputs, cameras=replace(inputs.cameras, viewmats=viewmats))
    result = Aligner(body, replace(FREE, rates=CAMERAS_ONLY))(truth, wrong)
    assert result.cameras[0].equal(torch.eye(4))
    joints = body(inputs.body).joints[0]

    def distance(a, b) -> float:
        """Mean distance in pixels between the images of the joints."""
        cameras = inputs.cameras[0, 1]
        return (
            (replace(cameras, viewmats=a).project(joints)[0] - replace(cameras, viewmats=b).project(joints)[0])
            .norm(dim=-1)
            .mean()
            .item()
        )

    right = inputs.cameras.viewmats[0, 1]
    assert distance(viewmats[0, 1], right) > 0.5
    assert distance(result.cameras[1] @ viewmats[0, 1], right) < 0.25 * distance(viewmats[0, 1], right)
    assert result.fits.transl.equal(inputs.body.transl)


def test_one_camera_is_not_moved(truth, inputs, body):
    one = inputs.select_views([0])
    result = Aligner(body, replace(FREE, steps=2))(truth, one)
    assert result.cameras.equal(torch.eye(4)[None])


def test_gains_are_recovered_and_undone(truth, inputs, body):
    gains = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.7
    gains = gains / gains.mean((0, 1))
    background = 1 - inputs.alphas
    tinted = gains[..., None, None] * (inputs.images - background) + background
    result = Aligner(body, replace(FREE, steps=1, rates=replace(NOTHING, transl=1e-9)))(
        truth, replace(inputs, images=tinted)
    )
    torch.testing.assert_close(result.gains.mean((0, 1)), torch.ones(3))
    # A gain is pulled towards 1 by a share of 1 / 21.
    torch.testing.assert_close(result.gains, gains, rtol=0, atol=0.02)
    restored = without_gains(replace(inputs, images=tinted), gains)
    torch.testing.assert_close(restored.images, inputs.images, rtol=0, atol=1e-5)


def test_correct_inputs_are_kept(truth, inputs, body):
    """Rates end at a fifth of those of the start, hence some millimetres."""
    result = Aligner(body, AlignOptions(steps=20))(truth, inputs)
    assert error(result.fits, inputs, body) < 4
    torch.testing.assert_close(result.gains, torch.ones(2, 2, 3), rtol=0, atol=0.01)


@pytest.mark.slow
def test_the_prior_holds_back_and_results_repeat(truth, inputs, body):
    wrong = replace(inputs, body=wrong_fits(inputs))
    short = replace(FREE, steps=10)
    free, again = (Aligner(body, short)(truth, wrong) for _ in range(2))
    held = Aligner(body, replace(short, prior=100.0))(truth, wrong)
    assert free.fits.body_pose.equal(again.fits.body_pose) and free.gains.equal(again.gains)
    moves = [(result.fits.body_pose - wrong.body.body_pose).norm() for result in (held, free)]
    assert moves[0] < 0.5 * moves[1]


def test_a_view_with_an_empty_mask_is_ignored(truth, inputs, body):
    wrong = replace(inputs, body=wrong_fits(inputs))
    blind = replace(wrong, images=wrong.images.clone(), alphas=wrong.alphas.clone())
    blind.images[:, 1], blind.alphas[:, 1] = 1.0, 0.0
    noisy = replace(blind, images=blind.images.clone())
    noisy.images[:, 1] = 0.3
    options = replace(FREE, steps=5)
    one, other = (Aligner(body, options)(truth, x) for x in (blind, noisy))
    assert one.fits.body_pose.equal(other.fits.body_pose) and (one.gains[:, 1] == 1).all()


@pytest.mark.parametrize("frames, views, images", [(8, 4, 8), (3, 4, 6), (2, 1, 8), (5, 2, 3)])
def test_every_image_occurs_equally_often(frames, views, images):
    order = balanced_order(frames, views, images, 40)
    assert order.shape == (40, min(images, frames * views))
    counts = torch.bincount(order.flatten(), minlength=frames * views)
    assert counts.max() - counts.min() <= 1
    if images == frames:
        assert all(len((row // views).unique()) == frames for row in order)
