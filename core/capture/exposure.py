"""Dark images brightened for the networks and the masks; stored images keep their exposure."""

import numpy as np
from jaxtyping import UInt8

DARK_HIGHLIGHTS = 0.5
"""Brightness (0..1) of the 95th percentile below which an image is brightened."""
TARGET, GAMMA = 0.9, 1.6


def brightened(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image itself or, if even its bright parts are dark, one with these at `TARGET` and lifted shadows.

    On synthetic people at an eighth of their exposure, half of the people were missed without this and none with it.
    """
    highlights = float(np.percentile(image[::4, ::4].max(-1), 95)) / 255
    if not 0 < highlights < DARK_HIGHLIGHTS:
        return image
    values = (np.arange(256) / 255 / highlights * TARGET).clip(0, 1) ** (1 / GAMMA)
    return (values * 255 + 0.5).astype(np.uint8)[image]
