"""Gaussians as `ParticleField3DGaussianSplat` of OpenUSD (26.03 or newer): metres, y up, display colours."""

from pathlib import Path

import numpy as np
import torch

from core.export.ply import SH_C0
from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

SUFFIXES = (".usd", ".usda", ".usdc")


def save_usd(path: Path, gaussians: Gaussians) -> None:
    """Write one set of Gaussians, given in a y-up frame.

    Args:
        path: Output file with the suffix `.usd`, `.usda` or `.usdc`.
        gaussians: Gaussians without batch axes.
    Raises:
        InputError: If OpenUSD is not installed, or has no such schema, or for another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: OpenUSD writes {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}; rename --out"
        )
    try:
        from pxr import Gf, Usd, UsdGeom, UsdVol, Vt  # optional
    except ImportError as error:
        raise InputError("--to usd needs a package: pip install usd-core (or use --to glb)") from error
    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        raise InputError("--to usd needs a newer OpenUSD: pip install -U usd-core (26.3 or newer)")
    gaussians = gaussians.detach().to("cpu", torch.float32)
    quats = (gaussians.quats / gaussians.quats.norm(dim=-1, keepdim=True)).numpy()
    means, scales = (getattr(gaussians, name).numpy() for name in ("means", "scales"))
    with atomic_path(path) as temporary:
        stage = Usd.Stage.CreateNew(str(temporary))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/avatar")
        stage.SetDefaultPrim(splats.GetPrim())
        radius = 3 * scales.max(1, keepdims=True)
        extent = np.stack([(means - radius).min(0), (means + radius).max(0)]).astype(np.float32)
        values = {
            "positions": Vt.Vec3fArray.FromNumpy(means),
            "scales": Vt.Vec3fArray.FromNumpy(scales),
            "orientations": Vt.QuatfArray([Gf.Quatf(*map(float, quat)) for quat in quats]),  # real part first
            "opacities": Vt.FloatArray.FromNumpy(gaussians.opacities.numpy()),
            "radiance:sphericalHarmonicsDegree": 0,
            "radiance:sphericalHarmonicsCoefficients": Vt.Vec3fArray.FromNumpy(
                ((gaussians.colors - 0.5) / SH_C0).numpy()
            ),
            "extent": Vt.Vec3fArray.FromNumpy(extent),
        }
        for name, value in values.items():
            splats.GetPrim().GetAttribute(name).Set(value)
        stage.GetRootLayer().Save()
