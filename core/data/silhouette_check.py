"""Does a fit, projected by the calibration, meet the masks? Not where a camera was moved, or a scale is wrong."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.data.crops import read_picture
from core.data.fits import posed_vertices
from core.types.cameras import Cameras
from smpl_renderer.body_model import BodyModel
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

SILHOUETTE_HEIGHT = 128
"""Pixels of the silhouettes that are compared; each is about two centimetres wide on a person in MVHumanNet."""


class Agreement(NamedTuple):
    """How well the projected body and a mask agree, in [0, 1]."""

    covered: float
    """Share of the projected body that lies on the mask. Clothes and hair do not lower it."""
    overlap: float
    """Intersection over union."""


def silhouette_agreements(params: BodyParams, body: BodyModel, cameras: Cameras, masks: list[Path]) -> list[Agreement]:
    """Compare the projected body with the mask in each of C cameras.

    Args:
        params: One fit, no batch axes.
        body: The body of the fit.
        cameras: [C], in the world of the fit, of the calibrated size.
        masks: The C mask files, of any size.
    """
    calibrated_size = (cameras.width, cameras.height)
    small = cameras.resized(round(SILHOUETTE_HEIGHT * cameras.width / cameras.height), SILHOUETTE_HEIGHT)
    pixels, depths = small.project(posed_vertices(params, body).expand(len(masks), -1, 3))
    faces = body.faces.to(depths.device)
    face_ids, _ = rasterize_mesh(pixels.float(), depths.float(), faces, small.height, small.width)

    agreements = []
    for path, drawn in zip(masks, (face_ids >= 0).numpy(), strict=True):
        mask = np.asarray(read_picture(path, calibrated_size, "L", (small.width, small.height))) > 127
        both = (mask & drawn).sum()
        agreements.append(Agreement(float(both / max(1, drawn.sum())), float(both / max(1, (mask | drawn).sum()))))
    return agreements
