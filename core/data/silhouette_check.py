"""Agreement of masks with the projected body: low where a camera was moved, or where a scale is wrong."""

from typing import NamedTuple

import numpy as np

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


def silhouette_agreements(
    params: BodyParams, body: BodyModel, cameras: list[CalibratedCamera], files: list[ImageFiles]
) -> list[Agreement]:
    """Compare the projected body with the mask in each of C cameras.

    Args:
        params: One fit, no batch axes, in the raw world.
        body: Body of the fit.
        cameras: The C cameras.
        files: Their images and masks.
    """
    vertices = posed_vertices(params, body)
    agreements = []
    for camera, paths in zip(cameras, files, strict=True):
        small = stack_cameras([camera]).resized(
            round(SILHOUETTE_HEIGHT * camera.width / camera.height), SILHOUETTE_HEIGHT
        )
        pixels, depths = small.project(vertices[None])
        faces = body.faces.to(depths.device)
        face_ids, _ = rasterize_mesh(pixels.float(), depths.float(), faces, small.height, small.width)
        drawn = (face_ids[0] >= 0).numpy()
        mask = read_alpha(paths, camera, (small.width, small.height)) > 127
        both = (mask & drawn).sum()
        agreements.append(Agreement(float(both / max(1, drawn.sum())), float(both / max(1, (mask | drawn).sum()))))
    return agreements


def median_agreement(agreements: list[Agreement]) -> Agreement:
    """Median of each of the two measures."""
    return Agreement(*np.median(agreements, axis=0).tolist())
