"""Nested dictionaries and lists of arrays from files that Python tools write, read without running any code of theirs.

Three containers are known: plain pickles, NumPy's `.npy` of one object, and joblib's files, plain or compressed by zlib
or gzip. All go through the list of names of `smpl_renderer.pickles`. Arrays in joblib's files stand outside of the
pickle and are read from the bytes that follow them.
"""

import io
import pickle
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smpl_renderer.bounded_files import EXPANSION, check_file
from smpl_renderer.errors import InputError
from smpl_renderer.pickles import NUMPY_NAMES, TORCH_NAMES, ArrayRecord, DTypeRecord, RefusedObject

MAX_BYTES = 4 * 2**30
"""Maximum size of a file, and of a compressed file's content."""
ALWAYS_READ = 2**27
"""Bytes that the content may have whatever the size of a compressed file."""
MAX_KEY = 2**60
"""Whole numbers from here on can have equal hashes; dictionaries of them are slow."""
_NPY_MAGIC = b"\x93NUMPY"


def read_tree(path: Path) -> Any:
    """Content of a file: dictionaries, lists, text, numbers and arrays; tensors become arrays.

    Raises:
        InputError: If the file cannot be read or needs a name beyond those that such files need.
    """
    check_file(path, MAX_BYTES, "a file of arrays")
    try:
        with Path(path).open("rb") as stream:
            if stream.read(1) == b"\0":  # no instruction of a pickle; a file without any content can be large
                raise ValueError("it starts with a zero byte")
        data = _decompressed(Path(path).read_bytes())
        stream = io.BytesIO(data)
        if data.startswith(_NPY_MAGIC):
            _skip_npy_header(stream)
        return _plain(_TreeUnpickler(stream).load())
    except RefusedObject as refused:
        raise InputError(f"{path}: refused, it would run {refused}; export its arrays as .npz instead") from refused
    except Exception as error:  # a broken pickle can fail in any way
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}); write it again") from error


def _decompressed(data: bytes) -> bytes:
    if data[:1] != b"\x78" and data[:2] != b"\x1f\x8b":  # zlib, gzip; pickles of protocol 2 and later start with 0x80
        return data
    decompressor = zlib.decompressobj(32 + zlib.MAX_WBITS)  # either header
    largest = min(MAX_BYTES, EXPANSION * len(data) + ALWAYS_READ)
    content = decompressor.decompress(data, largest)
    if decompressor.unconsumed_tail:
        raise ValueError(f"it holds more than {largest / 2**30:.2f} GB")
    return content


def _skip_npy_header(stream: io.BytesIO) -> None:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read(stream)
    if not dtype.hasobject:
        raise ValueError("it holds a plain array, not a dictionary")


class _AnyDType(DTypeRecord):
    """Plain numbers, or objects, whose elements go through the same list of names."""

    def __init__(self, code: str, *rest: object):
        self.is_object = str(code).startswith("O")
        if not self.is_object:
            super().__init__(code, *rest)

    def __setstate__(self, state: tuple) -> None:
        if not self.is_object:
            super().__setstate__(state)


class _AnyArray(ArrayRecord):
    """An array of numbers, or the one object in an array of objects."""

    def __setstate__(self, state: tuple) -> None:
        _version, _shape, dtype, _is_fortran, raw = state
        if isinstance(dtype, _AnyDType) and dtype.is_object:
            self.items = raw
        else:
            super().__setstate__(state)


class _JoblibArray:
    """Stands in for joblib's `NumpyArrayWrapper`: describes the array whose bytes follow in the stream."""

    def __setstate__(self, state: dict) -> None:
        self.shape, self.order = tuple(state["shape"]), state["order"]
        self.dtype = state["dtype"]
        self.alignment = state.get("numpy_array_alignment_bytes")

    def read(self, stream: io.BytesIO) -> np.ndarray:
        """The array, from where the stream is."""
        if self.dtype.is_object:
            raise ValueError("arrays of objects inside joblib files are not read")
        if self.alignment is not None:
            stream.read(stream.read(1)[0])
        dtype = self.dtype.dtype
        count = int(np.prod(self.shape, dtype=np.int64))
        raw = stream.read(count * dtype.itemsize)
        return np.frombuffer(raw, dtype, count).reshape(self.shape, order=self.order).copy()


def _reconstruct(kind: object, *_: object) -> _AnyArray:
    if kind is not _AnyArray:
        raise ValueError("only plain arrays can be reconstructed")
    return _AnyArray()


def _dictionary(*_: object) -> dict:
    """Stands in for `defaultdict` without its factory."""
    return {}


_NAMES = {
    **NUMPY_NAMES,
    **TORCH_NAMES,
    ("numpy", "ndarray"): _AnyArray,
    ("numpy", "dtype"): _AnyDType,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("collections", "defaultdict"): _dictionary,
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, "dict"): dict for module in ("builtins", "__builtin__")},
    **{(module, "list"): list for module in ("builtins", "__builtin__")},
    ("torch", "Size"): tuple,
}


class _TreeUnpickler(pickle._Unpickler):
    """Python's own unpickler in Python, whose BUILD step can read joblib's arrays from the stream."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, encoding="latin1")
        self._stream = stream

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise RefusedObject(f"{module}.{name}")
        return _NAMES[module, name]

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _JoblibArray):
            self.stack.append(self.stack.pop().read(self._stream))

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    dispatch[pickle.DICT[0]] = load_dict


def _check_keys(keys: list) -> None:
    """Refuse keys whose hashes can be made to collide."""
    for key in keys:
        if not isinstance(key, str | int | bytes) or (isinstance(key, int) and abs(key) >= MAX_KEY):
            raise ValueError(f"a dictionary has keys of type {type(key).__name__}, or large numbers as keys")


def _plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Stand-ins replaced by what they describe. A container that occurs in several places is converted once."""
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    if isinstance(value, dict):
        known[id(value)] = result = {key: _plain(item, known) for key, item in value.items()}
        return result
    if isinstance(value, list | tuple):
        known[id(value)] = result = [_plain(item, known) for item in value]
        return result
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, _AnyArray):
        items = getattr(value, "items", None)
        if items is None:
            return np.asarray(value.value)
        return _plain(items[0], known) if len(items) == 1 else [_plain(item, known) for item in items]
    return np.asarray(value.value) if isinstance(value, ArrayRecord) else value
