"""Gaussians without a skeleton in the formats of web viewers and engines: `.splat`, compressed `.ply`, SPZ and SOG.

All of them use the axes of 3DGS (y down, see `ply.py`), except SPZ, whose axes are right, up and back. `.splat` is
written here: for each Gaussian, in order of decreasing size times opacity, 32 bytes: centre and scale as float32,
colour and opacity, and the quaternion (w, x, y, z) as 128 + 128 q. The others are converted from `.ply` by the package
gaussforge, which is optional.
"""

import tempfile
from pathlib import Path

import numpy as np

from core.export.ply import in_viewer_axes, save_ply
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

CONVERTED = ("compressed.ply", "spz", "sog")
"""Formats that gaussforge writes."""
_SPLAT = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def save_splat(path: Path, gaussians: Gaussians) -> None:
    """Write one set of Gaussians, given in a y-up frame, as `.splat`."""
    gaussians = in_viewer_axes(gaussians)
    means, quats, scales, opacities, colors = (
        getattr(gaussians, name).numpy() for name in ("means", "quats", "scales", "opacities", "colors")
    )
    order = np.argsort(-scales.prod(-1) * opacities, kind="stable")
    rows = np.zeros(len(order), _SPLAT)
    rows["means"], rows["scales"] = means[order], scales[order]
    rows["rgba"] = np.rint(np.concatenate([colors, opacities[:, None]], 1)[order].clip(0, 1) * 255)
    quats = quats[order] / np.linalg.norm(quats[order], axis=-1, keepdims=True)
    rows["quats"] = np.clip(np.rint(quats * 128 + 128), 0, 255)
    with atomic_path(path) as temporary:
        rows.tofile(temporary)


def save_converted(path: Path, gaussians: Gaussians, file_format: str) -> None:
    """Write one set of Gaussians, given in a y-up frame, in a format of `CONVERTED`.

    Raises:
        InputError: If gaussforge is not installed, or cannot convert.
    """
    try:
        from gaussforge import GaussForge  # optional
    except ImportError as error:
        raise InputError(f"--to {file_format} needs a package: pip install gaussforge (or use --to ply)") from error
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "gaussians.ply"
        # Readers of SPZ turn right, up, back to right, down, front; gaussforge copies coordinates as they are.
        save_ply(source, in_viewer_axes(gaussians) if file_format == "spz" else gaussians)
        result = GaussForge().convert(source.read_bytes(), "ply", file_format)
    if "data" not in result:
        raise InputError(f"{path}: gaussforge cannot write {file_format} ({result.get('error')}); use --to ply")
    with atomic_path(path) as temporary:
        temporary.write_bytes(result["data"])
