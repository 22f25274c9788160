"""Random colours of people and clothes, drawn as display values and returned as linear RGB."""

import colorsys

import numpy as np

from scripts.synthetic.fabrics import Color

# Display RGB from light to dark.
_SKIN = (
    *((0.96, 0.82, 0.73), (0.91, 0.74, 0.62), (0.85, 0.66, 0.52), (0.76, 0.56, 0.42)),
    *((0.64, 0.45, 0.33), (0.50, 0.34, 0.25), (0.38, 0.25, 0.19)),
)
_HAIR = (
    *((0.07, 0.06, 0.06), (0.14, 0.10, 0.08), (0.24, 0.16, 0.11), (0.38, 0.25, 0.16), (0.55, 0.40, 0.24)),
    *((0.74, 0.60, 0.38), (0.48, 0.20, 0.11), (0.55, 0.54, 0.53), (0.78, 0.77, 0.76)),
)
_HAIR_SHARES = (0.26, 0.22, 0.17, 0.12, 0.08, 0.06, 0.04, 0.03, 0.02)
_IRIS = ((0.25, 0.15, 0.09), (0.36, 0.24, 0.13), (0.30, 0.40, 0.25), (0.35, 0.50, 0.62), (0.45, 0.50, 0.52))


DISPLAY_GAMMA = 2.2
"""Exponent that takes display values to linear light."""


def linear(color) -> Color:
    """Convert display values to linear light."""
    return tuple((np.clip(np.asarray(color, float), 0, 1) ** DISPLAY_GAMMA).tolist())


def skin_tone(rng: np.random.Generator) -> Color:
    """Draw a skin colour, uniformly between the lightest and the darkest (linear)."""
    position = rng.uniform(0, len(_SKIN) - 1)
    low = int(position)
    high = min(low + 1, len(_SKIN) - 1)
    tone = np.array(_SKIN[low]) + (position - low) * (np.array(_SKIN[high]) - np.array(_SKIN[low]))
    return linear(tone + rng.normal(0, 0.012, 3))


def hair_colors(rng: np.random.Generator) -> tuple[Color, Color]:
    """Draw the colours of hair at the roots and at the tips (linear)."""
    root = np.array(_HAIR[rng.choice(len(_HAIR), p=_HAIR_SHARES)]) * rng.uniform(0.85, 1.15)
    tip = root * rng.uniform(0.9, 1.25)
    if rng.random() < 0.07:
        tip = np.array(colorsys.hsv_to_rgb(rng.random(), 0.6, 0.7))
    return linear(root), linear(tip)


def iris_color(rng: np.random.Generator) -> Color:
    """Draw the colour of an iris: mostly brown, some green, blue and grey (linear)."""
    return linear(np.array(_IRIS[rng.choice(len(_IRIS), p=(0.4, 0.25, 0.1, 0.15, 0.1))]) * rng.uniform(0.85, 1.15))


def cloth_color_sample(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour of clothes (display values): 45 % are grey tones, navy, beige, olive or brown."""
    kind = rng.random()
    if kind < 0.32:
        return np.full(3, rng.choice([0.07, 0.13, 0.3, 0.55, 0.85, 0.93])) + rng.uniform(-0.02, 0.02, 3)
    if kind < 0.45:
        return np.array([(0.1, 0.14, 0.28), (0.76, 0.68, 0.55), (0.33, 0.35, 0.25), (0.4, 0.28, 0.2)][rng.integers(4)])
    hue = rng.random()
    # Dyes are duller between yellow and cyan.
    dull = 0.4 * np.exp(-(((hue - 0.35) / 0.13) ** 2))
    return np.array(
        colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 0.85) * (1 - dull), rng.uniform(0.3, 0.88) * (1 - 0.5 * dull))
    )


def cloth_colors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw three colours of clothes (display values), the last two clearly different from the first."""
    first = cloth_color_sample(rng)
    others = []
    while len(others) < 2:
        color = cloth_color_sample(rng)
        if np.abs(color - first).sum() > 0.5:
            others.append(color)
    return first, others[0], others[1]


def shoe_colors(rng: np.random.Generator) -> tuple[Color, Color, Color]:
    """Draw the colours of upper, sole and laces of shoes (linear)."""
    upper = cloth_color_sample(rng) if rng.random() < 0.6 else np.full(3, rng.choice([0.06, 0.1, 0.9]))
    sole = np.full(3, rng.choice([0.08, 0.2, 0.85, 0.92]))
    return linear(upper), linear(sole), linear(np.full(3, 0.9 if upper.mean() < 0.5 else 0.12))
