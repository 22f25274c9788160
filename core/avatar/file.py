"""Avatar files in safetensors format."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.avatar.avatar import TENSOR_FIELDS, Avatar
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

FORMAT = "hgg-avatar"
VERSION = "1"


def save_avatar(path: Path, avatar: Avatar) -> None:
    """Write an avatar, or a batch of avatars, as safetensors."""
    tensors = {name: getattr(avatar, name).detach().cpu().contiguous() for name in TENSOR_FIELDS}
    metadata = {"format": FORMAT, "version": VERSION, "body": avatar.body}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


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
    return Avatar(**tensors, body=metadata["body"])
