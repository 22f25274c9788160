"""One HTML file that plays an animated avatar in a browser with WebGL 2, without network: the files of `player/`.

The page holds a JSON description and one block of binary arrays, compressed by gzip and encoded in base64. Arrays begin
at multiples of four bytes; the description lists name, type, shape and start of each.
"""

import base64
import gzip
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.avatar.avatar import Avatar
from core.export.quantized import OFFSET_KNEE, quantize
from core.export.rig import skinning_table
from core.export.skeleton import Clip, bake, low_rank_correctives
from core.motion.motion import Motion
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

PLAYER = Path(__file__).with_name("player")
SCRIPTS = ("data.js", "skeleton.js", "sorting.js", "shaders.js", "renderer.js", "player.js", "controls.js")
FORMAT_VERSION = 1
CORRECTIVE_TOLERANCE = 1e-3
"""Largest error of a vertex by the low rank of the correctives, in metres."""
MAX_CORRECTIVES = 16
FIELD_OF_VIEW = math.radians(30)
MARGIN = 1.1
"""Radius of the volume in view, relative to that of the vertices."""
MEASURED_FRAMES = 12
"""Frames of each motion whose vertices decide how much the camera has to see."""


@dataclass(frozen=True)
class View:
    """The camera's target and distance: those of `camera_path(..., "follow")` for all motions together."""

    height: float
    """Metres of the target above the floor; horizontally it is the pelvis."""
    distance: float


def save_html(path: Path, avatar: Avatar, body: BodyModel, motions: Sequence[Motion], title: str = "Avatar") -> None:
    """Write a page with an avatar of 8 bits per number (`quantized.py`) and its motions.

    Args:
        path: Output file.
        avatar: An avatar without batch axes.
        body: Its body.
        motions: At least one; the first plays at the start.
        title: Title of the page.
    Raises:
        InputError: If there is no motion.
    """
    if not motions:
        raise InputError("a page needs at least one motion; give --motion NAME")
    description, data = _payload(avatar, body, [bake(motion, body, avatar.betas) for motion in motions])
    texts = {
        "{{title}}": html.escape(title),
        "{{description}}": json.dumps(description).replace("<", "\\u003c"),  # no tag can end the script element
        "{{data}}": base64.b64encode(gzip.compress(data, 9, mtime=0)).decode(),
    }
    page = _read("page.html")
    page = page.replace("{{style}}", _read("style.css")).replace("{{script}}", "".join(map(_read, SCRIPTS)))
    for placeholder, text in texts.items():
        page = page.replace(placeholder, text)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _read(name: str) -> str:
    return (PLAYER / name).read_text(encoding="utf-8")


def _payload(avatar: Avatar, body: BodyModel, clips: list[Clip]) -> tuple[dict[str, Any], bytes]:
    packed = quantize(avatar, body.num_vertices)
    shaped = body.shape_vertices(avatar.betas.to(body.v_template)).cpu()
    rest_joints = body.rest_joints(shaped.to(body.v_template)).cpu().numpy()
    low, high = shaped.amin(0).numpy(), shaped.amax(0).numpy()
    joints, weights = skinning_table(body)
    correctives = low_rank_correctives(body, clips, CORRECTIVE_TOLERANCE, MAX_CORRECTIVES)
    ranges = np.abs(correctives.basis).max((0, 2)).clip(min=1e-12)
    quats = torch.cat([clip.quats for clip in clips]).cpu().numpy()
    view = view_of(body, clips)
    data = bytearray()
    arrays = {
        "counts": packed.counts,
        "offsets": packed.offsets,
        "quats": packed.quats,
        "scales": packed.scales,
        "opacities": packed.opacities,
        "colors": packed.colors,
        "vertices": np.rint((shaped.numpy() - low) / (high - low) * 65535).astype(np.uint16),
        "joints": joints.astype(np.uint8),
        "weights": np.rint(weights * 65535).astype(np.uint16),
        "correctives": np.rint(correctives.basis / ranges[:, None] * 127).astype(np.int8),
        "corrective_weights": (correctives.weights * ranges / 127).astype(np.float32),
        "rest_joints": rest_joints.astype(np.float32),
        "rotations": np.rint(quats * 32767).astype(np.int16),
        "translations": torch.cat([clip.params.transl for clip in clips]).cpu().numpy().astype(np.float32),
    }
    description = {
        "version": FORMAT_VERSION,
        "offset_limit": packed.offset_limit,
        "offset_knee": OFFSET_KNEE,
        "log_scales": packed.log_scales,
        "vertex_bounds": [low.tolist(), high.tolist()],
        "parents": list(body.parents),
        "fov": FIELD_OF_VIEW,
        "view": {"height": round(view.height, 4), "distance": round(view.distance, 4)},
        "motions": [
            {"name": clip.name, "fps": clip.fps, "loops": clip.loops, "frames": len(clip.quats)} for clip in clips
        ],
        "arrays": {name: _append(data, array) for name, array in arrays.items()},
    }
    return description, bytes(data)


def _append(data: bytearray, array: np.ndarray) -> dict[str, Any]:
    data += bytes(-len(data) % 4)
    place = {"type": array.dtype.name, "shape": array.shape, "start": len(data)}
    data += np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    return place


@torch.no_grad()
def view_of(body: BodyModel, clips: Sequence[Clip]) -> View:
    """Camera from which an avatar is visible in all motions."""
    bounds = []
    for clip in clips:
        some = torch.linspace(0, len(clip.quats) - 1, min(len(clip.quats), MEASURED_FRAMES)).round().long()
        output = body(clip.params[some])
        pelvis = output.joints[:, :1] * output.joints.new_tensor([1.0, 0.0, 1.0])
        bounds.append((output.vertices - pelvis).reshape(-1, 3))
    points = torch.cat(bounds)
    height = (points[:, 1].amin() + points[:, 1].amax()) / 2
    radius = (points - height * points.new_tensor([0.0, 1.0, 0.0])).norm(dim=-1).max() * MARGIN
    return View(float(height), float(radius) / math.sin(FIELD_OF_VIEW / 2))
