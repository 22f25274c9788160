"""Masks as targets of a fit: distance fields for points outside of them, and points on their outlines."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample

from smpl_renderer.fitting.observations import Silhouettes
from smpl_renderer.tensor_structure import TensorStructure

OUTLINE_POINTS = 256


@dataclass(frozen=True)
class SilhouetteTargets(TensorStructure):
    """Masks as the energy reads them. Distances and positions are in pixels of the images."""

    outside: Float[Tensor, "F C S S"]
    """Distance from each cell of the window to the mask; zero inside, and where the image does not reach."""
    windows: Float[Tensor, "F C 3"]
    """Left, top and side of each window."""
    outline: Float[Tensor, "F C P 2"]
    """Points on the edge of the mask, not where the image's edge cuts the person."""
    normals: Float[Tensor, "F C P 2"]
    """Unit normals of the mask's edge there, pointing away from the person."""
    weights: Float[Tensor, "F C P"]
    """1 for an outline point, 0 for padding."""
    present: Bool[Tensor, "F C"]

    def distances(self, pixels: Float[Tensor, "F C N 2"]) -> Float[Tensor, "F C N"]:
        """Distance of image points to the mask, differentiable; beyond the window its border's value counts."""
        frames, cameras, size = *self.outside.shape[:2], self.outside.shape[-1]
        corner, side = self.windows[..., None, :2], self.windows[..., None, 2:]
        grid = 2 * (pixels - corner) / side - 1
        sampled = grid_sample(
            self.outside.reshape(frames * cameras, 1, size, size),
            grid.reshape(frames * cameras, 1, -1, 2),
            align_corners=False,
            padding_mode="border",
        )
        return sampled.reshape(frames, cameras, -1)


def silhouette_targets(silhouettes: Silhouettes, num_points: int = OUTLINE_POINTS, seed: int = 0) -> SilhouetteTargets:
    """Prepare masks, on the CPU, and return the targets on the device of the masks."""
    rng = np.random.default_rng(seed)
    device = silhouettes.alphas.device
    alphas, known, present = (x.cpu().numpy() for x in (silhouettes.alphas, silhouettes.known, silhouettes.present))
    frames, cameras, size, _ = alphas.shape
    outside = np.zeros((frames, cameras, size, size), np.float32)
    outline, normals = (np.zeros((frames, cameras, num_points, 2), np.float32) for _ in range(2))
    weights = np.zeros((frames, cameras, num_points), np.float32)
    for f, c in zip(*np.nonzero(present)):
        mask = alphas[f, c] > 0.5
        outside[f, c] = ndimage.distance_transform_edt(~mask) * known[f, c]
        points, directions = _outline(alphas[f, c], mask, known[f, c])
        chosen = rng.permutation(len(points))[:num_points]
        outline[f, c, : len(chosen)], normals[f, c, : len(chosen)] = points[chosen], directions[chosen]
        weights[f, c, : len(chosen)] = 1
    windows = silhouettes.windows
    step = windows[..., 2] / size
    corner = windows[..., None, :2]
    move = [torch.from_numpy(x).to(device) for x in (outside, outline, normals, weights)]
    return SilhouetteTargets(
        outside=move[0] * step[..., None, None],
        windows=windows,
        outline=move[1] * step[..., None, None] + corner,
        normals=move[2],
        weights=move[3],
        present=silhouettes.present,
    )


def _outline(alpha: np.ndarray, mask: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge points [P, 2] in cells, x then y, with outward unit normals; none where the mask leaves the image."""
    smooth = ndimage.gaussian_filter(np.where(known, alpha, 0.5 * mask), 1.5)
    # Cells next to the unknown part are no outline: the image ends there, not the person.
    inner = ndimage.binary_erosion(known, iterations=3, border_value=0)
    edge = mask & ~ndimage.binary_erosion(mask) & inner
    ys, xs = np.nonzero(edge)
    gradient_y, gradient_x = np.gradient(smooth)
    outward = -np.stack([gradient_x[ys, xs], gradient_y[ys, xs]], -1)
    length = np.linalg.norm(outward, axis=-1, keepdims=True)
    outward = outward / np.maximum(length, 1e-6)
    # The edge lies between the centre of the outermost covered cell and the next.
    return (np.stack([xs, ys], -1) + 0.5 + 0.5 * outward).astype(np.float32), outward.astype(np.float32)
