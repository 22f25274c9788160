"""Protocols, resolved for captures that have, or lack, what they ask for."""

from itertools import pairwise

import pytest
from tiny_capture import FRONT_LEFT_BACK_RIGHT, TinyCapture, standing

from core.data.capture import Capture
from core.data.fits import posed_vertices
from core.data.protocol import PROTOCOLS, Protocol, resolve, select_subjects
from core.data.readers import open_capture
from core.data.subject_frame import posed_pelvis
from core.data.views import choose_input_views, spread_frames, spread_views
from smpl_renderer.errors import InputError

PAPER = PROTOCOLS["paper"]
PAPER_FRAMES = PAPER.observed_frames + PAPER.novel_frames


def capture_with(frames, tmp_path, body, **changes) -> Capture:
    """A capture with images for these frames; one fit is written and linked for all."""
    tiny = TinyCapture(image_size=(77, 64), frames=frames[:1], **changes)
    folder = tiny.write(tmp_path / "209001", body)
    fit = folder / f"smpl_param/{frames[0] // 5 - 1:06d}.pkl"
    for frame in frames[1:]:
        (folder / f"smpl_param/{frame // 5 - 1:06d}.pkl").symlink_to(fit)
        for camera in tiny.names:
            for kind, end in (("images_lr", "img.jpg"), ("fmask_lr", "img_fmask.png")):
                path = folder / kind / camera
                (path / f"{frame:04d}_{end}").symlink_to(path / f"{frames[0]:04d}_{end}")
    return open_capture(folder)


def test_paper_protocol_on_a_capture_that_has_it_all(tmp_path, body):
    capture = capture_with(PAPER_FRAMES, tmp_path, body)
    plan = resolve(PAPER, capture, body)
    assert tuple(plan.input_views) == PAPER.input_views == FRONT_LEFT_BACK_RIGHT
    assert plan.target_views == sorted(set(capture.camera_names) - set(PAPER.input_views))
    assert tuple(plan.observed_frames) == PAPER.observed_frames
    assert tuple(plan.novel_frames) == PAPER.novel_frames
    assert plan.notes == []


def test_a_hole_is_filled_by_the_nearest_frame(tmp_path, body):
    frames = tuple(frame for frame in (*PAPER_FRAMES, 300, 315, 850, 860))
    capture = capture_with(frames, tmp_path, body)
    (capture.path / "smpl_param" / f"{305 // 5 - 1:06d}.pkl").unlink()
    (capture.path / "images_lr" / FRONT_LEFT_BACK_RIGHT[2] / "0855_img.jpg").unlink()
    plan = resolve(PAPER, open_capture(capture.path), body)
    assert plan.observed_frames == [55, 155, 300, 455, 505, 705, 755, 805]
    assert plan.novel_frames == [850, 905]
    assert plan.notes == ["frames replaced by their nearest neighbours: 0300 for 0305, 0850 for 0855"]


@pytest.mark.parametrize("count, observed, novel", [(10, 8, 2), (30, 8, 2), (5, 3, 2), (3, 1, 2), (2, 1, 1), (1, 1, 0)])
def test_other_frames_are_spread_with_the_last_ones_novel(tmp_path, body, count, observed, novel):
    frames = tuple(range(5, 5 * count + 1, 5))
    plan = resolve(PROTOCOLS["quick"], capture_with(frames, tmp_path, body, num_cameras=5), body)
    assert (len(plan.observed_frames), len(plan.novel_frames)) == (observed, novel)
    chosen = plan.observed_frames + plan.novel_frames
    assert chosen == sorted(set(chosen))
    if count > 1:
        assert (chosen[0], chosen[-1]) == (frames[0], frames[-1])
    assert "spread over the capture" in plan.notes[0]


def test_quick_takes_three_views_around_the_person(tmp_path, body):
    capture = capture_with((5, 10), tmp_path, body, num_cameras=10)
    plan = resolve(PROTOCOLS["quick"], capture, body)
    assert len(plan.target_views) == 3
    assert not set(plan.target_views) & set(plan.input_views)
    assert plan == resolve(PROTOCOLS["quick"], open_capture(capture.path), body)


def test_one_bad_camera_does_not_cost_the_frames_of_all(tmp_path, body):
    capture = capture_with(tuple(range(5, 55, 5)), tmp_path, body)
    bad = sorted(set(capture.camera_names) - set(FRONT_LEFT_BACK_RIGHT))[0]
    for frame in range(10, 55, 5):
        (capture.path / "images_lr" / bad / f"{frame:04d}_img.jpg").unlink()
    plan = resolve(PAPER, open_capture(capture.path), body)
    assert len(plan.observed_frames + plan.novel_frames) == 10
    assert bad not in plan.target_views and f"cameras {bad} lack too many frames" in plan.notes[0]


@pytest.mark.parametrize("azimuth", [-17.6, 70.0, 200.0])
def test_other_rig_views_go_by_where_the_person_faces(tmp_path, body, azimuth):
    tiny = TinyCapture("48", (4096, 3000), (82, 60), frames=(5,), num_cameras=48)
    capture = open_capture(tiny.write(tmp_path / "100001", body, [standing(0, azimuth)]))
    views = resolve(PAPER, capture, body).input_views
    centers = capture.cameras(views).centers
    raw = centers[:, 1].atan2(centers[:, 0]).rad2deg()
    # The person's left is at a lower azimuth, because the raw z axis points down. Cameras stand every 22.5 degrees; the
    # front one and its further ones may each be half of that away, and the pelvis is some centimetres off the axis.
    for slot, found in enumerate(raw.tolist()):
        assert abs((found - (azimuth - 90 * slot) + 180) % 360 - 180) < 26
    assert len(set(views)) == 4
    assert (-centers[:, 2] - 1.59).abs().max() < 0.01  # the middle ring, at eye height


def test_input_views_are_at_eye_height_whatever_the_pose(tmp_path, body):
    """The pelvis of someone who squats is low, but the cameras are where they were."""
    squat = standing()
    squat.body_pose.view(23, 3)[[0, 1], 0] = -1.9  # hips
    squat.body_pose.view(23, 3)[[3, 4], 0] = 2.2  # knees
    squat.transl[2] -= posed_vertices(squat, body)[:, 2].max()  # feet on the floor
    assert -posed_pelvis(squat, body)[2] < 0.6
    tiny = TinyCapture("48", (4096, 3000), (82, 60), frames=(5,), num_cameras=48)
    capture = open_capture(tiny.write(tmp_path / "100001", body, [squat]))
    views = resolve(PAPER, capture, body).input_views
    assert (-capture.cameras(views).centers[:, 2] - 1.59).abs().max() < 0.01


def test_missing_input_view_is_replaced_by_its_neighbour(tmp_path, body):
    tiny = TinyCapture(image_size=(77, 64), frames=(5,), num_cameras=10)
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    candidates = [name for name in capture.camera_names if name != FRONT_LEFT_BACK_RIGHT[1]]
    views = choose_input_views(capture, FRONT_LEFT_BACK_RIGHT, candidates, 5, body)
    assert [views[0], *views[2:]] == [FRONT_LEFT_BACK_RIGHT[0], *FRONT_LEFT_BACK_RIGHT[2:]]
    x, y, _ = capture.cameras(candidates).centers.T
    away = ((y.atan2(x).rad2deg() + 110.3 + 180) % 360 - 180).abs()
    assert views[1] == candidates[int(away.argmin())]


def test_spread_views_are_even_in_azimuth(tmp_path):
    tiny = TinyCapture("48", (4096, 3000), (82, 60), frames=(5,), num_cameras=16)
    capture = open_capture(tiny.write(tmp_path / "100001"))
    names = capture.camera_names  # in the order of their azimuth, 22.5 degrees apart
    for first in names[:3]:
        indices = sorted(names.index(name) for name in spread_views(capture, names, 4, first))
        assert [b - a for a, b in pairwise(indices)] == [4, 4, 4]


def test_spread_frames():
    assert spread_frames([5, 10, 15, 20, 25], 3) == [5, 15, 25]
    assert spread_frames([5, 10], 3) == [5, 10]
    assert spread_frames([5, 10, 15], 1) == [5]


def test_too_few_cameras(tmp_path, body):
    capture = capture_with((5,), tmp_path, body, num_cameras=3)
    plan = resolve(PAPER, capture, body)
    assert plan.input_views == [*FRONT_LEFT_BACK_RIGHT[:3]] and plan.target_views == []
    assert any("0 target views" in note for note in plan.notes)
    with pytest.raises(InputError, match="4 input views are wanted, but only 3 cameras are usable"):
        choose_input_views(capture, PAPER.input_views, capture.camera_names, 5, body)
    assert resolve(Protocol("one", input_views=("x",)), capture, body).input_views[0] in capture.camera_names


def test_subjects_of_the_protocol():
    assert select_subjects(PAPER, ["200102", "209001", "204157"]) == ["200102", "204157"]
    assert select_subjects(PROTOCOLS["quick"], ["209001"]) == ["209001"]
    with pytest.raises(InputError, match="none of the test subjects"):
        select_subjects(PAPER, ["209001"])
