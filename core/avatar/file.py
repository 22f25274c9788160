"""Avatar files in safetensors format."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.avatar.avatar import TENSOR_FIELDS, Avatar
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.tensor_files import save_tensors

FORMAT = "hgg-avatar"
VERSION = "1"
MAX_VERTICES = 2**24
RANGES = {
    "offsets": (-10, 10),
    "quats": (-10, 10),
    "scales": (0, 10),
    "opacities": (-0.001, 1.001),
    "colors": (-10, 10),
    "betas": (-100, 100),
}
"""Smallest and largest values that a file may hold: metres, and values near [0, 1]. Infinity and NaN are none."""


def save_avatar(path: Path, avatar: Avatar) -> None:
    """Write an avatar, or a batch of avatars, as safetensors."""
    tensors = {name: getattr(avatar, name).detach().cpu().contiguous() for name in TENSOR_FIELDS}
    metadata = {"format": FORMAT, "version": VERSION, "body": avatar.body}
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors, metadata)


def load_avatar(path: Path, device: torch.device | str = "cpu") -> Avatar:
    """Read a file written by `save_avatar`.

    Raises:
        InputError: If the file is missing, or is no avatar of this format version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such avatar file; infer.py writes one for each subject")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error}); give a file written by infer.py") from error
    if metadata.get("format") != FORMAT or set(tensors) != set(TENSOR_FIELDS):
        raise InputError(f"{path}: holds no avatar; give a file written by infer.py")
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path}: has avatar format {metadata.get('version')}, expected {VERSION}; "
            "write it with infer.py of this version"
        )
    if not metadata.get("body"):
        raise InputError(f"{path}: its metadata names no body; write it with infer.py of this version")
    try:
        _check(tensors)
    except ValueError as error:
        raise InputError(f"{path}: holds no avatar ({error}); write it again with infer.py") from error
    return Avatar(**tensors, body=metadata["body"])


def _check(tensors: dict[str, Tensor]) -> None:
    """Check types, shapes and ranges.

    Raises:
        ValueError: If they are not those of an avatar.
    """
    shape = tensors["opacities"].shape
    widths = {"offsets": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,), "vertex_ids": ()}
    if not shape or 0 in shape:
        raise ValueError("it has no Gaussians")
    for name, tensor in tensors.items():
        expected = (*shape, *widths[name]) if name in widths else (*shape[:-1], *tensor.shape[-1:])
        if tensor.shape != expected:
            raise ValueError(f"`{name}` has the shape {list(tensor.shape)}, expected {list(expected)}")
        if name == "vertex_ids":
            if tensor.dtype != torch.int64 or int(tensor.min()) < 0 or int(tensor.max()) >= MAX_VERTICES:
                raise ValueError("`vertex_ids` are no indices of vertices")
            continue
        low, high = RANGES[name]
        # Comparisons with NaN are false.
        if not tensor.is_floating_point() or not bool(((tensor >= low) & (tensor <= high)).all()):
            raise ValueError(f"`{name}` is not within {low:g} and {high:g}")
    if float(tensors["quats"].float().norm(dim=-1).min()) < 1e-3:
        raise ValueError("`quats` holds zeros")
