"""Gaussians as `.ply` files in the layout of 3D Gaussian splatting (Kerbl et al., 2023), which 3DGS viewers read.

Differences between the layout and `Gaussians`:

| file | meaning |
|---|---|
| `f_dc_0..2` | spherical harmonics of degree 0: 0.5 + 0.2820948 f_dc is the display colour, as in `Gaussians` |
| `opacity` | logit |
| `scale_0..2` | logarithm of the standard deviation in metres |
| `rot_0..3` | quaternion, w first |
| axes | y *down*, view along +z, as in COLMAP: our y-up frame rotated by pi about x |
"""

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from core.types.gaussians import Gaussians
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.rotations import quat_multiply

SH_C0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
OPACITY_MARGIN = 1e-6  # keeps the logit finite; far below what 8 bits show
PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


def save_ply(path: Path, gaussians: Gaussians, degree: int = 0) -> None:
    """Write one set of Gaussians (no batch axes), given in a y-up frame.

    Args:
        path: Output file.
        gaussians: Gaussians whose colours do not depend on the viewing direction.
        degree: Degree of the spherical harmonics in the file. Above 0 it has `f_rest_*`, all zero, which some viewers
            require; degree 3 makes the file almost four times as large.
    Raises:
        ValueError: If the Gaussians have batch axes.
    """
    gaussians = in_viewer_axes(gaussians)
    columns = torch.cat(
        [
            gaussians.means,
            torch.zeros_like(gaussians.means),  # normals, which the layout has but viewers ignore
            (gaussians.colors - 0.5) / SH_C0,
            torch.logit(gaussians.opacities, eps=OPACITY_MARGIN)[:, None],
            gaussians.scales.clamp(min=1e-12).log(),
            torch.nn.functional.normalize(gaussians.quats, dim=-1),
        ],
        dim=-1,
    )
    rest = [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    split = PROPERTIES.index("f_dc_2") + 1  # where the layout has them
    names = (*PROPERTIES[:split], *rest, *PROPERTIES[split:])
    vertices = np.zeros(len(columns), dtype=[(name, "<f4") for name in names])
    for i, name in enumerate(PROPERTIES):
        vertices[name] = columns[:, i].numpy()
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


def in_viewer_axes(gaussians: Gaussians) -> Gaussians:
    """One set of Gaussians of a y-up frame in the axes of 3DGS viewers, on the CPU in float32.

    Raises:
        ValueError: If the Gaussians have batch axes.
    """
    if gaussians.batch_shape:
        raise ValueError(f"gaussians must have no batch axes, got {tuple(gaussians.batch_shape)}; index one set")
    return _rotate_half_turn(gaussians.detach().to("cpu", torch.float32))


def load_ply(path: Path) -> Gaussians:
    """Read Gaussians written by `save_ply`, or by others in that layout; harmonics above degree 0 are ignored.

    Raises:
        InputError: If the file is not readable, or holds no Gaussians.
    """
    try:
        vertices = PlyData.read(str(path))["vertex"]
    except (OSError, PlyParseError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not a readable .ply of Gaussians ({error}); write it again with infer.py") from error
    present = {p.name for p in vertices.properties}
    missing = [name for name in PROPERTIES if name not in present and name not in ("nx", "ny", "nz")]
    if missing:
        raise InputError(f"{path} holds no Gaussians: it lacks {', '.join(missing)}; pass a 3DGS .ply, not a mesh")

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(vertices[name], dtype=np.float32) for name in names], -1))

    return _rotate_half_turn(
        Gaussians(
            means=columns("x", "y", "z"),
            quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
            scales=columns("scale_0", "scale_1", "scale_2").exp(),
            opacities=columns("opacity")[:, 0].sigmoid(),
            colors=columns("f_dc_0", "f_dc_1", "f_dc_2") * SH_C0 + 0.5,
        )
    )


def _rotate_half_turn(gaussians: Gaussians) -> Gaussians:
    """Rotate by pi about x: y up to y down, and back (self-inverse up to the quaternion's sign)."""
    return Gaussians(
        means=gaussians.means * gaussians.means.new_tensor([1.0, -1.0, -1.0]),
        quats=quat_multiply(gaussians.quats.new_tensor([0.0, 1.0, 0.0, 0.0]), gaussians.quats),
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
    )
