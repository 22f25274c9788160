"""Calibrated cameras of a capture, whatever file they come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.lens import Lens
from core.types.cameras import Cameras


@dataclass(frozen=True)
class CalibratedCamera:
    """One camera in the raw world (z down, metres); float64. Its files may have any resolution of the same shape."""

    viewmat: Float[Tensor, "4 4"]
    """World to camera, OpenCV axes."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels of `width` x `height`, pixel centres at +0.5."""
    width: int
    height: int
    lens: Lens | None = None
    """Distortion of the image files; None if they have none."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the calibrated image."""
        return self.width, self.height


def stack_cameras(cameras: Sequence[CalibratedCamera]) -> Cameras:
    """Cameras [C] without their distortion, float64.

    `Cameras` have one size: that of the first. Those of other sizes keep their own K, so projections are right, but
    only `CalibratedCamera.size` is the size of their images.
    """
    first = cameras[0]
    return Cameras(
        torch.stack([camera.viewmat for camera in cameras]),
        torch.stack([camera.K for camera in cameras]),
        first.width,
        first.height,
    )
