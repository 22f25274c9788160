"""Images, masks and points without lens distortion, at the size of their camera."""

import numpy as np
import torch
from jaxtyping import Float, UInt8

from core.data.lens import Lens, undistort


class Undistortion:
    """The map of one camera; images keep their size and K. What the lens did not record is black."""

    def __init__(self, K: Float[np.ndarray, "3 3"], lens: Lens, width: int, height: int):
        self._lens, self._K, self._size = lens, torch.from_numpy(np.asarray(K, float)), (width, height)

    def image(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """The undistorted image."""
        return undistort(image, self._lens, self._K, self._size, self._size, (0, 0, *self._size))

    def mask(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
        """An undistorted mask."""
        return self.image(mask[..., None])[..., 0]

    def points(self, pixels: Float[np.ndarray, "*batch 2"], steps: int = 20) -> Float[np.ndarray, "*batch 2"]:
        """Positions in the undistorted image of pixels of the distorted one, by fixed-point iteration."""
        K = self._K.numpy()
        focal, center = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
        bent = torch.from_numpy((np.asarray(pixels, float) - center) / focal)
        rays = bent.clone()
        for _ in range(steps):
            rays = rays - (self._lens.distort(rays) - bent)
        return rays.numpy() * focal + center
