"""Fits of the body to a capture's frames, in the forms and under the keys in which tools write them.

Files are JSON, pickles, `.npz` or files of `torch.save`; docs/data.md lists the keys. All become `BodyParams`, float64,
in the world of the file. A fit that does not re-pose to the vertices stored beside it belongs to another body model and
is refused.
"""

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from plyfile import PlyData
from torch import Tensor

from core.data.input_files import numbered_files, read_json
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import MAX_FIT_BYTES, check_file, load_npz
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_fit_pickle
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle, nearest_rotation
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

MAX_REPOSE_ERROR = 0.005
"""Metres between a stored vertex and the re-posed one."""

REFIT_FOLDER, FIT_FOLDER = "optimized_smpl_points", "smpl_param"
FIT_NAME = re.compile(r"(\d+)\.(?:json|pkl|pickle|npz|pt|pth)", re.IGNORECASE)

KEYS = {
    "betas": ("betas", "shapes", "shape", "beta"),
    "global_orient": ("global_orient", "root_orient", "Rh"),
    "body_pose": ("body_pose", "pose_body"),
    "pose": ("pose", "poses", "full_pose", "thetas"),
    "transl": ("transl", "translation", "trans", "Th"),
    "scale": ("scale",),
}
"""Keys of a fit, and the names under which they are found, in this order. `pose` holds root and body together."""
LIMITS = {"betas": 100, "global_orient": 1000, "body_pose": 1000, "transl": 1e4, "scale": 1000}
"""Largest absolute values of a fit that can be those of a person: radians, metres."""
_MAX_UNUSED_BETA = 0.5
_REMEDY = "docs/data.md lists the keys of a fit"


def find_fits(folder: Path) -> dict[int, Path]:
    """Fit files of a subject by frame; refits (`optimized_smpl_points`) come before MVHumanNet's own (`smpl_param`).

    The names of the files decide which frames have a fit, never their position in the listing: `smpl_param` has holes.
    Its index I belongs to frame 5 (I + 1).
    """
    fits = {5 * (index + 1): path for index, path in numbered_files(folder / FIT_FOLDER, FIT_NAME).items()}
    return fits | numbered_files(folder / REFIT_FOLDER, FIT_NAME)


class UnusableFit(InputError):
    """A fit that was read, but whose numbers are not those of a person. Its frame can be left out."""


class BodyMismatch(InputError):
    """A fit that was made with another body than the one in use."""


def read_fit(path: Path, body: BodyModel) -> BodyParams:
    """Read a fit of any kind; no batch axes, in the world of the file, float64.

    Raises:
        InputError: If the file cannot be read; `UnusableFit` if it holds NaN or absurd values; `BodyMismatch` if it
            belongs to another body.
    """
    params, vertices = _parse(_read_values(path), path, body)
    if vertices is None:
        vertices = _read_refit_vertices(path.with_suffix(".ply"))
    if vertices is not None:
        _check_vertices(path, params, vertices, body)
    return params


def parse_fit(values: Any, where: Path, body: BodyModel) -> BodyParams:
    """Fit of a record that was read from a file; as `read_fit`."""
    params, vertices = _parse(values, where, body)
    if vertices is not None:
        _check_vertices(where, params, vertices, body)
    return params


@dataclass(frozen=True)
class PosedRecord:
    """Posed vertices of a fit, with what is stored beside them; no body model is needed to read these."""

    vertices: Float[Tensor, "W 3"]
    """In the raw world, in the order of the body that was fitted."""
    pose: Float[Tensor, "24 3"]
    """Rotation vectors of root and joints."""
    joints: Float[Tensor, "24 3"] | None
    faces: Int[Tensor, "T 3"] | None


def read_posed_record(frame_files: list[Path]) -> PosedRecord:
    """Read the vertices of a frame's fit, float64: of the first of its files (`fit_files`) that has any.

    Raises:
        InputError: If none has, or a file is broken.
    """
    for path in frame_files:
        values = _single_record(_read_values(path), path)
        if values.get("vertices") is not None:
            vertices = _points(values, "vertices", path)
        elif (vertices := _read_refit_vertices(path.with_suffix(".ply"))) is None:
            continue
        root, joints = _pose(values, path)
        places = None if values.get("joints") is None else _points(values, "joints", path)
        return PosedRecord(
            vertices=vertices,
            pose=torch.cat([root, joints]).view(24, 3),
            joints=None if places is None or len(places) < 24 else places[:24],
            faces=_faces(values.get("faces"), len(vertices)),
        )
    names = " and ".join(str(path) for path in frame_files)
    raise InputError(
        f"{names}: no posed `vertices` are stored with the fit; name a body file that re-poses it (--body)"
    )


def fit_files(folder: Path) -> dict[int, list[Path]]:
    """All fit files of a subject by frame, in the order of `find_fits`."""
    originals = {5 * (index + 1): path for index, path in numbered_files(folder / FIT_FOLDER, FIT_NAME).items()}
    refits = numbered_files(folder / REFIT_FOLDER, FIT_NAME)
    frames = sorted(originals.keys() | refits.keys())
    return {frame: [files[frame] for files in (refits, originals) if frame in files] for frame in frames}


def rest_pelvis(body: BodyModel, betas: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch 3"]:
    """Root joint of the shaped rest pose, about which `global_orient` turns; on the device of `betas`."""
    template, dirs = body.joint_template[:3].to(betas), body.joint_dirs[:3, : betas.shape[-1]].to(betas)
    return template + betas @ dirs.mT  # without the vertices that the joints are regressed from: this is called often


@torch.no_grad()
def posed_vertices(params: BodyParams, body: BodyModel) -> Float[Tensor, "*batch V 3"]:
    """Vertices of fits, on the device and in the type of `params`, whatever those of the body are."""
    return body(params.to(body.v_template)).vertices.to(params.scale)


def _read_values(path: Path) -> Any:
    """Content of a fit file: usually a dictionary of numbers."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json(path, "the frame has no fit")
    return load_npz(path) if suffix == ".npz" else read_fit_pickle(path)


def _parse(values: Any, path: Path, body: BodyModel) -> tuple[BodyParams, Float[Tensor, "V 3"] | None]:
    """Parameters of a fit, and its vertices if it stores them."""
    values = _single_record(values, path)
    betas = _betas(values, path, body)
    global_orient, body_pose = _pose(values, path)
    scale = torch.ones(1, dtype=torch.float64)
    if _find(values, "scale") is not None:
        scale = _numbers(values, "scale", (1,), path)
    if scale[0] <= 0:
        raise InputError(f"{path}: `scale` of the fit must be positive, got {float(scale[0]):g}; correct it")
    params = BodyParams(
        betas=betas,
        global_orient=global_orient,
        body_pose=body_pose,
        transl=_translation(values, path, body, betas, global_orient, scale),
        scale=scale[0],
    )
    for name, limit in LIMITS.items():
        if (largest := float(getattr(params, name).abs().max())) > limit:
            raise UnusableFit(
                f"{path}: `{name}` of the fit reaches {largest:g}, which is no person's (at most {limit:g}); fit the "
                "body to this frame again"
            )
    vertices = None if values.get("vertices") is None else _points(values, "vertices", path)
    return params, vertices


def _single_record(values: Any, path: Path) -> dict[str, Any]:
    """The fit of the one person in a file; EasyMocap lists all people of a frame."""
    if isinstance(values, dict) and isinstance(values.get("annots"), list):
        values = values["annots"]
    if isinstance(values, list):
        if len(values) != 1:
            raise InputError(f"{path}: holds the fits of {len(values)} people; keep that of the one in the masks")
        values = values[0]
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, expected an object with a fit; {_REMEDY}")
    return values


def _pose(values: dict[str, Any], path: Path) -> tuple[Float[Tensor, "3"], Float[Tensor, "69"]]:
    """Root orientation and body pose, axis-angle.

    EasyMocap's `Rh` turns the whole body, whose own root (in `poses`) is usually zero.
    """
    whole = _find(values, "pose")
    root, joints = None, None
    if whole is not None and _find(values, "body_pose") is None:
        count = _count(values, whole)
        if whole == "poses" and count in (69, 23 * 9):
            joints = _rotations(values, whole, 23, path)
        else:
            root, joints = _rotations(values, whole, 24, path).split([1, 23])
    elif _find(values, "body_pose") is not None:
        joints = _rotations(values, "body_pose", 23, path)
    else:
        raise _missing(path, "body_pose")
    key = _find(values, "global_orient")
    if key == "Rh" and root is not None:
        turn = axis_angle_to_matrix(_rotations(values, key, 1, path)[0])
        root = matrix_to_axis_angle(turn @ axis_angle_to_matrix(root[0]))[None] if root.any() else None
    if root is None or (key is not None and key != "Rh"):
        if key is None:
            raise _missing(path, "global_orient")
        root = _rotations(values, key, 1, path)
    return root[0], joints.flatten()


def _translation(
    values: dict[str, Any],
    path: Path,
    body: BodyModel,
    betas: Float[Tensor, " S"],
    global_orient: Float[Tensor, "3"],
    scale: Float[Tensor, "1"],
) -> Float[Tensor, "3"]:
    """`transl`, of which `vertices = scale * body + transl`.

    MVHumanNet's is None: its pelvis is the first of `joints`. EasyMocap's `Th` belongs to a rotation about the origin:
    x' = R x + Th with the pelvis at R J0 + Th.
    """
    key = _find(values, "transl")
    if key is None and values.get("joints") is not None:
        return _points(values, "joints", path)[0] - scale * rest_pelvis(body, betas)
    if key is None:
        raise _missing(path, "transl")
    transl = _numbers(values, key, (3,), path)
    if key != "Th":
        return transl
    pelvis = rest_pelvis(body, betas)
    turn = axis_angle_to_matrix(_rotations(values, "Rh", 1, path)[0]) if "Rh" in values else torch.eye(3).to(pelvis)
    return transl + scale * (turn @ pelvis - pelvis)


def _rotations(values: dict[str, Any], key: str, count: int, path: Path) -> Float[Tensor, "J 3"]:
    """Axis-angle of `count` joints, stored as such or as matrices."""
    numbers = _numbers(values, key, (3 * count, 9 * count), path)
    if len(numbers) == 3 * count:
        return numbers.view(count, 3)
    matrices = numbers.view(count, 3, 3)
    if (matrices @ matrices.mT - torch.eye(3, dtype=torch.float64)).abs().max() > 0.1 or (matrices.det() < 0).any():
        raise InputError(f"{path}: `{key}` of the fit holds matrices that are no rotations; {_REMEDY}")
    return matrix_to_axis_angle(nearest_rotation(matrices))


def _betas(values: dict[str, Any], path: Path, body: BodyModel) -> Float[Tensor, " S"]:
    """Shape components, as many as the body has."""
    key = _find(values, "betas")
    if key is None:
        raise _missing(path, "betas")
    betas = _numbers(values, key, None, path)
    if len(betas) > 300:
        raise InputError(f"{path}: `{key}` of the fit holds {len(betas)} numbers, expected at most 300; {_REMEDY}")
    if betas[body.num_betas :].abs().sum() > _MAX_UNUSED_BETA:
        _note_unused_betas(path.parent, len(betas), body.num_betas)
    betas = betas[: body.num_betas]
    return torch.nn.functional.pad(betas, (0, body.num_betas - len(betas)))


@lru_cache(maxsize=256)
def _note_unused_betas(folder: Path, count: int, used: int) -> None:
    """Log once per folder that shape components are dropped."""
    logger.warning("%s: of %d betas the first %d are used; fit the body with %d", folder, count, used, used)


def _find(values: dict[str, Any], key: str) -> str | None:
    """Name under which a fit has a key; names that hold None count as absent."""
    return next((name for name in KEYS[key] if values.get(name) is not None), None)


def _missing(path: Path, key: str) -> InputError:
    names = ", ".join(f"`{name}`" for name in KEYS[key])
    return InputError(f"{path}: the fit has no {names.replace(', ', ' or ')}; {_REMEDY}")


def _count(values: dict[str, Any], key: str) -> int:
    try:
        return int(np.size(np.asarray(values[key], dtype=np.float64)))
    except (TypeError, ValueError, OverflowError):
        return 0


def _points(values: dict[str, Any], key: str, path: Path) -> Float[Tensor, "n 3"]:
    numbers = _numbers(values, key, None, path)
    if len(numbers) % 3:
        raise InputError(f"{path}: `{key}` of the fit must be points, got {len(numbers)} numbers; {_REMEDY}")
    return numbers.view(-1, 3)


def _faces(values: Any, num_vertices: int) -> Int[Tensor, "T 3"] | None:
    """Triangles that a file stores; None if there are none, or they do not fit the vertices."""
    faces = np.asarray([] if values is None else values)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        return None
    if faces.min() < 0 or faces.max() >= num_vertices:
        return None
    return torch.from_numpy(faces.astype(np.int64))


def _numbers(values: dict[str, Any], key: str, counts: tuple[int, ...] | None, path: Path) -> Float[Tensor, " n"]:
    """Finite numbers under a key, flat, in float64: one of `counts`, or with None any number of them but zero."""
    try:
        value = (
            values[key].detach().double() if isinstance(values[key], Tensor) else values[key]
        )  # numpy has no bfloat16
        numbers = torch.tensor(np.asarray(value, dtype=np.float64).reshape(-1))
    except (TypeError, ValueError, OverflowError):
        numbers = torch.empty(0)
    if len(numbers) == 0 or (counts is not None and len(numbers) not in counts):
        expected = "numbers" if counts is None else " or ".join(map(str, counts)) + " numbers"
        hint = " (SMPL-X or SMPL-H)" if counts is not None and len(numbers) in (63, 87, 156, 165) else ""
        raise InputError(f"{path}: `{key}` of the fit must be {expected}, got {len(numbers)}{hint}; {_REMEDY}")
    if not numbers.isfinite().all():
        raise UnusableFit(f"{path}: `{key}` of the fit holds NaN or infinity; fit the body to this frame again")
    return numbers


def _read_refit_vertices(path: Path) -> Float[Tensor, "V 3"] | None:
    """Vertices of a refit's `.ply`, if there is one. They are written in HGG's swapped frame, (x, z, -y) of the raw
    world."""
    if not path.is_file():
        return None
    check_file(path, MAX_FIT_BYTES, "a point cloud")
    try:
        vertex = PlyData.read(path)["vertex"]
        x, z, minus_y = (np.asarray(vertex[axis], dtype=np.float64) for axis in ("x", "y", "z"))
    except Exception as error:  # a broken file can fail in any way
        raise InputError(f"{path}: cannot be read as a point cloud ({error}); write it again") from error
    vertices = torch.from_numpy(np.stack([x, -minus_y, z], -1))
    if not vertices.isfinite().all():
        raise InputError(f"{path}: holds NaN or infinity; write it again")
    return vertices


def _check_vertices(path: Path, params: BodyParams, vertices: Float[Tensor, "V 3"], body: BodyModel) -> None:
    """Refuse a fit that was made with another body than this one."""
    remedy = "name the body that it was fitted with by --body, or fit this one"
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
