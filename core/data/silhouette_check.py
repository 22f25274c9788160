"""Agreement of masks with the projected body: low where a camera was moved, or where a scale is wrong, and higher for
another camera where two are swapped."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.calibration import CalibratedCamera, stack_cameras
from core.data.crops import ImageFiles, read_alpha
from core.data.fits import posed_vertices
from smpl_renderer.body_model import BodyModel
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

SILHOUETTE_HEIGHT = 128
"""Height of the compared silhouettes in pixels; a pixel is about two centimetres wide on a person in MVHumanNet."""


class Agreement(NamedTuple):
    """Agreement of the projected body and a mask, in [0, 1]."""

    covered: float
    """Share of the projected body that lies on the mask. Clothes and hair do not lower it."""
    overlap: float
    """Intersection over union."""
    other: str = ""
    """The camera whose projected body has the largest overlap with the mask."""
    other_overlap: float = 0.0
    """That overlap."""


def silhouette_agreements(
    params: BodyParams, body: BodyModel, cameras: Mapping[str, CalibratedCamera], files: Mapping[str, ImageFiles]
) -> dict[str, Agreement]:
    """Compare the projected body with the mask in each of C cameras.

    Args:
        params: One fit, no batch axes, in the raw world.
        body: Body of the fit.
        cameras: The C cameras by name.
        files: Their images and masks.
    """
    vertices = posed_vertices(params, body)
    covered, masks, bodies = [], [], []
    for name, camera in cameras.items():
        small = stack_cameras([camera]).resized(
            round(SILHOUETTE_HEIGHT * camera.width / camera.height), SILHOUETTE_HEIGHT
        )
        pixels, depths = small.project(vertices[None])
        faces = body.faces.to(depths.device)
        face_ids, _ = rasterize_mesh(pixels.float(), depths.float(), faces, small.height, small.width)
        drawn = (face_ids[0] >= 0).numpy()
        mask = read_alpha(files[name], camera, (small.width, small.height)) > 127
        covered.append(float((mask & drawn).sum() / max(1, drawn.sum())))
        masks.append(mask)
        bodies.append(drawn)
    overlaps = _overlaps(masks, bodies)
    names = list(cameras)
    return {
        name: Agreement(covered[i], float(overlaps[i, i]), names[int(overlaps[i].argmax())], float(overlaps[i].max()))
        for i, name in enumerate(names)
    }


def _overlaps(masks: list[np.ndarray], bodies: list[np.ndarray]) -> Float[np.ndarray, "C C"]:
    """Intersection over union of each mask with each projected body; images of different widths share the centre."""
    width = max(mask.shape[1] for mask in masks)

    def rows(images: list[np.ndarray]) -> Tensor:
        pads = [width - image.shape[1] for image in images]
        padded = [np.pad(image, ((0, 0), (pad // 2, pad - pad // 2))) for image, pad in zip(images, pads)]
        return torch.from_numpy(np.stack(padded).reshape(len(images), -1)).float()

    a, b = rows(masks), rows(bodies)
    both = a @ b.T  # not by numpy, whose threads cost more than the product
    return (both / (a.sum(1)[:, None] + b.sum(1) - both).clamp_min(1)).numpy()


def median_agreement(agreements: list[Agreement]) -> tuple[float, float]:
    """Medians of the covered shares and of the overlaps."""
    covered, overlap = np.median([(agreement.covered, agreement.overlap) for agreement in agreements], axis=0).tolist()
    return covered, overlap
