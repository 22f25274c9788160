"""Files of arrays, read without running code and within bounds: `.npz`, `.npy`, `.pkl`, `.pt` and `.json`."""

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smpl_renderer.bounded_files import EXPANSION, check_file, check_tensor, load_json, load_torch
from smpl_renderer.errors import InputError
from smpl_renderer.pickled_trees import read_tree

MAX_ARRAY_BYTES = 2 * 2**30
MAX_NPZ_BYTES = 4 * 2**30
MAX_JSON_BYTES = 512 * 2**20
MAX_TORCH_BYTES = 4 * 2**30
ALWAYS_READ = 2**27
"""Bytes that an array may have whatever the size of its file: joints that rest are compressed a thousandfold."""


def read_npz(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of these names that a `.npz` holds; others, and arrays of objects, are not read.

    Raises:
        InputError: If the file cannot be read, or an array is larger than 2 GB, or than its file explains.
    """
    check_file(path, MAX_NPZ_BYTES, "a motion file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            largest = min(MAX_ARRAY_BYTES, EXPANSION * path.stat().st_size + ALWAYS_READ)
            found = {name: _read_member(archive, members[name], largest) for name in names if name in members}
    except Exception as error:  # zipfile, zlib and numpy raise many types for a broken archive
        raise InputError(f"{path}: cannot be read as .npz ({error}); get a new copy or write it again") from error
    return {name: value for name, value in found.items() if value is not None}


def npz_names(path: Path) -> list[str]:
    """Names of the arrays in a `.npz`, for messages."""
    with zipfile.ZipFile(path) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def _read_member(archive: zipfile.ZipFile, name: str, largest: int) -> np.ndarray | None:
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
        if not 0 <= size <= largest:
            raise ValueError(f"{name} {shape} has {size / 2**30:.2f} GB, at most {largest / 2**30:.2f} are read")
        data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"{name} ends after {len(data)} of {size} bytes")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if is_fortran else "C")  # writable


def read_json(path: Path) -> Any:
    """Content of a JSON file of at most 512 MB.

    Raises:
        InputError: If it is missing, too large or no JSON.
    """
    return load_json(path, MAX_JSON_BYTES)


def read_torch(path: Path) -> Any:
    """Content of a `.pt` or `.pth` file, with tensors as arrays. Only tensors and plain containers are read.

    Raises:
        InputError: If it cannot be read so.
    """
    try:
        largest = (EXPANSION * check_file(path, MAX_TORCH_BYTES, "a motion file") + ALWAYS_READ) // 8
        return _arrays(load_torch(path, MAX_TORCH_BYTES, "a motion file"), largest)
    except InputError:
        raise
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


def _arrays(value: Any, largest: int, known: dict[int, Any] | None = None) -> Any:
    """Tensors of at most `largest` elements as arrays.

    A container that occurs in several places is converted once: a small file can nest references to one list so deep
    that copies of it would fill any memory.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        result = known[id(value)] = {key: _arrays(item, largest, known) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = known[id(value)] = [_arrays(item, largest, known) for item in value]
    elif isinstance(value, torch.Tensor):
        check_tensor(value, largest)
        result = (value.detach().double() if value.is_floating_point() else value.detach()).numpy()
    else:
        result = value
    return result
