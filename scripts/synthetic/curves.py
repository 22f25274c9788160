"""Functions that shapes and motion are made with."""

import numpy as np


def smoothstep(x, start: float, end: float):
    """0 before `start`, 1 after `end` (which may lie before `start`), smooth between."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def turn_between(a, b):
    """Angle between two directions around the same axis, in radians from 0 to pi; any number of turns apart."""
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)
