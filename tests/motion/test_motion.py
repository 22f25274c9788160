"""Motions: resampling, application to bodies, and the built-in loops."""

from dataclasses import replace

import pytest
import torch

from core.motion.builtin import SEQUENCES, builtin_motion, sole_vertices
from core.motion.motion import Motion, apply_motion, in_periods, in_place, resample
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix


def make_motion(count: int = 5, loops: bool = False, seed: int = 0) -> Motion:
    generator = torch.Generator().manual_seed(seed)
    orient, pose, pelvis = (0.3 * torch.randn(count, n, generator=generator, dtype=torch.float64) for n in (3, 69, 3))
    return Motion(orient, pose, pelvis, fps=20.0, name="random", loops=loops)


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Radians between rotations given as axis-angle [..., 3]."""
    R = axis_angle_to_matrix(a).mT @ axis_angle_to_matrix(b)
    return torch.acos(((R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))


def test_resampling_at_the_same_rate_changes_nothing():
    motion = make_motion()
    same = resample(motion, motion.fps)
    assert len(same) == len(motion)
    # Through matrices and back in float64; acos keeps half of the digits near 0.
    assert angle_between(same.body_pose.view(5, 23, 3), motion.body_pose.view(5, 23, 3)).max() < 1e-7
    torch.testing.assert_close(same.pelvis, motion.pelvis)


@pytest.mark.parametrize("fps", [7.0, 24.0, 120.0])
def test_resampled_frames_lie_on_the_arcs_between_their_neighbours(fps):
    motion = make_motion()
    other = resample(motion, fps)
    assert other.seconds <= motion.seconds < other.seconds + 1 / fps + 1e-9
    for i in range(len(other)):
        position = i * motion.fps / fps
        left = min(int(position + 1e-9), len(motion) - 2)
        a, b, x = motion.global_orient[left], motion.global_orient[left + 1], other.global_orient[i]
        total = angle_between(a, b)
        torch.testing.assert_close(angle_between(a, x), (position - left) * total, atol=1e-6, rtol=0)
        torch.testing.assert_close(angle_between(x, b), (1 - position + left) * total, atol=1e-6, rtol=0)


def test_a_loop_repeats_and_other_motions_hold_their_end():
    loop, clip = make_motion(loops=True), make_motion()
    twice = resample(loop, loop.fps, count=10)
    torch.testing.assert_close(twice.pelvis[:5], twice.pelvis[5:])
    held = resample(clip, clip.fps, count=10)
    assert (held.pelvis[5:] == held.pelvis[4]).all()


@pytest.mark.parametrize("fps", [7.3, 24.0, 59.94])
def test_a_loop_closes_at_any_rate(fps):
    """A turn at constant speed keeps equal steps, also from the last frame to the first."""
    angles = torch.arange(11, dtype=torch.float64) * (2 * torch.pi / 11)
    orient = torch.stack([0 * angles, angles, 0 * angles], -1)
    turn = Motion(orient, torch.zeros(11, 69).double(), 0 * orient, fps=20.0, name="turn", loops=True)
    other = resample(turn, fps)
    assert abs(other.seconds - turn.seconds) <= 0.5 / fps
    steps = angle_between(other.global_orient, other.global_orient.roll(-1, 0))
    torch.testing.assert_close(steps, torch.full_like(steps, 2 * torch.pi / len(other)), rtol=0, atol=1e-7)


def test_a_loop_is_repeated_in_whole_periods():
    loop, clip = make_motion(count=11, loops=True), make_motion()
    long = in_periods(loop, 7.3, 1.0)  # 0.55 s are 4 frames
    assert len(long) == 8
    torch.testing.assert_close(long.pelvis[:4], long.pelvis[4:])
    torch.testing.assert_close(long.pelvis[:4], resample(loop, 7.3).pelvis)
    assert len(in_periods(clip, clip.fps, 9.0)) == len(clip)


def test_frame_rates_out_of_range_are_refused():
    with pytest.raises(InputError, match="frame rate"):
        resample(make_motion(), 0)
    with pytest.raises(ValueError, match="body_pose"):
        replace(make_motion(), body_pose=torch.zeros(5, 63))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEQUENCES))
def test_builtin_motions_close_and_stand_on_the_floor(name, body):
    motion = builtin_motion(name, body)
    params = apply_motion(motion, body, torch.zeros(10))
    joints = body(params).joints
    steps = (joints - joints.roll(1, 0)).norm(dim=-1).amax(1)
    # The step from the last frame to the first is no larger than the steps within the loop.
    assert steps[0] <= 1.5 * steps[1:].max()
    assert steps.max() < 0.15  # 4.5 m/s at 30 frames per second
    lowest = body(params).vertices[..., 1].amin(-1)
    assert lowest.abs().max() < 0.01  # one foot is on the floor in every frame


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, sequence in SEQUENCES.items() if not sequence.treadmill])
def test_supporting_feet_do_not_slide(name, body):
    motion = builtin_motion(name, body)
    soles, pelvis = sole_vertices(motion.global_orient, motion.body_pose, body, torch.zeros(10))
    world = soles - pelvis[:, None, None] + motion.pelvis[:, None, None]
    touching = (world[..., 1].amin(2) < 0.005) & (world[..., 1].amin(2).roll(-1, 0) < 0.005)
    slide = (world.mean(2).roll(-1, 0) - world.mean(2))[..., ::2].norm(dim=-1)  # [T, 2], metres per frame
    # Both feet on the floor can move apart, which no placement of the pelvis undoes; on average they stay.
    assert touching.any()
    # A turning foot pivots, and the centre of its sole moves with it.
    assert slide[touching].mean() < (0.015 if SEQUENCES[name].turns else 0.006)


def test_scale_and_shape_move_the_path_by_leg_length(body):
    walk = builtin_motion("walk", body)
    motion = replace(walk, pelvis=walk.pelvis + torch.tensor([0.5, 0, 0]))
    large = apply_motion(motion, body, torch.zeros(10), scale=1.3)
    joints = body(large).joints
    assert joints[:, 0, 0].mean().item() == pytest.approx(1.3 * 0.5, abs=1e-3)
    assert body(large).vertices[..., 1].amin(-1).abs().max() < 0.013


def test_in_place_keeps_heights_only():
    motion = make_motion()
    fixed = in_place(motion)
    assert (fixed.pelvis[:, 0] == 0).all() and (fixed.pelvis[:, 2] == 0).all()
    assert (fixed.pelvis[:, 1] == motion.pelvis[:, 1]).all()


def test_an_unknown_motion_names_the_others(body):
    with pytest.raises(InputError, match="walk"):
        builtin_motion("moonwalk", body)
