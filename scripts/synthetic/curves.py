"""Scalar functions that shapes and motion are built from."""

import numpy as np


def smoothstep(x, start: float, end: float):
    """Cubic step: 0 before `start`, 1 beyond `end`, which may be less than `start`."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def angle_between(a, b):
    """Unsigned angle from 0 to pi between directions given as angles about one axis, in radians."""
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)
