"""Fits of the body to a capture's frames: `optimized_smpl_points/<FFFF>.json` and `smpl_param/<IIIIII>.pkl`.

Both are returned as `BodyParams` in the raw world (z down), float64. A fit that does not re-pose to the vertices stored
beside it is refused: it belongs to another body model.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from plyfile import PlyData, PlyParseError
from torch import Tensor

from core.data.calibration import read_json
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_mvhumannet_pickle
from smpl_renderer.rotations import matrix_to_axis_angle, nearest_rotation
from smpl_renderer.types import BodyParams

MAX_REPOSE_ERROR = 0.005
"""Metres between a stored vertex and the re-posed one."""

REFIT_FOLDER, FIT_FOLDER = "optimized_smpl_points", "smpl_param"
REFIT_NAME, FIT_NAME = re.compile(r"(\d+)\.json"), re.compile(r"(\d+)\.pkl")


def find_fits(folder: Path) -> dict[int, Path]:
    """Fit files of a subject by image id; refits (`optimized_smpl_points`) come before MVHumanNet's own (`smpl_param`).

    The files decide which frames have a fit, never their position in the listing: `smpl_param` has holes. Its index I
    belongs to image id 5 (I + 1).
    """
    fits = {5 * (index + 1): path for index, path in numbered_files(folder / FIT_FOLDER, FIT_NAME).items()}
    return fits | numbered_files(folder / REFIT_FOLDER, REFIT_NAME)


class BodyMismatch(InputError):
    """A fit that was made with another body than the one in use."""


def read_fit(path: Path, body: BodyModel) -> BodyParams:
    """Read a fit of either kind; no batch axes, raw world, float64.

    Raises:
        InputError: If the file cannot be read or holds NaN; `BodyMismatch` if it belongs to another body.
    """
    if path.suffix == ".json":
        params = _read_refit(path, body)
        vertices = _read_refit_vertices(path.with_suffix(".ply"))
    else:
        params, vertices = _read_smpl_param(path, body)
    if vertices is not None:
        _check_vertices(path, params, vertices, body)
    return params


def rest_pelvis(body: BodyModel, betas: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch 3"]:
    """The root joint of the shaped rest pose, about which `global_orient` turns; on the device of `betas`."""
    template, dirs = body.joint_template[:3].to(betas), body.joint_dirs[:3, : betas.shape[-1]].to(betas)
    return template + betas @ dirs.mT  # without the vertices that the joints are regressed from: this is called often


@torch.no_grad()
def posed_vertices(params: BodyParams, body: BodyModel) -> Float[Tensor, "*batch V 3"]:
    """Vertices of fits, on the device and in the type of `params`, whatever those of the body are."""
    return body(params.to(body.v_template)).vertices.to(params.scale)


def numbered_files(folder: Path, pattern: re.Pattern) -> dict[int, Path]:
    """Files of a folder, if it is there, by the number in their name (the pattern's first group)."""
    if not folder.is_dir():
        return {}
    matches = (pattern.fullmatch(path.name) for path in sorted(folder.iterdir()))
    return {int(match[1]): folder / match[0] for match in matches if match}


def _read_refit(path: Path, body: BodyModel) -> BodyParams:
    """HGG's refit: `scale * SMPL(betas, pose) + translation`, already in the raw world."""
    values = read_json(path)
    pose = _numbers(values, "pose", 72, path)
    scale = _numbers(values, "scale", 1, path)[0]
    if scale <= 0:
        raise InputError(f"{path}: `scale` of the fit must be positive; get the file again or delete it")
    return BodyParams(
        betas=_betas(values, path, body),
        global_orient=pose[:3],
        body_pose=pose[3:],
        transl=_numbers(values, "translation", 3, path),
        scale=scale,
    )


def _read_refit_vertices(path: Path) -> Float[Tensor, "V 3"] | None:
    """Vertices of a refit's `.ply`, if there is one. They are written in HGG's swapped frame, (x, z, -y) of the raw
    world."""
    if not path.is_file():
        return None
    try:
        vertex = PlyData.read(path)["vertex"]
        x, z, minus_y = (np.asarray(vertex[axis], dtype=np.float64) for axis in ("x", "y", "z"))
    except (PlyParseError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a point cloud ({error}); get it again or delete it") from error
    vertices = torch.from_numpy(np.stack([x, -minus_y, z], -1))
    if not vertices.isfinite().all():
        raise InputError(f"{path}: holds NaN or infinity; get it again or delete it")
    return vertices


def _read_smpl_param(path: Path, body: BodyModel) -> tuple[BodyParams, Float[Tensor, "V 3"]]:
    """MVHumanNet's fit: `v = R (v0 - J0) + joints[0]`, with v0 posed by `body_pose` only and J0 the rest pelvis."""
    values = read_mvhumannet_pickle(path)
    betas = _betas(values, path, body)
    global_orient = _numbers(values, "global_orient", 9, path).view(3, 3)
    body_pose = _numbers(values, "body_pose", 23 * 9, path).view(23, 3, 3)
    pelvis = _points(values, "joints", path)[0]
    params = BodyParams(
        betas=betas,
        global_orient=_axis_angle(global_orient),
        body_pose=_axis_angle(body_pose).flatten(),
        transl=pelvis - rest_pelvis(body, betas),
        scale=torch.ones((), dtype=torch.float64),
    )
    return params, _points(values, "vertices", path)


def _axis_angle(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    return matrix_to_axis_angle(nearest_rotation(matrices))


def _betas(values: Any, path: Path, body: BodyModel) -> Float[Tensor, " S"]:
    """Shape components, as many as the body has."""
    betas = _numbers(values, "betas", None, path)[: body.num_betas]
    return torch.nn.functional.pad(betas, (0, body.num_betas - len(betas)))


def _points(values: Any, key: str, path: Path) -> Float[Tensor, "n 3"]:
    numbers = _numbers(values, key, None, path)
    if len(numbers) % 3:
        raise InputError(f"{path}: `{key}` of the fit must be points; get the file again or delete it")
    return numbers.view(-1, 3)


def _numbers(values: Any, key: str, size: int | None, path: Path) -> Float[Tensor, " n"]:
    """Finite numbers under a key, flat, in float64: `size` of them, or with None any number but zero."""
    if not isinstance(values, dict) or values.get(key) is None:
        raise InputError(f"{path}: the fit has no `{key}`; get the file again, or delete it to leave this frame out")
    try:
        numbers = torch.tensor(np.asarray(values[key], dtype=np.float64).reshape(-1))
    except (TypeError, ValueError):
        numbers = torch.empty(0)
    if len(numbers) == 0 or (size is not None and len(numbers) != size):
        expected = "numbers" if size is None else f"{size} numbers"
        raise InputError(f"{path}: `{key}` of the fit must be {expected}; get the file again or delete it")
    if not numbers.isfinite().all():
        raise InputError(f"{path}: `{key}` of the fit holds NaN or infinity; delete the file to leave this frame out")
    return numbers


def _check_vertices(path: Path, params: BodyParams, vertices: Float[Tensor, "V 3"], body: BodyModel) -> None:
    """Refuse a fit that was made with another body than this one."""
    remedy = "name the body that it was fitted with by --body, or delete the file"
    if len(vertices) != body.num_vertices:
        raise BodyMismatch(
            f"{path}: the fit stores {len(vertices)} vertices, but the body {body.name} ({body.fingerprint}) has "
            f"{body.num_vertices}; {remedy}"
        )
    error = (posed_vertices(params, body) - vertices).norm(dim=-1).max().item()
    if error > MAX_REPOSE_ERROR:
        raise BodyMismatch(
            f"{path}: the body {body.name} ({body.fingerprint}) comes out {1000 * error:.0f} mm away from the vertices "
            f"stored with this fit; {remedy}"
        )
