"""MVHumanNet's camera files: `camera_intrinsics.json`, `camera_extrinsics.json` and `camera_scale.pkl`.

In the files pixel centres lie on integers and translations are unscaled millimetres. Both end here. One K stands for
all cameras, unless their records describe lenses of their own. The size of the images that K is for stands in no file:
it is a whole multiple of that of the image files (`calibrated_size`).
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.images import SUFFIX
from core.data.input_files import check_name, read_json
from core.data.lens import Lens
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import read_float_pickle

INTRINSICS, EXTRINSICS, SCALE = "camera_intrinsics.json", "camera_extrinsics.json", "camera_scale.pkl"
MISSING = (
    "captures in MVHumanNet's layout have it beside their images; unpack it, or describe the cameras in capture.json"
)
RIG_SCALES = {(4096, 3000): "120/65", (2448, 2048): "100/65"}
"""Calibrated width and height of MVHumanNet's two rigs, and the value that `camera_scale.pkl` has there."""
SAME_LENS = 2e-3
"""Largest difference of a camera's record and the shared K, relative to the focal length, that counts as rounding."""
MAX_SKEWED_ZOOM = 0.02
"""Largest difference between the factors of fx and fy by which a record's lens differs from the shared K."""
MAX_FACTOR = 64
"""Largest factor between the calibrated size and that of the image files."""


@dataclass(frozen=True)
class FileCamera:
    """One camera as the files describe it, in the raw world, in metres; float64."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[np.ndarray, "3 3"]
    """Intrinsics in pixels of the calibrated size, pixel centres on integers."""
    size: tuple[int, int] | None
    """Calibrated width and height, if the record states them."""
    lens: Lens | None


def read_camera_files(folder: Path, existing: Collection[str]) -> dict[str, FileCamera]:
    """Read the three camera files of a subject folder.

    A world point X is at `R X + scale * t / 1000` in a camera, with R, t of the extrinsics.

    Args:
        folder: The subject's folder.
        existing: Names of the cameras that have images; the keys of the records are matched with them.
    Returns:
        Cameras by name.
    Raises:
        InputError: If a file is missing, cannot be read, or its records contradict each other.
    """
    intrinsics = read_json(folder / INTRINSICS, MISSING)
    records = read_json(folder / EXTRINSICS, MISSING)
    shared = _array(intrinsics, "intrinsics", 9, folder / INTRINSICS).reshape(3, 3)
    if shared[0, 0] <= 0 or shared[1, 1] <= 0 or not np.array_equal(shared[2], [0, 0, 1]):
        raise InputError(
            f"{folder / INTRINSICS}: `intrinsics` is no camera matrix; expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
        )
    if not isinstance(records, dict) or not records:
        raise InputError(f"{folder / EXTRINSICS}: expected an object with one record per camera")
    by_name = _by_name(records, existing, folder / EXTRINSICS)
    Ks = _camera_matrices(shared, by_name, folder)
    scale = _read_scale(folder / SCALE, shared)
    return {
        name: FileCamera(
            viewmat=_viewmat(record, scale, folder / EXTRINSICS, name),
            K=Ks[name],
            size=_stated_size(record, Ks[name], folder / EXTRINSICS, name),
            lens=_lens(record, folder / EXTRINSICS) or _lens(intrinsics, folder / INTRINSICS),
        )
        for name, record in by_name.items()
    }


def calibrated_size(
    K: Float[np.ndarray, "3 3"],
    file_size: tuple[int, int],
    path: Path,
    is_packed: bool = False,
    factor: int | None = None,
) -> tuple[int, int]:
    """Width and height of the image that K is for: those of a file, times a whole number.

    Among whole numbers the principal point decides, which lies near the middle of the image: with 1 or 2 in place of
    the other it would lie at the border. The two rigs of MVHumanNet are known, also where files are reduced by another
    factor.

    Args:
        K: Pixel centres on integers.
        file_size: Width and height of an image file.
        path: The file, for messages.
        is_packed: The file was reduced by any factor (packed copies of older versions).
        factor: The whole number, if it is known.
    Raises:
        InputError: If the principal point is outside of the image for all whole numbers.
    """
    width, height = file_size
    centre = K[:2, 2] + 0.5
    rounded = tuple(np.rint(2 * centre).astype(int).tolist())
    if factor is not None:
        return factor * width, factor * height
    is_centred = np.abs(2 * centre - rounded).max() < 1e-3
    if is_centred and (is_packed or rounded in RIG_SCALES) and _are_reduced(file_size, rounded):
        return rounded
    offsets = {f: float(np.abs(centre / (f * np.array(file_size)) - 0.5).max()) for f in range(1, MAX_FACTOR + 1)}
    centred = min(offsets, key=offsets.__getitem__)
    if offsets[centred] > 0.004:  # off the middle: only the usual factors
        centred = min((2**i for i in range(int(math.log2(MAX_FACTOR)) + 1)), key=offsets.__getitem__)
    if offsets[centred] >= 0.5:
        raise InputError(
            f"{path}: {width} x {height} pixels, and the principal point ({K[0, 2]:g}, {K[1, 2]:g}) of {INTRINSICS} is "
            "outside of the image of any whole multiple of that size; correct it, or state the calibrated size as "
            "third and fourth number of `image_center`"
        )
    size = centred * width, centred * height
    # An odd length is rounded when it is halved.
    return rounded if is_centred and all(abs(a - b) <= centred / 2 for a, b in zip(rounded, size)) else size


def key_names(key: str) -> list[str]:
    """Camera names that a key of `camera_extrinsics.json` may stand for, the longest first.

    MVHumanNet's keys are `1_<name>.png`, `0_0_<name>.png` or `0_1_<name>.png`; others are names, with a suffix or not.
    """
    parts = _without_suffix(key).split("_")
    return list(dict.fromkeys([key, *("_".join(parts[i:]) for i in range(len(parts)))]))


def _by_name(records: Mapping[str, Any], existing: Collection[str], path: Path) -> dict[str, dict]:
    """Camera records under the names of the folders that exist.

    Of MVHumanNet's two records of a camera (`0_0_` and `0_1_`) the first in order is taken.
    """
    folded = {name.casefold(): name for name in existing}
    named: dict[str, tuple[str, Any]] = {}
    for key in sorted(records):
        where = f"{path}: key"
        name = check_name(_matched(check_name(key, where), existing, folded), where)
        first, record = named.setdefault(name, (key, records[key]))
        are_prefixed = all(re.match(rf"\d+_(\d+_)?{re.escape(name)}", other) for other in (first, key))
        if record != records[key] and not are_prefixed:
            raise InputError(
                f"{path}: the keys {first} and {key} are both records of the camera {name}; keep one, or name the keys "
                "after the folders"
            )
    return {name: record for name, (_, record) in named.items()}


def _matched(key: str, existing: Collection[str], folded: Mapping[str, str]) -> str:
    """Name of the camera that a key stands for: that of a folder, in the same or in other case, if there is one."""
    names = key_names(key)
    for name in names:
        if name in existing:
            return name
    for name in names:
        if name.casefold() in folded:
            return folded[name.casefold()]
    return re.sub(r"^\d_(\d_)?(?=.)", "", _without_suffix(key))  # a camera without images


def _without_suffix(key: str) -> str:
    return re.sub(rf"(?<=.){SUFFIX}$", "", key, flags=re.IGNORECASE)


def _camera_matrices(shared: np.ndarray, records: Mapping[str, dict], folder: Path) -> dict[str, np.ndarray]:
    """K of each camera: that of its record, or the shared one if the record repeats it.

    A record contradicts the shared K if it is no zoom and shift of it, or if all cameras differ from it alike, since
    then one of the two is stale. The `intrinsics` of a record replace the shared K.

    Raises:
        InputError: If a record contradicts the shared K.
    """
    own = {name: _record_matrix(record, shared, folder / EXTRINSICS, name) for name, record in records.items()}
    replaced = {name for name, record in records.items() if isinstance(record, dict) and "intrinsics" in record}
    other = [name for name, K in own.items() if name not in replaced and not _is_same_lens(K, shared)]
    for name in other:
        zoom = own[name][[0, 1], [0, 1]] / shared[[0, 1], [0, 1]]
        if abs(zoom[0] / zoom[1] - 1) > MAX_SKEWED_ZOOM or not 0.1 < zoom.min() < 10:
            raise _contradiction(folder, name, own[name], shared)
    if other and len(other) == len(own) and all(_is_same_lens(K, own[other[0]]) for K in own.values()):
        raise _contradiction(folder, other[0], own[other[0]], shared)
    return {name: K if name in replaced or _is_own_lens(K, shared) else shared for name, K in own.items()}


def _is_own_lens(K: np.ndarray, shared: np.ndarray) -> bool:
    """True if a record's K differs from the shared one by more than its rounding, and not only by the image size."""
    is_scaled = _is_same_lens(K, shared) and abs(K[0, 0] / shared[0, 0] - 1) > SAME_LENS
    return not is_scaled and bool(np.abs(K - shared).max() > 1e-6 * shared[0, 0])


def _record_matrix(record: Any, shared: np.ndarray, path: Path, name: str) -> np.ndarray:
    """K of a camera's record: its `intrinsics`, or the shared K with its `focal_length` and `image_center`."""
    K = shared.copy()
    if not isinstance(record, dict):
        return K  # refused by `_viewmat`
    where = f"camera {name}"
    if "intrinsics" in record:
        K = _array(record, "intrinsics", 9, path, where).reshape(3, 3)
    if record.get("focal_length") is not None:
        focal = _array(record, "focal_length", 2, path, where)
        if focal.min() <= 0:
            raise InputError(f"{path}: `focal_length` of {where} must be positive, got {focal.tolist()}")
        _agree(K[[0, 1], [0, 1]], focal, record, "focal_length", path, where)
        K[[0, 1], [0, 1]] = focal
    if record.get("image_center") is not None:
        count = len(record["image_center"]) if isinstance(record["image_center"], list) else 2
        centre = _array(record, "image_center", 4 if count == 4 else 2, path, where)[:2]
        _agree(K[:2, 2], centre, record, "image_center", path, where)
        K[:2, 2] = centre
    return K


def _agree(own: np.ndarray, other: np.ndarray, record: dict, key: str, path: Path, where: str) -> None:
    """Refuse a record whose `intrinsics` differ from its other numbers."""
    if "intrinsics" in record and np.abs(own - other).max() > SAME_LENS * record["intrinsics"][0][0]:
        raise InputError(
            f"{path}: {where} contradicts itself: `{key}` is {other.tolist()}, but its `intrinsics` have "
            f"{own.tolist()}; correct one of them"
        )


def _is_same_lens(K: np.ndarray, other: np.ndarray) -> bool:
    """True for the same lens, also if one K is for an image several times as large as the other."""
    ratio = K[0, 0] / other[0, 0]
    whole = max(1, round(max(ratio, 1 / ratio)))
    factor = whole if ratio >= 1 else 1 / whole
    scaled = other.copy()
    scaled[:2, 2] += 0.5
    scaled[:2] *= factor
    scaled[:2, 2] -= 0.5
    # With centres on integers, reduced calibrations are often written without the half pixel.
    tolerance = SAME_LENS * K[0, 0] + (0 if whole == 1 else 0.5 * max(1, factor))
    return bool(np.abs(K - scaled).max() <= tolerance)


def _contradiction(folder: Path, name: str, own: np.ndarray, shared: np.ndarray) -> InputError:
    def described(K: np.ndarray) -> str:
        return f"focal lengths ({K[0, 0]:g}, {K[1, 1]:g}) and centre ({K[0, 2]:g}, {K[1, 2]:g})"

    return InputError(
        f"{folder / EXTRINSICS}: camera {name} has {described(own)} (`focal_length`, `image_center`), but "
        f"{INTRINSICS} has {described(shared)}; correct one of the two"
    )


def _stated_size(record: dict, K: np.ndarray, path: Path, name: str) -> tuple[int, int] | None:
    """Third and fourth number of `image_center`, if it has four."""
    centre = record.get("image_center")
    if not isinstance(centre, list) or len(centre) != 4:
        return None
    size = _array(record, "image_center", 4, path, f"camera {name}")[2:]
    if size.min() < 1 or np.abs(size - np.rint(size)).max() > 1e-6:
        raise InputError(
            f"{path}: `image_center` of camera {name} must end in width and height, got {size.tolist()}; correct it"
        )
    if (K[:2, 2] < -0.5).any() or (K[:2, 2] > size).any():
        raise InputError(
            f"{path}: `image_center` of camera {name} states {size[0]:g} x {size[1]:g} pixels, but the principal point "
            f"is ({K[0, 2]:g}, {K[1, 2]:g}), outside of them; correct one of the two"
        )
    return round(size[0]), round(size[1])


def _lens(record: Any, path: Path) -> Lens | None:
    """Distortion of a record (`dist`, and `dist_model` for other than OpenCV's polynomial); None if it is zero."""
    values = record.get("dist") if isinstance(record, dict) else None
    try:
        coefficients = np.asarray([] if values is None else values, np.float64).reshape(-1)
        if not coefficients.any():
            return None
        return Lens(record.get("dist_model", "opencv"), tuple(coefficients.tolist()))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: `dist` is no lens distortion ({error}); write OpenCV's coefficients") from error


def _read_scale(path: Path, K: np.ndarray) -> float:
    """Factor from the files' unit to metres (and 1000). All camera positions depend on it, so it has no default."""
    known = RIG_SCALES.get(tuple(np.rint(2 * K[:2, 2] + 1).astype(int).tolist()))
    remedy = (
        f"this rig's value is {known}, write that"
        if known
        else "120/65 and 100/65 are the values of MVHumanNet's rigs, "
        "and 1 is that of translations in millimetres; write it"
    )
    try:
        scale = read_float_pickle(path)
    except (InputError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ") if path.exists() else "no such file"
        raise InputError(f"{path}: {reason}; it scales all cameras: {remedy} as a pickled float") from error
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"{path}: holds {scale}, which is no scale; {remedy} as a pickled float")
    return scale


def _viewmat(record: Any, scale: float, path: Path, name: str) -> Float[Tensor, "4 4"]:
    where = f"camera {name}"
    R = _array(record, "rotation", 9, path, where).reshape(3, 3)
    t = _array(record, "translation", 3, path, where)
    # MVHumanNet's own are orthonormal to 1.3e-6.
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0:
        raise InputError(f"{path}: `rotation` of {where} is no rotation matrix; correct it")
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = R, scale * t / 1000
    return torch.from_numpy(viewmat)


def _are_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """True if `size` is `full` reduced by one factor and rounded."""
    if min(full) < 1:
        return False
    return abs(size[0] - full[0] * size[1] / full[1]) <= 1 or abs(size[1] - full[1] * size[0] / full[0]) <= 1


def _array(record: Any, key: str, size: int, path: Path, where: str = "the file") -> np.ndarray:
    """`size` finite numbers of a record, flat, in float64."""
    if not isinstance(record, dict) or key not in record:
        raise InputError(f"{path}: {where} has no `{key}`; expected {size} numbers")
    try:
        values = np.asarray(record[key], dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.size != size or not np.isfinite(values).all():
        raise InputError(f"{path}: `{key}` of {where} must be {size} finite numbers; correct it")
    return values
