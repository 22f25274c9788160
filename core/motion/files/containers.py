"""Files of arrays, read without running code and within bounds: `.npz`, `.npy`, `.pkl`, `.pt` and `.json`."""

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smpl_renderer.errors import InputError
from smpl_renderer.pickled_trees import read_tree

MAX_ARRAY_BYTES = 2 * 2**30
MAX_JSON_BYTES = 512 * 2**20
MAX_TORCH_BYTES = 4 * 2**30


def read_npz(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that a `.npz` holds; others, and arrays of objects, are not read.

    Raises:
        InputError: If the file cannot be read, or an array is larger than 2 GB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            found = {name: _read_member(archive, members[name]) for name in names if name in members}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name a motion file") from error
    except Exception as error:  # zipfile, zlib and numpy raise many types for a broken archive
        raise InputError(f"{path}: cannot be read as .npz ({error}); get a new copy or write it again") from error
    return {name: value for name, value in found.items() if value is not None}


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in a `.npz`, for messages."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """An array of an archive; None for objects. The size in its header is checked before memory is taken."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"{name} has version {version} of NumPy's format")
        shape, is_fortran, dtype = read_header[version](stream)
        if dtype.hasobject:
            return None
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise ValueError(f"{name} {shape} has {size / 2**30:.0f} GB, more than {MAX_ARRAY_BYTES >> 30}")
        data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"{name} ends after {len(data)} of {size} bytes")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if is_fortran else "C")  # writable


def read_json(path: Path) -> Any:
    """Content of a JSON file of at most 512 MB.

    Raises:
        InputError: If it is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); get a new copy or write it again") from error


def read_torch(path: Path) -> Any:
    """Content of a `.pt` or `.pth` file, with tensors as arrays. Only tensors and plain containers are read.

    Raises:
        InputError: If it cannot be read so.
    """
    try:
        if path.stat().st_size > MAX_TORCH_BYTES:
            raise ValueError(f"it is larger than {MAX_TORCH_BYTES >> 30} GB")
        return _arrays(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name a motion file") from error
    except Exception as error:  # torch has many types for a broken or refused file
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path}: cannot be read without running code in it ({reason}); save its tensors with torch.save or "
            "numpy.savez instead"
        ) from error


def read_any(path: Path) -> Any:
    """Content of a `.pkl`, `.npy`, `.pt`, `.pth` or `.json` as nested dictionaries, lists and arrays."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json(path)
    return read_torch(path) if suffix in (".pt", ".pth") else read_tree(path)


def _arrays(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Tensors as arrays. A container that occurs in several places is converted once: a small file can nest references
    to one list so deep that copies of it would fill any memory."""
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        result = known[id(value)] = {key: _arrays(item, known) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = known[id(value)] = [_arrays(item, known) for item in value]
    elif isinstance(value, torch.Tensor):
        result = (value.detach().double() if value.is_floating_point() else value.detach()).numpy()
    else:
        result = value
    return result
