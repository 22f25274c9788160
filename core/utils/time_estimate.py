"""Expected duration of a run in stages, corrected by what its finished stages took."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

logger = logging.getLogger(__name__)

PRIOR_COST = 5.0
"""Cost, in seconds of the reference machine, that the measured slowness weighs against finished stages."""

LEAST_REVISION, REVISED_SHARE = 5.0, 0.25
"""A movement of the expected end is noticeable from so many seconds, and from this share of what remains, on."""


class TimeEstimate:
    """Costs of stages that are still to come, and seconds of those that are finished.

    Costs are seconds on a reference machine. All share one factor to this machine: the given slowness at first, and
    more and more the ratio of durations to costs of the finished stages.

    Args:
        slowness: Duration of some work on this machine, as busy as it is, relative to the reference machine. None: not
            measured yet, and taken as 1.
        clock: Current time in seconds.
    """

    def __init__(self, slowness: float | None = None, clock: Callable[[], float] = time.perf_counter):
        self.slowness, self._clock = slowness, clock
        self.seconds: dict[str, float] = {}
        """Duration of each finished stage."""
        self._costs: dict[str, float] = {}
        self._finished = (0.0, 0.0)
        self._stated_end: float | None = None

    def plan(self, costs: Mapping[str, float]) -> None:
        """Add stages, or replace the costs of planned ones; finished stages are left alone."""
        self._costs |= {name: cost for name, cost in costs.items() if name not in self.seconds}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage. One that was not planned does not change the factor."""
        start = self._clock()
        yield
        duration = self._clock() - start
        self.seconds[name] = duration
        if name in self._costs:
            costs, durations = self._finished
            self._finished = costs + self._costs.pop(name), durations + duration

    @property
    def factor(self) -> float:
        """Seconds on this machine for a second of the reference machine."""
        costs, durations = self._finished
        slowness = 1.0 if self.slowness is None else self.slowness
        return (PRIOR_COST * slowness + durations) / (PRIOR_COST + costs)

    @property
    def remaining(self) -> float:
        """Expected seconds of the stages that are not finished."""
        return self.factor * sum(self._costs.values())

    def expected(self, names: Iterable[str]) -> float:
        """Expected seconds of those of these stages that are not finished."""
        return self.factor * sum(self._costs.get(name, 0.0) for name in names)

    def state(self) -> str:
        """What remains in words, as the basis of later revisions."""
        self._stated_end = self._clock() + self.remaining
        return describe_seconds(self.remaining)

    def revision(self) -> str | None:
        """What remains in words, if the expected end moved noticeably since the last statement."""
        moved = self._clock() + self.remaining - (self._stated_end or 0.0)
        if self._stated_end is not None and abs(moved) <= max(LEAST_REVISION, REVISED_SHARE * self.remaining):
            return None
        return self.state()


def describe_seconds(seconds: float) -> str:
    """A duration in words, as exact as an estimate is: `about 40 s`, `about 2.5 min`."""
    if seconds < 7.5:
        return "a few seconds"
    if seconds < 57.5:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 10 * 60:
        return f"about {round(seconds / 30) / 2:g} min"
    return f"about {round(seconds / 60)} min"


def log_revision(estimate: TimeEstimate) -> None:
    """Log what remains where that differs noticeably from what was stated before."""
    if estimate.remaining and (left := estimate.revision()) is not None:
        logger.info("%s left", left)
