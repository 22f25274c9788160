"""Lens distortion: OpenCV's two models. Points are in the camera at depth 1 unless stated otherwise."""

from dataclasses import dataclass
from typing import Literal

LENS_MODELS = ("opencv", "fisheye")
OPENCV_COUNTS = (4, 5, 8, 12, 14)


@dataclass(frozen=True)
class Lens:
    """The distortion of one camera.

    `opencv`: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]]. `fisheye`: k1 k2 k3 k4 of OpenCV's fisheye module.
    """

    model: Literal["opencv", "fisheye"]
    coefficients: tuple[float, ...]

    def __post_init__(self):
        counts = OPENCV_COUNTS if self.model == "opencv" else (4,)
        if self.model not in LENS_MODELS:
            raise ValueError(f"model must be one of {', '.join(LENS_MODELS)}, got {self.model}")
        if len(self.coefficients) not in counts:
            expected = ", ".join(map(str, counts))
            raise ValueError(f"{self.model} takes {expected} coefficients, got {len(self.coefficients)}")
