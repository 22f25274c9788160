"""Choice of frames and tracking of people."""

import numpy as np
import pytest
from drawn_person import StubReader, draw, standing
from scipy import ndimage

from core.capture.landmarks import Landmarks, azimuth, cut_off, mirror_order
from core.capture.selection import Assessment, assess, select_frames, turn_coverage
from core.capture.tracking import Tracker


def assessments(body, azimuths, sharpness=None):
    made = []
    for key, angle in enumerate(azimuths):
        frame = draw(body, key, [standing(float(angle))])
        landmarks = frame.people[0].landmarks
        sharp = 1.0 if sharpness is None else sharpness[key]
        made.append(Assessment(key, key / 10, str(key), landmarks, sharpness=sharp, brightness=0.5))
    return made


def test_azimuth_is_the_turn_of_the_body(body):
    for angle in (-2.5, -1.0, 0.0, 0.7, 3.0):
        landmarks = draw(body, 0, [standing(angle)]).people[0].landmarks
        assert np.cos(azimuth(landmarks) + angle) == pytest.approx(1, abs=1e-4)  # camera y points down


def test_choices_are_spread_over_a_turn(body):
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    chosen = select_frames(assessments(body, angles), 8).chosen
    turns = np.sort([a.azimuth % (2 * np.pi) for a in chosen])
    gaps = np.degrees(np.diff([*turns, turns[0] + 2 * np.pi]))
    assert gaps.max() <= 60 and [a.key for a in chosen] == sorted(a.key for a in chosen)
    assert turn_coverage([a.azimuth for a in chosen]) == 360


def test_the_sharper_of_two_alike_frames_is_chosen(body):
    angles = np.repeat([0.0, 1.5, 3.1, 4.7], 2)
    chosen = select_frames(assessments(body, angles, sharpness=[0.4, 1.0] * 4), 4).chosen
    assert [a.key for a in chosen] == [1, 3, 5, 7]


def test_blur_lowers_sharpness(body):
    frame = draw(body, 0, [standing(0.0)])
    rng = np.random.default_rng(0)
    image = (frame.image + rng.normal(0, 12, frame.image.shape)).clip(0, 255).astype(np.uint8)
    blurred = ndimage.uniform_filter(image, (1, 7, 1))
    landmarks = frame.people[0].landmarks
    assert assess(blurred, 0, None, "", landmarks).sharpness < 0.7 * assess(image, 0, None, "", landmarks).sharpness


def test_turn_coverage():
    assert turn_coverage([]) == 0
    assert turn_coverage([0.0]) == 91
    assert turn_coverage(list(np.radians([0, 90, 180, 270]))) == 360


def test_parts_outside_the_image():
    points = np.tile([[50.0, 50.0]], (33, 1))
    points[[0, 7, 8]], points[[11, 12]] = [50, 30], [50, 45]
    landmarks = Landmarks(points, np.ones(33))
    assert cut_off(landmarks, 100, 100) == []
    points[[27, 28, 29, 30, 31, 32]] = [50, 120]
    assert cut_off(Landmarks(points, np.ones(33)), 100, 100) == ["the feet"]
    points[[0, 7, 8]] = [50, 5]
    points[15] = [-3, 50]
    assert cut_off(Landmarks(points, np.ones(33)), 100, 100) == ["the head", "the feet", "the left arm"]


def test_mirroring_twice_is_nothing():
    order = np.array(mirror_order())
    np.testing.assert_array_equal(order[order], np.arange(33))
    assert order[0] == 0 and order[11] == 12 and order[1] == 4


def test_two_people_who_pass_each_other_keep_their_numbers(body):
    frames = []
    for i, t in enumerate(np.linspace(-1, 1, 12)):
        near, far = standing(0.0, x=0.8 * t, depth=3.0), standing(0.0, x=-0.8 * t, depth=4.2)
        frames.append(draw(body, i, [near, far]))
    tracker = Tracker(StubReader(frames))
    for i, frame in enumerate(frames):
        tracker.add(frame.image, i / 10)
    first, second = tracker.ordered()
    assert len(first.readings) == len(second.readings) == 12
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(first.readings[i].points, frame.people[0].landmarks.points)


def test_unrelated_images_are_matched_by_clothes(body):
    """Without times the people's positions do not matter."""
    frames = [draw(body, i, [standing(0.0, x=0.6 * (-1) ** i), standing(0.0, x=-0.6 * (-1) ** i)]) for i in range(4)]
    tracker = Tracker(StubReader(frames))
    for frame in frames:
        tracker.add(frame.image, None)
    assert len(tracker.tracks) == 2
    for track in tracker.tracks:
        sides = [np.sign(track.readings[i].hip_center[0] - 120) for i in range(4)]
        assert sides in ([1, -1, 1, -1], [-1, 1, -1, 1])
