"""Input of a fit: cameras, landmarks and silhouettes of one person in F frames and C cameras."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from smpl_renderer.tensor_structure import TensorStructure

WINDOW_SIZE = 256
"""Side of the square into which each mask is resampled."""
WINDOW_MARGIN = 0.15
"""Margin around the person in that square, relative to the person's larger extent."""


@dataclass(frozen=True)
class Silhouettes(TensorStructure):
    """Masks of the person, each resampled into a square window around the person.

    The window of frame f and camera c starts at pixel (left, top) and is `side` pixels wide and high. Windows may reach
    beyond the image; there `alphas` are zero and `known` is false.
    """

    alphas: Float[Tensor, "F C S S"]
    """Coverage in [0, 1]."""
    known: Bool[Tensor, "F C S S"]
    """True inside the image."""
    windows: Float[Tensor, "F C 3"]
    """Left, top and side in pixels of the image (pixel centres at +0.5)."""
    present: Bool[Tensor, "F C"]
    """False where there is no mask, or an empty one."""

    @staticmethod
    def from_masks(masks: Iterable[Iterable[np.ndarray | Tensor | None]], size: int = WINDOW_SIZE) -> "Silhouettes":
        """Crop and resample masks, one at a time, so that they may be read lazily.

        Args:
            masks: For each frame, one mask [H, W] of the whole image per camera, or None. Bool, uint8 in 0..255 or
                floating point in 0..1. Cameras may differ in size.
            size: Side of the windows.
        """
        rows = [[_cut_window(mask, size) for mask in frame] for frame in masks]
        columns = [[torch.stack([cell[k] for cell in row]) for row in rows] for k in range(4)]
        return Silhouettes(*(torch.stack(column) for column in columns))


def _cut_window(mask: np.ndarray | Tensor | None, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    empty = torch.zeros(size, size), torch.zeros(size, size, dtype=torch.bool), torch.tensor([0.0, 0.0, 1.0])
    if mask is None:
        return *empty, torch.tensor(False)
    # Arrays of image files may be read-only, which PyTorch does not take.
    mask = torch.from_numpy(np.array(mask)) if isinstance(mask, np.ndarray) else mask
    full = 255.0 if mask.dtype == torch.uint8 else 1.0
    soft = mask.float() / full
    covered = soft > 0.5
    ys, xs = torch.nonzero(covered.any(1))[:, 0], torch.nonzero(covered.any(0))[:, 0]
    if not len(ys):
        return *empty, torch.tensor(False)
    left, right, top, bottom = float(xs[0]), float(xs[-1] + 1), float(ys[0]), float(ys[-1] + 1)
    side = (1 + 2 * WINDOW_MARGIN) * max(right - left, bottom - top, 8.0)
    window = torch.tensor([(left + right - side) / 2, (top + bottom - side) / 2, side])
    height, width = soft.shape
    steps = (torch.arange(size) + 0.5) / size * side
    x, y = window[0] + steps, window[1] + steps
    inside = ((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))
    # Averages over areas rather than point samples where the window shrinks the image.
    shrink = max(1, int(side / size))
    pooled = torch.nn.functional.avg_pool2d(soft[None, None], shrink, ceil_mode=True, count_include_pad=False)
    grid_x = x / (pooled.shape[-1] * shrink) * 2 - 1
    grid_y = y / (pooled.shape[-2] * shrink) * 2 - 1
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), -1)[None]
    alpha = grid_sample(pooled, grid, align_corners=False, padding_mode="border")[0, 0]
    return alpha * inside, inside, window, torch.tensor(True)


@dataclass(frozen=True)
class Observations(TensorStructure):
    """One person in F frames, seen by C cameras.

    The world is that of `viewmats`. A single camera without a known pose has the identity there: the world is then the
    camera's frame (OpenCV axes), and gravity is estimated.
    """

    Ks: Float[Tensor, "C 3 3"]
    """Intrinsics in pixels, pixel centres at +0.5, without distortion."""
    viewmats: Float[Tensor, "C 4 4"]
    """World to camera, OpenCV axes, metres."""
    image_sizes: Float[Tensor, "C 2"]
    """Width and height in pixels."""
    landmarks: Float[Tensor, "F C L 2"] | None = None
    """Positions in pixels."""
    visibility: Float[Tensor, "F C L"] | None = None
    """Confidence in [0, 1]; 0 marks a missing landmark, whose position is ignored."""
    world_landmarks: Float[Tensor, "F C L 3"] | None = None
    """Metric 3D landmarks of a single-image network, in the axes of each camera, about any origin."""
    silhouettes: Silhouettes | None = None
    layout: str = "mediapipe"
    """Meaning of the L landmarks: `mediapipe` (33), `coco` (17) or `body25` (25)."""
    times: Float[Tensor, " F"] | None = None
    """Seconds; frames close in time are kept smooth. None: the frames are unrelated in time."""
    up: Float[Tensor, " 3"] | None = None
    """Unit vector against gravity in the world; None: estimated."""

    @property
    def num_frames(self) -> int:
        source = self.landmarks if self.landmarks is not None else self.silhouettes.alphas
        return source.shape[0]

    @property
    def num_cameras(self) -> int:
        return self.Ks.shape[0]
