"""How far a run is, and the learning rate that belongs to it: functions without a state to restore."""

import math
import time

FIRST_FACTOR = 0.04
LAST_FACTOR = 1e-3


def one_cycle(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate at `progress` from 0 to 1: a line up until `warmup`, then half a cosine down.

    Source: Smith and Topin, Super-convergence (2018), with the cosine that PyTorch's `OneCycleLR` has.
    """
    if progress < warmup:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * progress / warmup
    fall = min(1.0, (progress - warmup) / max(1e-9, 1 - warmup))
    return LAST_FACTOR + (1 - LAST_FACTOR) * (1 + math.cos(math.pi * fall)) / 2


class Stopwatch:
    """Time that a run has spent, its earlier parts included."""

    def __init__(self, earlier: float = 0.0):
        self._start = time.monotonic() - earlier

    def seconds(self) -> float:
        return time.monotonic() - self._start


def progress(step: int, steps: int, seconds: float, max_minutes: float | None) -> float:
    """How far a run is, from 0 to 1: by its steps or, when it has a limit and that is nearer, by its time."""
    by_steps = step / steps
    by_time = seconds / (60 * max_minutes) if max_minutes is not None else 0.0
    return min(1.0, max(by_steps, by_time))
