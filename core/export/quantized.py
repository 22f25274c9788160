"""Avatars in eight bits per number: about 14 bytes per Gaussian, a quarter of an `avatar.safetensors`.

| field | stored as |
|---|---|
| `counts` | Gaussians of each vertex; the Gaussians are sorted by vertex, so their indices need no room |
| `offsets` | signed 8 bits with logarithmic steps: 0.1 mm near zero, about 4 % of larger offsets |
| `quats` | signed 8 bits, the largest component at +-127 |
| `scales` | 8 bits, linear in the logarithm between the smallest and the largest scale |
| `opacities`, `colors` | 8 bits, linear |

Gaussians with an opacity below 1/255 are left out: the rasterizer does not draw them.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int8, UInt8, UInt16

from core.avatar.avatar import Avatar
from core.avatar.file import MAX_AVATAR_BYTES, check_tensors, load_avatar
from core.render.projection import ALPHA_MIN
from smpl_renderer.bounded_files import CONTENT_ERRORS
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.tensor_files import open_tensors, save_tensors

FORMAT = "hgg-avatar-8bit"
VERSION = "1"
REMEDY = "give a file written by scripts/export.py --to 8bit"
OFFSET_KNEE = 0.004
"""Metres below which steps of the offsets are nearly even. 2 to 8 mm give the same loss on the shipped avatars."""
MIN_SCALE = 1e-6
"""Metres; smaller scales are stored as this one."""


@dataclass(frozen=True)
class QuantizedAvatar:
    """An avatar without batch axes as 8-bit integers, its Gaussians sorted by vertex."""

    counts: UInt16[np.ndarray, " V"]
    offsets: Int8[np.ndarray, "N 3"]
    quats: Int8[np.ndarray, "N 4"]
    scales: UInt8[np.ndarray, "N 3"]
    opacities: UInt8[np.ndarray, " N"]
    colors: UInt8[np.ndarray, "N 3"]
    betas: Float[np.ndarray, " S"]
    body: str
    """Fingerprint of the body model."""
    offset_limit: float
    """Metres that 127 stands for in `offsets`."""
    log_scales: tuple[float, float]
    """Logarithms of the scales in metres that 0 and 255 stand for."""


ARRAYS = tuple(f.name for f in fields(QuantizedAvatar) if f.name not in ("body", "offset_limit", "log_scales"))


def quantize(avatar: Avatar, num_vertices: int) -> QuantizedAvatar:
    """Encode an avatar.

    Args:
        avatar: An avatar without batch axes.
        num_vertices: Number of vertices of its body.
    Raises:
        ValueError: If the avatar has batch axes.
        InputError: If no Gaussian of it is visible.
    """
    if avatar.batch_shape:
        raise ValueError(f"avatar must have no batch axes, got {tuple(avatar.batch_shape)}; index one avatar")
    avatar = avatar.detach().to("cpu")
    drawn = torch.nonzero(avatar.opacities >= ALPHA_MIN)[:, 0]
    if len(drawn) == 0:
        raise InputError("the avatar has no visible Gaussian; make it again with infer.py")
    order = drawn[avatar.vertex_ids[drawn].argsort(stable=True)]
    ids, offsets, quats, scales, opacities, colors = (
        getattr(avatar, name)[order].double().numpy()
        for name in ("vertex_ids", "offsets", "quats", "scales", "opacities", "colors")
    )
    limit = max(float(np.abs(offsets).max()), OFFSET_KNEE)
    logs = np.log(np.maximum(scales, MIN_SCALE))
    low, high = float(logs.min()), float(max(logs.max(), logs.min() + 1e-6))
    return QuantizedAvatar(
        counts=np.bincount(ids.astype(np.int64), minlength=num_vertices).astype(np.uint16),
        offsets=_compress_offsets(offsets, limit),
        quats=_round(quats / np.abs(quats).max(-1, keepdims=True) * 127, np.int8),
        scales=_round((logs - low) / (high - low) * 255, np.uint8),
        opacities=_round(opacities * 255, np.uint8),
        colors=_round(colors * 255, np.uint8),
        betas=avatar.betas.float().numpy(),
        body=avatar.body,
        offset_limit=limit,
        log_scales=(low, high),
    )


def dequantize(packed: QuantizedAvatar) -> Avatar:
    """Decode an avatar; its Gaussians are sorted by vertex."""
    low, high = packed.log_scales
    quats = packed.quats.astype(np.float64)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))

    return Avatar(
        offsets=tensor(_expand_offsets(packed.offsets, packed.offset_limit)),
        quats=tensor(quats / np.linalg.norm(quats, axis=-1, keepdims=True)),
        scales=tensor(np.exp(low + packed.scales / 255.0 * (high - low))),
        opacities=tensor(packed.opacities / 255.0),
        colors=tensor(packed.colors / 255.0),
        vertex_ids=torch.from_numpy(np.repeat(np.arange(len(packed.counts)), packed.counts)),
        betas=tensor(packed.betas),
        body=packed.body,
    )


def save_quantized(path: Path, packed: QuantizedAvatar) -> None:
    """Write an encoded avatar as safetensors, atomically."""
    metadata = {"format": FORMAT, "version": VERSION, "body": packed.body}
    metadata["limits"] = json.dumps({"offset": packed.offset_limit, "log_scales": packed.log_scales})
    with atomic_path(path) as temporary:
        save_tensors(temporary, {name: getattr(packed, name) for name in ARRAYS}, metadata)


def load_quantized(path: Path) -> QuantizedAvatar:
    """Read a file written by `save_quantized`.

    Raises:
        InputError: If the file is no such avatar, or of another version.
    """
    with open_tensors(path, MAX_AVATAR_BYTES, "an 8-bit avatar", REMEDY, "np") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if metadata.get("format") != FORMAT or set(arrays) != set(ARRAYS):
        raise InputError(f"{path}: holds no 8-bit avatar; give a file written by scripts/export.py --to 8bit")
    if metadata.get("version") != VERSION:
        raise InputError(
            f"{path}: has version {metadata.get('version')} of the 8-bit avatar, expected {VERSION}; write it again "
            "with scripts/export.py of this version"
        )
    try:
        limits = json.loads(metadata["limits"])
        low, high = limits["log_scales"]
        packed = QuantizedAvatar(
            **arrays, body=metadata["body"], offset_limit=float(limits["offset"]), log_scales=(float(low), float(high))
        )
        _check(packed)
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: holds no 8-bit avatar ({error}); {REMEDY}") from error
    return packed


def _check(packed: QuantizedAvatar) -> None:
    """Raise ValueError or another error of content for arrays and limits that are not those of an avatar."""
    count = len(packed.offsets)
    expected = {
        "counts": (len(packed.counts),),
        "betas": (len(packed.betas),),
        "opacities": (count,),
        "quats": (count, 4),
    }
    types = {"counts": np.uint16, "betas": np.float32, "offsets": np.int8, "quats": np.int8}
    for name in ARRAYS:
        array, shape, dtype = getattr(packed, name), expected.get(name, (count, 3)), types.get(name, np.uint8)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"`{name}` is {list(array.shape)} of {array.dtype}, expected {list(shape)} of {dtype.__name__}"
            )
    if not packed.body or int(packed.counts.sum(dtype=np.int64)) != count or not packed.quats.any(-1).all():
        raise ValueError("its body, its numbers of Gaussians, or rotations are missing")
    with np.errstate(all="ignore"):
        avatar = dequantize(packed)
    check_tensors({f.name: getattr(avatar, f.name) for f in fields(avatar) if f.name != "body"})


def load_any_avatar(path: Path) -> Avatar:
    """Read an avatar of full precision or of 8 bits.

    Raises:
        InputError: If the file is missing or holds neither.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such avatar file; infer.py writes one for each subject")
    with open_tensors(path, MAX_AVATAR_BYTES, "an avatar", "give a file written by infer.py", "np") as file:
        is_quantized = (file.metadata() or {}).get("format") == FORMAT
    return dequantize(load_quantized(path)) if is_quantized else load_avatar(path)


def _compress_offsets(offsets: np.ndarray, limit: float) -> np.ndarray:
    share = np.log1p(np.abs(offsets) / OFFSET_KNEE) / math.log1p(limit / OFFSET_KNEE)
    return _round(np.sign(offsets) * share * 127, np.int8)


def _expand_offsets(codes: np.ndarray, limit: float) -> np.ndarray:
    share = np.abs(codes / 127.0)
    return np.sign(codes) * OFFSET_KNEE * np.expm1(share * math.log1p(limit / OFFSET_KNEE))


def _round(values: np.ndarray, dtype: type) -> np.ndarray:
    bounds = np.iinfo(dtype)
    return np.clip(np.rint(values), max(bounds.min, -127), bounds.max).astype(dtype)
