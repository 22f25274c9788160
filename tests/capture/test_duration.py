"""Expected durations: the slowness of the machine, costs of the stages that run, and what is logged of them."""

import logging
from dataclasses import replace

import pytest
from drawn_captures import OPTIONS, prepare, save, turning

from core.capture.duration import CHOICE, FITS, PAGES, READING, REFERENCE_SECONDS, capture_costs, measure_slowness
from core.inference.duration import AVATAR, LOADING, RESULTS, avatar_costs
from core.inference.options import InferenceOptions
from core.utils.time_estimate import TimeEstimate


def test_slowness_is_the_time_of_a_fit_relative_to_the_reference(body):
    """The clock of a machine on which everything takes 1.1 s."""
    times = iter([0.0, 1.1, 5.0, 6.1])
    assert measure_slowness(body, lambda: next(times)) == pytest.approx(1.1 / REFERENCE_SECONDS)


def test_stages_that_do_not_run_cost_nothing():
    """Alignment, refinement and completion can be off; given landmarks and masks are not searched for."""
    options = InferenceOptions(device="cpu")
    costs = avatar_costs(options, 8, 1)
    assert set(costs) == {LOADING, AVATAR, RESULTS}
    plain = avatar_costs(replace(options, align=0, refine=0, complete=False), 8, 1)
    assert plain[AVATAR] < 0.2 * costs[AVATAR] and plain[RESULTS] == costs[RESULTS]
    assert avatar_costs(replace(options, align=50), 8, 1)[AVATAR] > 1.5 * costs[AVATAR]
    assert avatar_costs(replace(options, video_size=512), 8, 1)[RESULTS] > 2 * costs[RESULTS]
    assert avatar_costs(options, 80, 48) == avatar_costs(options, 8, 4)  # a protocol takes no more
    found = capture_costs(96, 8, 1, OPTIONS)
    given = capture_costs(96, 8, 1, replace(OPTIONS, keypoints="k.json", masks="masks"))
    assert given[READING] < 0.5 * found[READING] and given[CHOICE] < 0.5 * found[CHOICE]
    assert capture_costs(96, 8, 1, replace(OPTIONS, fits="fits.npz"))[FITS] < found[FITS]


def test_the_total_is_stated_at_the_start_and_corrected(tmp_path, body, caplog):
    """A machine that is ten times as fast as expected; what follows the capture is part of the total."""
    frames = turning(body)
    estimate = TimeEstimate(slowness=50.0)
    calls = []

    def further(frames, cameras):
        calls.append((frames, cameras))
        return {"avatar": 2.0}

    photos = save(frames, tmp_path / "photos")
    with caplog.at_level(logging.INFO):
        prepare(frames, photos, tmp_path / "out", estimate=estimate, further=further)
    first, last = (m for m in caplog.messages if " chosen images" in m or m.startswith("wrote"))
    costs = capture_costs(8, 4, 1, OPTIONS)
    expected = 50 * (sum(costs.values()) + 2.0) / 60
    assert f"8 images; about {round(2 * expected) / 2:g} min for 4 chosen images, of which about" in first
    assert calls == [(4, 1), (4, 1)]
    assert set(estimate.seconds) == {CHOICE, READING, FITS, PAGES}
    assert estimate.factor < 45 and last.endswith(" left")

    caplog.clear()
    again = TimeEstimate(slowness=10.0)
    with caplog.at_level(logging.INFO):
        prepare(frames, photos, tmp_path / "out", estimate=again, further=further)
    assert [m for m in caplog.messages if m.endswith("in all")] == ["about 20 s in all"]
    assert again.remaining == pytest.approx(20.0)


def test_one_image_is_singular(tmp_path, body, caplog):
    frames = turning(body, 1)
    with caplog.at_level(logging.INFO):
        prepare(frames, save(frames, tmp_path / "photo"), tmp_path / "out")
    assert any(": 1 image; a few seconds for 1 chosen image" in message for message in caplog.messages), caplog.messages
