"""Files of tensors in the safetensors format, whose bytes follow from their content.

The writer of the `safetensors` package orders metadata by a hash that changes with each process, and writes through
temporary files of its own. Source: the format's description in the README of huggingface/safetensors.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smpl_renderer.bounded_files import CONTENT_ERRORS, check_file
from smpl_renderer.errors import InputError

MAX_HEADER_BYTES = 2**23
"""Longest description of the tensors of a file, with its metadata; a network of 600 tensors has 0.1 MB."""
_ALIGNMENT = 8
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@contextmanager
def open_tensors(
    path: Path, limit: int, kind: str, remedy: str = "copy it again", framework: str = "pt"
) -> Iterator[Any]:
    """Open a file of tensors for reading; the value is that of `safetensors.safe_open`, on the CPU.

    Args:
        path: The file.
        limit: Largest size in bytes.
        kind: What it is read as, for messages: `a checkpoint`.
        remedy: What to do if it cannot be read.
        framework: `pt` or `np`.
    Raises:
        InputError: If it is missing, too large, or damaged, also while tensors are read in the `with` block.
    """
    check_file(path, limit, kind)
    try:
        with Path(path).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes, at most {MAX_HEADER_BYTES} are read")
        with safe_open(path, framework) as file:
            yield file
    except InputError:
        raise
    except (OSError, SafetensorError, *CONTENT_ERRORS) as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error}); {remedy}") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor | np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata; equal content gives equal bytes, whatever its order.

    Args:
        path: The file, which is written directly: pass a path of `atomic_path`.
        tensors: Dense tensors by name, on any device.
    Raises:
        KeyError: For a dtype that is none of the format's.
    """
    dense = {name: torch.as_tensor(tensor).detach() for name, tensor in tensors.items()}
    # Large elements first, as the package has it: every tensor is then aligned to its elements.
    names = sorted(dense, key=lambda name: (-dense[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for name in names:
        tensor = dense[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            flat = dense[name].cpu().contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)
