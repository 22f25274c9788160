"""Files of foreign origin, bounded before they are read: a file of kilobytes must not take gigabytes or minutes.

Bounds are on the size of the file, on the sizes that an archive states for its members, and on those of arrays, which
can be far larger than the bytes that describe them (zero strides, compressed and sparse arrays).
"""

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smpl_renderer.errors import InputError

MAX_JSON_BYTES = 2**25
"""Largest JSON file: some 300,000 images in a capture.json."""
MAX_JSON_CONTAINERS = 2**20
"""Lists and objects in a JSON file of up to 32 MB, in larger ones one per 32 bytes; each takes some 60 to 200 bytes."""
MAX_BODY_BYTES = 2**30
"""Largest body model; SMPL's have 40 to 350 MB."""
MAX_FIT_BYTES = 2**26
"""Largest file of one fit; MVHumanNet's have 0.3 MB."""
MAX_TEXT_BYTES = 2**22
"""Largest calibration as text; those of a hundred cameras have 0.1 MB."""
CONTENT_ERRORS = (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
"""Errors of code that takes values out of a file with other content than expected. Numbers can be too large to convert,
and lists ragged or nested; `zipfile`, `struct` and NumPy have further types."""
EXPANSION, SMALL = 8, 2**24
"""Arrays may take `EXPANSION` times the size of their file, and `SMALL` bytes more."""


def check_file(path: Path, limit: int, kind: str) -> int:
    """Size of a regular file in bytes.

    Args:
        path: The file.
        limit: Largest size.
        kind: What it is read as, for messages: `JSON`, `a fit`.
    Raises:
        InputError: If it is missing, no regular file, or larger.
    """
    try:
        status = Path(path).stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error.strerror}); check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: cannot be read as {kind} (it is no regular file); name a file")
    if status.st_size > limit:
        raise InputError(
            f"{path}: has {status.st_size / 1e6:.0f} MB, too much for {kind} (at most {limit / 1e6:.0f} MB); store "
            "less in it"
        )
    return status.st_size


def check_text(path: Path, limit: int, kind: str) -> None:
    """Refuse what `check_file` refuses, and a file with a zero byte near its start: one without content, or in UTF-16.

    Raises:
        InputError: If it is refused.
    """
    if check_file(path, limit, kind):
        try:
            with Path(path).open("rb") as stream:
                start = stream.read(4096)
        except OSError as error:
            raise InputError(f"{path}: cannot be read as {kind} ({error.strerror}); check the path") from error
        if b"\0" in start:
            raise InputError(
                f"{path}: cannot be read as {kind} (it holds zero bytes); copy it again, or save it in UTF-8"
            )


def load_text(path: Path, limit: int = MAX_TEXT_BYTES, kind: str = "text") -> str:
    """Content of a text file in UTF-8.

    Raises:
        InputError: If the file is missing, larger than `limit`, or no text.
    """
    check_text(path, limit, kind)
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # with or without a mark of the byte order
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error}); correct it or copy it again") from error


def load_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Content of a JSON file in UTF-8.

    Raises:
        InputError: If the file is missing, larger than `limit`, of too many parts, or no JSON.
    """
    text = load_text(path, limit, "JSON")
    containers, most = text.count("[") + text.count("{"), max(MAX_JSON_CONTAINERS, len(text) // 32)
    if containers > most:
        raise InputError(
            f"{path}: has {containers} lists and objects, too many for JSON (at most {most}); store less in it"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); correct it or copy it again") from error


def load_npz(path: Path, limit: int = MAX_FIT_BYTES, kind: str = "an archive of arrays") -> dict[str, np.ndarray]:
    """Numeric arrays of an `.npz` file by name.

    Raises:
        InputError: If the file is missing, no archive, or larger than `limit`, also when unpacked.
    """
    check_archive(path, limit, kind)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a broken archive can fail in any way
        raise InputError(f"{path}: cannot be read as {kind} ({error}); copy or write it again") from error
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}


def check_archive(path: Path, limit: int, kind: str) -> None:
    """Refuse a zip archive whose members are together larger than what its size explains.

    Raises:
        InputError: If it is, or if it is no archive.
    """
    size = check_file(path, limit, kind)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            headers = [
                _array_bytes(archive, member) for member in archive.infolist() if member.filename.endswith(".npy")
            ]
    except Exception as error:  # a broken archive can fail in any way
        raise InputError(f"{path}: cannot be read as {kind} ({error}); copy or write it again") from error
    allowed = EXPANSION * size + SMALL
    if max(unpacked, sum(headers)) > min(allowed, limit):
        raise InputError(
            f"{path}: would unpack to {max(unpacked, sum(headers)) / 1e6:.0f} MB, too much for {kind}; write it again, "
            "with the arrays that are needed"
        )


def _array_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of the array that the header of an `.npy` member states."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    size = dtype.itemsize
    for length in shape:  # of any length, in whole numbers
        size *= length
    return size


def load_torch(path: Path, limit: int = MAX_FIT_BYTES, kind: str = "a file of torch.save") -> Any:
    """Content of a file of `torch.save` on the CPU, read without running code.

    Raises:
        InputError: If the file is missing, too large, also when unpacked, or damaged.
        pickle.UnpicklingError: If it needs a name that torch does not allow.
    """
    check_file(path, limit, kind)
    if zipfile.is_zipfile(path):
        check_archive(path, limit, kind)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_tensor(tensor: Tensor, largest: int) -> Tensor:
    """A dense tensor of at most `largest` elements; its storage may be smaller, so that this is checked before copies.

    Raises:
        ValueError: If it is another.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"a tensor of layout {tensor.layout}; dense ones are read")
    if tensor.numel() > largest:
        raise ValueError(f"a tensor of {tensor.numel()} elements, at most {largest} are read")
    return tensor
