"""Distortion against hand-computed values and against its own inverse on an image."""

import numpy as np
import pytest

from core.capture.undistort import Undistortion, distort
from core.data.lens import Lens

# OpenCV 4.x, cv2.projectPoints / cv2.fisheye.distortPoints formulas evaluated by hand at (0.3, -0.2).
X, Y = 0.3, -0.2
R2 = X * X + Y * Y


def test_radial_and_tangential():
    k1, k2, p1, p2, k3 = 0.1, -0.05, 0.01, -0.02, 0.03
    radial = 1 + k1 * R2 + k2 * R2**2 + k3 * R2**3
    expected = [
        X * radial + 2 * p1 * X * Y + p2 * (R2 + 2 * X * X),
        Y * radial + p1 * (R2 + 2 * Y * Y) + 2 * p2 * X * Y,
    ]
    np.testing.assert_allclose(distort(np.array([X, Y]), Lens("opencv", (k1, k2, p1, p2, k3))), expected, rtol=1e-12)


def test_rational_model_divides():
    lens = Lens("opencv", (0.1, 0, 0, 0, 0, 0.2, 0, 0))
    np.testing.assert_allclose(distort(np.array([X, Y]), lens), np.array([X, Y]) * (1 + 0.1 * R2) / (1 + 0.2 * R2))


def test_fisheye_is_equidistant_without_coefficients():
    out = distort(np.array([X, Y]), Lens("fisheye", (0, 0, 0, 0)))
    assert np.hypot(*out) == pytest.approx(np.arctan(np.sqrt(R2)))
    np.testing.assert_allclose(out / np.hypot(*out), np.array([X, Y]) / np.sqrt(R2))


def test_a_tilted_sensor_without_tilt_is_none():
    plain = Lens("opencv", (0.1, 0, 0, 0, 0, 0, 0, 0, 0.01, 0, 0, 0))
    tilted = Lens("opencv", (*plain.coefficients, 1e-9, 0.0))
    point = np.array([X, Y])
    np.testing.assert_allclose(distort(point, tilted), distort(point, plain), atol=1e-8)


def test_an_undistorted_grid_is_straight():
    """A vertical line seen through a barrel lens is straight again afterwards."""
    width = height = 200
    K = np.array([[150.0, 0, 100], [0, 150, 100], [0, 0, 1]])
    lens = Lens("opencv", (-0.25, 0.05, 0, 0))
    line_x = 0.5  # at depth 1
    ys = np.linspace(-0.7, 0.7, 4000)
    bent = distort(np.stack([np.full_like(ys, line_x), ys], -1), lens) * 150 + 100
    grid_y, grid_x = np.mgrid[:height, :width] + 0.5
    at = np.interp(grid_y, bent[:, 1], bent[:, 0])
    image = (255 * np.exp(-(((grid_x - at) / 1.5) ** 2))).astype(np.uint8)
    fixed = Undistortion(K, lens, width, height)(np.repeat(image[..., None], 3, -1))[..., 0].astype(float)
    rows = slice(30, 170)
    centers = (fixed[rows] * grid_x[rows]).sum(1) / fixed[rows].sum(1)
    # 150 * 0.5 + 100 = 175; bicubic sampling of a line 3 px wide is good to a tenth of a pixel.
    np.testing.assert_allclose(centers, 175, atol=0.15)
    bent_by = (image[rows].astype(float) * grid_x[rows]).sum(1) / image[rows].sum(1).astype(float)
    assert np.ptp(bent_by) > 2
