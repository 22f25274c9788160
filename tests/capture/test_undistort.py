"""Lens distortion is undone in images, masks and points alike."""

import numpy as np
import torch

from core.capture.undistort import Undistortion
from core.data.lens import Lens

WIDTH = HEIGHT = 200
K = np.array([[150.0, 0, 100], [0, 150, 100], [0, 0, 1]])
BARREL = Lens("opencv", (-0.25, 0.05, 0, 0))


def distorted(points):
    """Pixels of points at depth 1, through the lens."""
    return BARREL.distort(torch.from_numpy(points)).numpy() * 150 + 100


def test_a_straight_line_is_straight_again():
    ys = np.linspace(-0.7, 0.7, 4000)
    bent = distorted(np.stack([np.full_like(ys, 0.5), ys], -1))
    grid_y, grid_x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    at = np.interp(grid_y, bent[:, 1], bent[:, 0])
    plane = (255 * np.exp(-(((grid_x - at) / 1.5) ** 2))).astype(np.uint8)
    undistortion = Undistortion(K, BARREL, WIDTH, HEIGHT)
    fixed = undistortion.image(np.repeat(plane[..., None], 3, -1))[..., 0]
    rows = slice(30, 170)

    def centers(image):
        values = image[rows].astype(float)
        return (values * grid_x[rows]).sum(1) / values.sum(1)

    # 150 * 0.5 + 100 = 175; bilinear sampling of a line 3 pixels wide is good to some tenths of a pixel.
    np.testing.assert_allclose(centers(fixed), 175, atol=0.3)
    assert np.ptp(centers(plane)) > 2
    np.testing.assert_array_equal(undistortion.mask(plane), fixed)


def test_points_are_undistorted_exactly():
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (50, 2))
    found = Undistortion(K, BARREL, WIDTH, HEIGHT).points(distorted(points))
    np.testing.assert_allclose(found, points * 150 + 100, atol=1e-6)
