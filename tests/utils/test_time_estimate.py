"""Estimates of the duration of a run, with a clock that is set by hand."""

import logging

import pytest

from core.utils.time_estimate import PRIOR_COST, TimeEstimate, describe_seconds, log_revision


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(estimate, clock, name, seconds):
    with estimate.stage(name):
        clock.now += seconds


def test_costs_are_multiplied_by_the_slowness_of_the_machine():
    estimate = TimeEstimate(slowness=3.0)
    estimate.plan({"a": 2.0, "b": 5.0})
    assert estimate.remaining == pytest.approx(21.0) and estimate.expected(["b", "other"]) == pytest.approx(15.0)
    assert TimeEstimate().factor == 1.0


def test_finished_stages_correct_the_rest():
    """Stages that take four times their costs draw the factor from 1 towards 4; an ideal estimate stays."""
    clock = Clock()
    estimate = TimeEstimate(1.0, clock)
    estimate.plan({"a": PRIOR_COST, "b": 3 * PRIOR_COST, "c": 2 * PRIOR_COST})
    run(estimate, clock, "a", 4 * PRIOR_COST)
    assert estimate.factor == pytest.approx(2.5) and estimate.remaining == pytest.approx(2.5 * 5 * PRIOR_COST)
    run(estimate, clock, "b", 12 * PRIOR_COST)
    assert estimate.factor == pytest.approx((1 + 4 + 12) / 5)
    assert estimate.seconds == {"a": 4 * PRIOR_COST, "b": 12 * PRIOR_COST}
    right = TimeEstimate(2.0, clock)
    right.plan({"a": 7.0, "b": 1.0})
    run(right, clock, "a", 14.0)
    assert right.factor == pytest.approx(2.0)


def test_plans_can_be_corrected_until_a_stage_is_finished():
    clock = Clock()
    estimate = TimeEstimate(1.0, clock)
    estimate.plan({"a": 1.0, "b": 10.0})
    estimate.plan({"b": 4.0, "c": 2.0})
    assert estimate.remaining == pytest.approx(7.0)
    run(estimate, clock, "a", 1.0)
    estimate.plan({"a": 50.0})
    assert estimate.remaining == pytest.approx(6.0)
    run(estimate, clock, "not planned", 1000.0)
    assert estimate.factor == pytest.approx(1.0)


def test_a_stage_that_fails_is_not_finished():
    clock = Clock()
    estimate = TimeEstimate(1.0, clock)
    estimate.plan({"a": 1.0})
    with pytest.raises(KeyError), estimate.stage("a"):
        raise KeyError
    assert estimate.remaining == 1.0 and not estimate.seconds


def test_only_noticeable_changes_are_logged(caplog):
    """An end that is as expected is not repeated; one that moved is stated once."""
    clock = Clock()
    estimate = TimeEstimate(1.0, clock)
    estimate.plan({"a": 20.0, "b": 20.0, "c": 40.0})
    assert estimate.state() == "about 1.5 min"
    with caplog.at_level(logging.INFO):
        run(estimate, clock, "a", 21.0)
        log_revision(estimate)
        assert not caplog.messages
        run(estimate, clock, "b", 80.0)
        log_revision(estimate)
        log_revision(estimate)
    assert caplog.messages == ["about 1.5 min left"]
    run(estimate, clock, "c", 1.0)
    log_revision(estimate)
    assert len(caplog.messages) == 1  # nothing is left


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3, "a few seconds"),
        (18, "about 20 s"),
        (52, "about 50 s"),
        (61, "about 1 min"),
        (140, "about 2.5 min"),
        (1300, "about 22 min"),
    ],
)
def test_durations_in_words(seconds, text):
    assert describe_seconds(seconds) == text
