"""Refits in MVHumanNet's layout, `optimized_smpl_points/<FFFF>.json` and `.ply`: what `core.data.fits` and HGG read."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.fits import REFIT_FOLDER
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams


def refit_path(folder: Path, frame: int) -> Path:
    """File of a frame's refit in a subject's folder; its points have the same name with `.ply`."""
    return folder / REFIT_FOLDER / f"{frame:04d}.json"


def write_refit(
    folder: Path, frame: int, params: BodyParams, vertices: Float[Tensor, "V 3"] | None = None
) -> tuple[Path, ...]:
    """Write the refit of a frame, the points first, and return the files.

    Args:
        folder: Of the subject.
        frame: Frame id.
        params: Of one body (no batch axes), in the raw world (z down, metres).
        vertices: Of the posed body in that world; None writes no points. The points are in HGG's world, (x, z, -y).
    """
    path = refit_path(folder, frame)
    written = (path,)
    if vertices is not None:
        points = path.with_suffix(".ply")
        with atomic_path(points) as temporary:
            temporary.write_text(_ascii_points(vertices.detach().cpu().numpy()))
        written = (points, path)
    record = {
        "pose": [torch.cat([params.global_orient, params.body_pose]).tolist()],
        "betas": [params.betas.tolist()],
        "translation": params.transl.tolist(),
        "scale": float(params.scale),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record))
    return written


def _ascii_points(vertices: Float[np.ndarray, "V 3"]) -> str:
    swapped = np.stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]], 1)
    header = ["ply", "format ascii 1.0", f"element vertex {len(swapped)}"]
    header += [f"property float {axis}" for axis in "xyz"] + ["end_header"]
    return "\n".join(header + [" ".join(f"{value:.6f}" for value in row) for row in swapped]) + "\n"
