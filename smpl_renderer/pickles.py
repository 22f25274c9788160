"""Reading of pickles of foreign origin, without running code that they name.

A pickle is a program that can call everything that can be imported. Here it can only call the substitutes in this file:
each name is looked up in a short list, and a name that is not in the list is refused. The substitutes collect the
description of an array and build it with plain numpy, so that numpy's own unpickling code is not used either.
"""

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from smpl_renderer.bounded_files import (
    EXPANSION,
    MAX_BODY_BYTES,
    MAX_FIT_BYTES,
    SMALL,
    check_file,
    check_tensor,
    load_torch,
)
from smpl_renderer.errors import InputError

MAX_OPCODES = 2**20
"""Instructions of a pickle; SMPL's have some hundreds, a fit of nested lists some 60,000."""
MAX_WIDE_KEYS = 1000
"""Whole numbers beyond 60 bits, and tuples beyond `MAX_TUPLES`, of which many can have the same hash: dictionaries of
such keys take minutes. Tuples describe arrays, some per array."""
MAX_TUPLES = 10_000
MAX_NODES = 2**20
"""Elements of nested lists and dictionaries. References to the same list count as often as they occur."""
MAX_ELEMENTS = 2**22
"""Elements of an array of a fit."""


def read_smpl_pickle(path: Path) -> dict[str, np.ndarray]:
    """Read SMPL's `.pkl`: written by Python 2 or 3, with or without chumpy objects and sparse matrices.

    Returns:
        Arrays of the file by name, sparse ones converted to dense; other entries are left out.
    Raises:
        InputError: If the file cannot be read, or needs a name that is not in the list.
    """
    content = _load(path, {**NUMPY_NAMES, **_SPARSE, **_CHUMPY}, MAX_BODY_BYTES, "a body model")
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected SMPL's dictionary of arrays")
    values = {key: _resolve(value, path) for key, value in content.items()}
    return {key: value for key, value in values.items() if isinstance(value, np.ndarray)}


def read_fit_pickle(path: Path) -> Any:
    """Read a fit of a body: MVHumanNet's `smpl_param/<IIIIII>.pkl`, other pickles, or a file of `torch.save`.

    Returns:
        Dictionaries and lists of tensors (on the CPU), arrays, numbers, strings and Nones.
    Raises:
        InputError: If the file cannot be read, or needs a name that is not in the list.
    """
    check_file(path, MAX_FIT_BYTES, "a fit")
    try:
        with Path(path).open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    content = None if is_zip else _load(path, {**NUMPY_NAMES, **TORCH_NAMES})
    if is_zip or (isinstance(content, int) and content == _TORCH_MAGIC):
        content = _load_torch_file(path)
    return _resolve_tree(content, path, [MAX_NODES])


def read_float_pickle(path: Path) -> float:
    """Read a single number, as in MVHumanNet's `camera_scale.pkl`; an array or tensor of one number counts as such.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """
    content = _resolve(_load(path, {**NUMPY_NAMES, **TORCH_NAMES}), path)
    is_number = isinstance(content, int | float | np.ndarray | Tensor) and not isinstance(content, bool)
    values = np.asarray(content.detach().double() if isinstance(content, Tensor) else content) if is_number else None
    if values is None or values.size != 1 or values.dtype.kind not in "iuf":
        raise InputError(f"{path}: holds a {type(content).__name__}, expected one number")
    return float(values.item())


def read_array_tree(path: Path) -> dict[str, Any]:
    """Read nested dictionaries of numpy arrays, in which Flax stores the weights of a network.

    Raises:
        InputError: If the file cannot be read or holds something else.
    """

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        return _resolve(value, path)

    return resolve(_load(path, NUMPY_NAMES, MAX_BODY_BYTES))


def _load_torch_file(path: Path) -> Any:
    """Content of a file of `torch.save`, through torch's own restricted reader."""
    try:
        return load_torch(path, kind="a fit")
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            _raise_unreadable(path, error)
        raise InputError(f"{path}: refused, it needs {refused[1]}; save plain tensors and numbers") from error
    except Exception as error:  # a broken file can fail in any way
        _raise_unreadable(path, error)


def _resolve_tree(value: Any, path: Path, left: list[int], depth: int = 4) -> Any:
    """Arrays that substitutes in nested dictionaries and lists describe; objects of other types are left out."""
    if isinstance(value, dict | list | tuple) and depth:
        left[0] -= len(value)
        if left[0] < 0:
            raise InputError(f"{path}: holds more than {MAX_NODES} numbers in lists; write arrays")
        if isinstance(value, dict):
            return {key: _resolve_tree(item, path, left, depth - 1) for key, item in value.items()}
        return [_resolve_tree(item, path, left, depth - 1) for item in value]
    resolved = _resolve(value, path)
    if isinstance(resolved, Tensor):
        try:
            check_tensor(resolved, MAX_ELEMENTS)
        except ValueError as error:
            raise InputError(f"{path}: holds {error}; write plain, small tensors") from error
    return resolved if isinstance(resolved, Tensor | np.ndarray | int | float | str | None) else None


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves names only to the substitutes in `allowed`, keyed by module and name."""

    def __init__(self, stream: io.BufferedIOBase, allowed: Mapping[tuple[str, str], Any]):
        super().__init__(stream, encoding="latin1")  # strings of Python 2 are bytes, which latin1 preserves
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise RefusedObject(f"{module}.{name}")
        return self._allowed[module, name]


class RefusedObject(Exception):
    """A pickle needs a name that is not in the list."""


def _load(
    path: Path, allowed: Mapping[tuple[str, str], Any], limit: int = MAX_FIT_BYTES, kind: str = "a pickle"
) -> Any:
    size = check_file(path, limit, kind)
    budget = _BUDGET.set([EXPANSION * size + SMALL])
    try:
        with Path(path).open("rb") as stream:
            _check_instructions(stream)
            stream.seek(0)
            return _RestrictedUnpickler(stream, allowed).load()
    except RefusedObject as refused:
        raise InputError(
            f"{path}: refused, it calls {refused}; get the file from its publisher, or write plain arrays"
        ) from refused
    except Exception as error:  # a broken pickle can fail in any way
        _raise_unreadable(path, error)
    finally:
        _BUDGET.reset(budget)


def _check_instructions(stream: io.BufferedIOBase) -> None:
    """Count what a pickle consists of, without running it.

    Raises:
        ValueError: If it has more instructions, or keys that may collide, than any sound one.
    """
    wide = tuples = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        wide += isinstance(argument, int) and abs(argument) >= 2**60
        tuples += instruction.name.startswith("TUPLE") or instruction.name == "FROZENSET"
        if count > MAX_OPCODES or wide > MAX_WIDE_KEYS or tuples > MAX_TUPLES:
            raise ValueError("it has too many instructions")


_BUDGET: ContextVar[list[int]] = ContextVar("budget")
"""Bytes that the arrays of the pickle that is being read may still take."""


def _spend(count: int) -> None:
    """Take bytes from the budget before they are allocated.

    Raises:
        ValueError: If none are left.
    """
    budget = _BUDGET.get(None)
    if budget is None:  # other readers have bounds of their own
        return
    budget[0] -= count
    if count < 0 or budget[0] < 0:
        raise ValueError("its arrays are far larger than the file")


def _resolve(value: Any, path: Path) -> Any:
    """Build the array that a substitute describes; return other values unchanged."""
    try:
        return _array_of(value) if isinstance(value, (ArrayRecord, _Sparse, _Chumpy, _Selection)) else value
    except Exception as error:  # the description of an array may be inconsistent
        _raise_unreadable(path, error)


def _raise_unreadable(path: Path, error: Exception) -> NoReturn:
    reason = f"{type(error).__name__}: {error}"
    raise InputError(
        f"{path}: cannot be read as a pickle, it may be truncated ({reason}); copy or write it again"
    ) from error


class DTypeRecord:
    """Substitute for `numpy.dtype`, for numeric types only."""

    def __init__(self, code: str, *_: object):
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biuf":
            raise ValueError(f"arrays of type {code} are not numeric")

    def __setstate__(self, state: tuple) -> None:
        byte_order = state[1]
        if byte_order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byte_order)


class ArrayRecord:
    """Substitute for `numpy.ndarray`, filled by `__setstate__` like the original."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, raw = state
        self.fill(raw, dtype, shape, "F" if is_fortran else "C")

    def fill(self, raw: bytes | str, dtype: DTypeRecord, shape: tuple[int, ...], order: str) -> None:
        _spend(len(raw))
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        values = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
        self.value = values.astype(dtype.dtype.newbyteorder("="), order="C")  # a copy, in native byte order


class _Sparse:
    """Substitute for scipy's compressed sparse column matrices."""

    def __setstate__(self, state: dict) -> None:
        self.shape = state["_shape"] if "_shape" in state else state["shape"]
        self.data, self.rows, self.column_starts = state["data"], state["indices"], state["indptr"]

    @cached_property
    def value(self) -> np.ndarray:
        data, rows, starts = _array_of(self.data), _array_of(self.rows), _array_of(self.column_starts)
        height, width = self.shape
        if not 0 <= int(height) * int(width) <= MAX_ELEMENTS:
            raise ValueError(f"a sparse matrix of {height} x {width}, too large")
        dense = np.zeros(self.shape, data.dtype)
        columns = np.repeat(np.arange(dense.shape[1]), np.diff(starts))
        np.add.at(dense, (rows, columns), data)
        return dense


class _Chumpy:
    """Substitute for `chumpy.ch.Ch`, an array `x` with derivatives."""

    def __setstate__(self, state: dict) -> None:
        self.x = state["x"]

    @cached_property
    def value(self) -> np.ndarray:
        return _array_of(self.x)


class _Selection:
    """Substitute for `chumpy.reordering.Select`: selected elements of another array, reshaped."""

    def __setstate__(self, state: dict) -> None:
        self.source, self.indices, self.shape = state["a"], state["idxs"], state.get("preferred_shape")

    @cached_property
    def value(self) -> np.ndarray:
        selected = _array_of(self.source).ravel()[_array_of(self.indices)]
        return selected if self.shape is None else selected.reshape(_array_of(self.shape))


def _array_of(value: Any) -> np.ndarray:
    """The array of a substitute, which is made once, or a short list of numbers as an array."""
    if isinstance(value, ArrayRecord | _Sparse | _Chumpy | _Selection):
        return np.asarray(value.value)
    if isinstance(value, list | tuple) and (len(value) > 64 or any(isinstance(item, list | tuple) for item in value)):
        raise ValueError("a nested list stands in place of an array")
    return np.asarray(value)


def _reconstruct(cls: object, *_: object) -> ArrayRecord:
    """Substitute for numpy's function of that name, which creates an empty array to be filled later."""
    if cls is not ArrayRecord:
        raise ValueError("only plain arrays can be reconstructed")
    return ArrayRecord()


def _frombuffer(raw: bytes, dtype: DTypeRecord, shape: tuple[int, ...], order: str) -> ArrayRecord:
    """Substitute for numpy's function of that name, which pickles of protocol 5 call."""
    array = ArrayRecord()
    array.fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: DTypeRecord, raw: bytes | str) -> ArrayRecord:
    """Substitute for numpy's function of that name, which creates a scalar."""
    return _frombuffer(raw, dtype, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    """Substitute for `_codecs.encode`, which represents bytes in protocols for Python 2."""
    if encoding != "latin1":
        raise ValueError(f"bytes are pickled in latin1, not in {encoding}")
    _spend(len(text))
    return text.encode("latin1")


def _new_object(cls: type, base: object, state: object) -> Any:
    """Substitute for `copyreg._reconstructor`, which creates objects in the oldest protocols."""
    if cls not in (_Sparse, _Chumpy, _Selection) or state is not None:
        raise ValueError("only chumpy and scipy objects can be created")
    return cls()


def _ignored(*_: object) -> None:
    """Substitute for `set`, in which chumpy notes what is to be computed."""


def _load_storage(stream: bytes) -> torch.storage.TypedStorage:
    """Substitute for `torch.storage._load_from_bytes`, which would unpickle the inner stream without restriction."""
    _spend(len(stream))
    try:
        return torch.load(io.BytesIO(stream), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))  # the message also holds long advice
        if refused is None:
            raise
        raise RefusedObject(refused[1]) from error


def _rebuild_tensor(
    storage: torch.storage.TypedStorage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    """Substitute for `torch._utils._rebuild_tensor_v2`, without gradients and hooks."""
    view = torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())
    if view.numel() * view.element_size() > EXPANSION * view.untyped_storage().nbytes() + SMALL:
        raise ValueError("its tensors are far larger than their storage")
    return view.clone()


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    """Substitute for `torch._utils._rebuild_parameter`: the tensor alone."""
    return data.detach()


# Protocols 0 to 2 use module names of Python 2, and numpy and scipy have renamed modules since.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""First object of files that `torch.save` wrote before version 1.6."""
NUMPY_NAMES = {
    ("numpy", "ndarray"): ArrayRecord,
    ("numpy", "dtype"): DTypeRecord,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
_SPARSE = {(f"scipy.sparse.{module}", "csc_matrix"): _Sparse for module in ("csc", "_csc")}
_CHUMPY = {
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _Selection,
    **{(module, "_reconstructor"): _new_object for module in ("copy_reg", "copyreg")},
    **{(module, "object"): None for module in ("__builtin__", "builtins")},
    **{(module, "set"): _ignored for module in ("__builtin__", "builtins")},
    ("collections", "OrderedDict"): OrderedDict,
}
TORCH_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("collections", "OrderedDict"): OrderedDict,
}
