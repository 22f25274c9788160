"""Whole fits: known bodies are recovered from exact landmarks and masks. Steps are few, to stay fast."""

import math
from dataclasses import replace

import pytest
import torch
from fit_scenes import observe_bodies, ring_cameras, standing_bodies, vertex_error, with_skirts

from smpl_renderer.fitting import FitOptions, fit_bodies
from smpl_renderer.fitting.flips import swap_sides
from smpl_renderer.fitting.landmarks import landmark_table
from smpl_renderer.fitting.quality import mask_ious
from smpl_renderer.fitting.surface import height_rows
from smpl_renderer.fitting.weights import Weights
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = FitOptions(steps=0.5)
NAKED = Weights(clearance=0.0)
"""Drawn masks are those of the body itself, without clothes."""


def rotation_degrees(a, b):
    R = axis_angle_to_matrix(a).mT @ axis_angle_to_matrix(b)
    return torch.rad2deg(matrix_to_axis_angle(R).norm(dim=-1))


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "depth"), [("mediapipe", True), ("coco", False)])
def test_several_cameras_recover_pose_shape_and_scale(body, layout, depth):
    true = standing_bodies([0.3, 1.0], betas=(1.0, -0.5), scale=1.1)
    seen = observe_bodies(true, body, ring_cameras(4), layout=layout, depth=depth, up=True)
    result = fit_bodies(seen, body, QUICK, weights=NAKED)
    assert vertex_error(result.params, true, body) < 6
    assert float(result.params.scale[0]) == pytest.approx(1.1, rel=0.02)
    torch.testing.assert_close(result.params.betas[0, :2], true.betas[0, :2], atol=0.4, rtol=0)
    assert rotation_degrees(result.params.global_orient, true.global_orient).max() < 3
    # One shape and scale for all frames.
    assert torch.equal(result.params.betas[0], result.params.betas[1])
    assert all(quality.usable and quality.mask_iou > 0.94 and not quality.warnings for quality in result.quality)
    lowest = -body(true).vertices[..., 1].amax(1)  # the camera's y points down
    torch.testing.assert_close(result.floor, lowest, atol=0.01, rtol=0)


@pytest.mark.slow
def test_one_camera_recovers_the_pose_up_to_its_size_and_depth(body):
    true = standing_bodies([0.0, 2.0], betas=(1.0, -0.5))
    constant, slopes = height_rows(body)
    height = float(constant + slopes[:10] @ true.betas[0])
    result = fit_bodies(observe_bodies(true, body), body, replace(QUICK, height=height), weights=NAKED)
    assert vertex_error(result.params, true, body) < 60
    fitted, wanted = body(result.params).vertices, body(true).vertices
    factor = (fitted * wanted).sum() / fitted.square().sum()
    assert 1000 * (factor * fitted - wanted).norm(dim=-1).mean() < 25
    assert float(result.up[0] @ torch.tensor([0.0, -1.0, 0.0])) > math.cos(math.radians(6))
    # A known height fixes the size.
    betas, scale = result.params.betas[0], result.params.scale[0]
    assert float(scale * (constant + slopes[:10] @ betas)) == pytest.approx(height, abs=0.01)


def test_one_image(body):
    true = standing_bodies([0.4])
    result = fit_bodies(observe_bodies(true, body), body, QUICK, weights=NAKED)
    assert vertex_error(result.params, true, body) < 45
    assert result.quality[0].mask_iou > 0.93
    assert any("is a guess" in warning for warning in result.warnings)


@pytest.mark.slow
def test_perturbed_bodies_are_refined_by_masks_alone(body):
    true = standing_bodies([0.3, 1.0])
    seen = observe_bodies(true, body, ring_cameras(6), up=True)
    seen = replace(seen, landmarks=None, visibility=None, world_landmarks=None)
    rng = torch.Generator().manual_seed(1)

    def noisy(x, size):
        return x + size * torch.randn(x.shape, generator=rng)

    start = replace(
        true,
        global_orient=noisy(true.global_orient, 0.05),
        body_pose=noisy(true.body_pose, 0.06),
        transl=noisy(true.transl, 0.02),
    )
    before = vertex_error(start, true, body)
    result = fit_bodies(seen, body, QUICK, initial=start, weights=NAKED)
    assert before > 25 and vertex_error(result.params, true, body) < 0.4 * before
    assert mask_ious(result.params, body, seen).min() > mask_ious(start, body, seen).min()


@pytest.mark.slow
def test_skirts_hardly_move_bodies_in_several_cameras(body):
    """Wide masks from the waist to the knees pull fits with the weights of one camera further from the truth."""
    true = standing_bodies([0.3, 1.0])
    seen = with_skirts(observe_bodies(true, body, ring_cameras(4), up=True), true, body, cells=9)
    seen = replace(seen, landmarks=None, visibility=None, world_landmarks=None)
    noise = 0.05 * torch.randn(true.body_pose.shape, generator=torch.Generator().manual_seed(1))
    start = replace(true, body_pose=true.body_pose + noise)
    ordinary = replace(NAKED, rig_sigma=NAKED.fine_sigma, refined_width=NAKED.fine_width)
    ordinary = replace(ordinary, rig_loose_offset=NAKED.loose_offset, rig_initial_sigma=NAKED.initial_sigma)
    assert ordinary.of_rig(refined=True) == ordinary.of_rig(refined=False) == ordinary
    errors = [
        vertex_error(
            fit_bodies(seen, body, replace(QUICK, steps=0.3), initial=start, weights=weights).params, true, body
        )
        for weights in (NAKED, ordinary)
    ]
    assert errors[0] < 0.8 * errors[1] and errors[0] < vertex_error(start, true, body), errors


@pytest.mark.slow
def test_what_masks_do_not_show_stays_as_it_was(body):
    """One camera from the front: the depth of the arms follows from the bodies that the fit starts from."""
    true = standing_bodies([0.0])
    pose = true.body_pose.clone().unflatten(1, (23, 3))
    pose[:, [15, 16], 1] = torch.tensor([-0.5, 0.5])  # both arms to the front
    true = replace(true, body_pose=pose.flatten(1))
    seen = observe_bodies(true, body, up=True)
    seen = replace(seen, landmarks=None, visibility=None, world_landmarks=None)
    errors = []
    for factor in (0.0, 10.0):
        weights = replace(NAKED, initial=factor, prior=3.0)
        result = fit_bodies(seen, body, replace(QUICK, steps=0.3), initial=true, weights=weights)
        errors.append(rotation_degrees(*(p.body_pose.unflatten(1, (23, 3)) for p in (result.params, true))).mean())
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.slow
def test_the_true_bodies_stay(body):
    true = standing_bodies([0.3, 1.0])
    seen = observe_bodies(true, body, ring_cameras(4), up=True)
    result = fit_bodies(seen, body, replace(QUICK, steps=0.2), initial=true, weights=NAKED)
    assert vertex_error(result.params, true, body) < 4


@pytest.mark.slow
def test_a_moving_camera_has_gravity_of_its_own_in_each_frame(body):
    upright = standing_bodies([0.0, 2.0])
    pitch = torch.tensor([[0.25, 0.0, 0.0], [-0.2, 0.0, 0.0]])  # the camera nods between the frames
    R = axis_angle_to_matrix(pitch)
    pelvis = body(upright).joints[:, 0]
    true = replace(
        upright,
        global_orient=matrix_to_axis_angle(R @ axis_angle_to_matrix(upright.global_orient)),
        transl=upright.transl,
    )
    assert torch.allclose(body(true).joints[:, 0], pelvis, atol=1e-5)
    result = fit_bodies(observe_bodies(true, body), body, replace(QUICK, moving_camera=True), weights=NAKED)
    up = R @ torch.tensor([0.0, -1.0, 0.0])
    angles = torch.rad2deg((result.up * up).sum(-1).clamp(-1, 1).arccos())
    assert angles.max() < 7 and result.floor.shape == (2,)
    assert rotation_degrees(result.params.global_orient, true.global_orient).max() < 8
    still = fit_bodies(observe_bodies(true, body), body, QUICK, weights=NAKED)
    assert torch.equal(still.up[0], still.up[1])


@pytest.mark.slow
def test_exchanged_sides_are_found_out(body):
    """A network that takes a back for a front exchanges left and right in one frame, and mirrors the depth."""
    azimuths = [0.0, 0.5, 1.0, 1.5]
    true = standing_bodies(azimuths)
    seen = observe_bodies(true, body, masks=False, times=torch.arange(4.0) / 2)
    where = torch.tensor([[False], [True], [False], [False]])
    swapped = swap_sides(seen, where, landmark_table("mediapipe"))
    result = fit_bodies(swapped, body, QUICK, weights=NAKED)
    assert rotation_degrees(result.params.global_orient, true.global_orient).max() < 15


@pytest.mark.slow
def test_frames_without_a_person_follow_their_neighbours_and_are_reported(body):
    true = standing_bodies([0.0, 0.3, 0.6])
    seen = observe_bodies(true, body, ring_cameras(2), up=True)
    visibility = seen.visibility.clone()
    visibility[1] = 0
    masks = seen.silhouettes
    present = masks.present.clone()
    present[1] = False
    blind = replace(seen, visibility=visibility, silhouettes=replace(masks, present=present))
    result = fit_bodies(blind, body, replace(QUICK, steps=0.25), weights=NAKED)
    assert [quality.usable for quality in result.quality] == [True, False, True]
    assert "no person was found" in result.quality[1].warnings
    assert rotation_degrees(result.params.global_orient[1], true.global_orient[1]) < 25
    assert "1 of 3 frames should be left out" in result.warnings


def test_options_hold_shape_and_scale(body):
    true = standing_bodies([0.3], betas=(1.5,), scale=1.1)
    seen = observe_bodies(true, body, ring_cameras(2), up=True)
    options = FitOptions(steps=0.1, fit_shape=False, scale=0.9)
    result = fit_bodies(seen, body, options)
    assert (result.params.betas == 0).all() and float(result.params.scale[0]) == pytest.approx(0.9)


def test_progress_is_reported_once_per_step(body):
    seen = observe_bodies(standing_bodies([0.3, 0.5]), body)
    calls = []
    fit_bodies(seen, body, FitOptions(steps=0.1), on_step=lambda *args: calls.append(args))
    done, totals, energies = zip(*calls)
    assert list(done) == list(range(1, totals[0] + 1)) and set(totals) == {totals[0]}
    assert all(math.isfinite(value) for value in energies[-1].values())
    assert {"landmarks", "bones", "outline", "ground", "prior", "shape"} <= set(energies[-1])


@pytest.mark.slow
def test_the_same_input_gives_the_same_bodies(body):
    seen = observe_bodies(standing_bodies([0.3]), body)
    first, second = (fit_bodies(seen, body, FitOptions(steps=0.05)).params for _ in range(2))
    assert torch.equal(first.body_pose, second.body_pose) and torch.equal(first.transl, second.transl)


def test_nothing_to_fit_to_is_refused(body):
    seen = observe_bodies(standing_bodies([0.3]), body)
    with pytest.raises(ValueError, match="no frame has four landmarks"):
        fit_bodies(replace(seen, visibility=0 * seen.visibility), body, QUICK)
