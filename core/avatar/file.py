"""Avatar files in safetensors format.

Beside the fields of an avatar, a file may hold `views_seen`: for each vertex of the body, the number of input images
that show it. The rest of the avatar is the network's guess.
"""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from core.avatar.avatar import TENSOR_FIELDS, Avatar
from smpl_renderer.body_files import find_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.tensor_files import open_tensors, save_tensors

FORMAT = "hgg-avatar"
VERSION = "1"
VIEWS_SEEN = "views_seen"
MAX_AVATAR_BYTES = 2**31
"""Largest file of an avatar, or of a batch; one of a large body has 10 MB."""
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


def save_avatar(path: Path, avatar: Avatar, views_seen: UInt8[Tensor, " V"] | None = None) -> None:
    """Write an avatar, or a batch of avatars, as safetensors.

    Args:
        views_seen: Number of input images that show each vertex of its body, if known.
    """
    tensors = {name: getattr(avatar, name).detach().cpu().contiguous() for name in TENSOR_FIELDS}
    if views_seen is not None:
        tensors[VIEWS_SEEN] = views_seen
    metadata = {"format": FORMAT, "version": VERSION, "body": avatar.body}
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors, metadata)


def load_avatar(path: Path, device: torch.device | str = "cpu") -> Avatar:
    """Read a file written by `save_avatar`.

    Raises:
        InputError: If the file is missing, or is no avatar of this format version.
    """
    metadata, tensors = _read(Path(path), device)
    tensors.pop(VIEWS_SEEN, None)
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
        check_tensors(tensors)
    except ValueError as error:
        raise InputError(f"{path}: holds no avatar ({error}); write it again with infer.py") from error
    return Avatar(**tensors, body=metadata["body"])


def find_avatar_body(avatar: Avatar, path: Path | None = None) -> BodyModel:
    """The body model of a loaded avatar.

    Args:
        path: Its file; by default it is found by its fingerprint.
    Raises:
        InputError: If it is not found, or another than the indices and the shape of the avatar refer to.
    """
    body = find_body(avatar.body, path)
    largest, values = int(avatar.vertex_ids.max()), avatar.betas.shape[-1]
    if largest >= body.num_vertices or values > body.num_betas:
        raise InputError(
            f"the avatar has Gaussians at vertex {largest} and a shape of {values} values, its body {body.name} has "
            f"{body.num_vertices} vertices and {body.num_betas} values; write the avatar again with infer.py"
        )
    return body


def load_views_seen(path: Path, num_vertices: int) -> UInt8[Tensor, " V"] | None:
    """Number of input images that show each vertex of an avatar's body; None if the file does not hold it.

    Args:
        path: A file written by `save_avatar`, or another safetensors file.
        num_vertices: Number of vertices of the avatar's body (V).
    Raises:
        InputError: If the file cannot be read, or belongs to another body.
    """
    seen = _read(Path(path), "cpu", (VIEWS_SEEN,))[1].get(VIEWS_SEEN)
    if seen is not None and (seen.dtype != torch.uint8 or seen.shape != (num_vertices,)):
        raise InputError(
            f"{path}: `{VIEWS_SEEN}` must be {num_vertices} bytes, got {list(seen.shape)} of {seen.dtype}; "
            "write it again with infer.py"
        )
    return seen


def _read(
    path: Path, device: torch.device | str, names: tuple[str, ...] | None = None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file, of the latter only those of some names if these are given."""
    if not path.is_file():
        raise InputError(f"{path}: no such avatar file; infer.py writes one for each subject")
    with open_tensors(path, MAX_AVATAR_BYTES, "an avatar", "give a file written by infer.py") as file:
        wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118 (not a dict)
        return file.metadata() or {}, {name: file.get_tensor(name).to(device) for name in wanted}


def check_tensors(tensors: dict[str, Tensor]) -> None:
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
