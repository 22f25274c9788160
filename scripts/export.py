"""Export an avatar: python scripts/export.py AVATAR --to html|glb|ply|... [--motion walk] (docs/avatars.md)

AVATAR is an `avatar.safetensors` that infer.py wrote, or an 8-bit avatar that this script wrote.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
from typing import Annotated, Literal, get_args

import torch
import tyro
from tqdm import tqdm

from core.avatar.avatar import Avatar, canonical_gaussians, pose_avatar
from core.avatar.file import find_avatar_body
from core.export.glb import save_mesh_glb, save_splats_glb
from core.export.html import save_html
from core.export.ply import save_ply
from core.export.quantized import load_any_avatar, quantize, save_quantized
from core.export.splats import CONVERTED, save_converted, save_splat
from core.export.splattie import save_splattie
from core.export.usd import save_usd
from core.motion.builtin import SEQUENCES
from core.motion.motion import Motion, apply_motion, resample
from core.motion.sources import open_motion
from core.types.gaussians import Gaussians
from core.utils.cli import run
from core.utils.ranges import PositiveOrZero, Range, checked
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

logger = logging.getLogger("export")

Format = Literal["html", "glb", "splats.glb", "ply", "compressed.ply", "splat", "spz", "sog", "usd", "splattie", "8bit"]
SUFFIXES = {"8bit": "8bit.safetensors"}
ANIMATED = ("html", "glb", "splats.glb")
"""Formats that hold motions; the others hold one set of Gaussians."""
WITHOUT_POSE = ("splattie", "8bit")


def main(
    avatar: Annotated[Path, tyro.conf.Positional],
    to: Format,
    out: Path | None = None,
    motion: tuple[str, ...] = (),
    time: PositiveOrZero | None = None,
    fps: Annotated[float, Range(1, 240)] | None = None,
    ply_degree: Literal[0, 3] = 0,
    title: str | None = None,
    body: Path | None = None,
) -> None:
    """Write an avatar in the format of another program.

    Args:
        avatar: An `avatar.safetensors`.
        to: html: a page that plays the avatar; glb: the skinned body mesh; splats.glb: the Gaussians with skeleton;
            ply, compressed.ply, splat, spz, sog, usd: Gaussians in one pose; splattie: rigged Gaussians; 8bit: an
            avatar of this project at a quarter of the size.
        out: Output file; by default beside the avatar, with the format's suffix. Of a sequence the folder; by default
            beside the avatar, with the motion's name.
        motion: Built-in motions or motion files (docs/motion.md). html, glb and splats.glb hold all of them (html: by
            default all built-in ones). The others take one: the pose at --time, or a folder with a file per frame.
        time: Seconds into the motion, for formats of one pose.
        fps: Frames per second of the animations; by default those of the motion.
        ply_degree: Degree of the spherical harmonics in .ply; some viewers require 3.
        title: Title of the page; by default the name of the avatar's folder.
        body: A body model file; by default the avatar's own is found by its fingerprint.
    """
    if out is not None:
        _check_suffix(out, to)
    loaded = load_any_avatar(avatar)
    model = find_avatar_body(loaded, body)
    names = motion or (tuple(SEQUENCES) if to == "html" else ())
    clips = [open_motion(name, model) for name in names]
    clips = [clip if fps is None else resample(clip, fps) for clip in clips]
    named, out = out, out or avatar.with_suffix("." + SUFFIXES.get(to, to))
    title = title or avatar.resolve().parent.name
    if to == "html":
        save_html(out, loaded, model, clips, title)
    elif to == "glb":
        save_mesh_glb(out, loaded, model, clips)
    elif to == "splats.glb":
        save_splats_glb(out, loaded, model, clips)
    elif clips and to in WITHOUT_POSE:
        raise InputError(f"--to {to} holds no motion; leave out --motion")
    elif to == "splattie":
        save_splattie(out, loaded, model, title)
    elif to == "8bit":
        save_quantized(out, quantize(loaded, model.num_vertices))
    elif len(clips) > 1:
        raise InputError(f"--to {to} takes one motion, got {len(clips)}; give one --motion")
    elif clips and time is None:
        out = named or avatar.with_name(f"{avatar.stem}_{Path(clips[0].name).stem}")
        _save_sequence(out, loaded, model, clips[0], to, ply_degree)
    else:
        _save_gaussians(out, _gaussians(loaded, model, clips, time), to, ply_degree)
    size = sum(f.stat().st_size for f in out.rglob("*")) if out.is_dir() else out.stat().st_size
    logger.info("wrote %s (%.2f MB)", out, size / 1e6)


def _check_suffix(out: Path, to: Format) -> None:
    """Refuse a name that stands for another format."""
    suffixes = {name: Path(f"x.{SUFFIXES.get(name, name)}").suffix for name in get_args(Format)}
    if out.suffix != suffixes[to] and out.suffix in suffixes.values():
        raise InputError(f"--out {out}: its suffix is that of another format; --to {to} has {suffixes[to]}")


@torch.no_grad()
def _gaussians(avatar: Avatar, body: BodyModel, clips: list[Motion], time: float | None) -> Gaussians:
    """Gaussians in the rest pose, or in the pose at a time of a motion."""
    if not clips:
        if time is not None:
            raise InputError("--time needs a --motion whose pose it chooses")
        return canonical_gaussians(avatar, body)
    poses = apply_motion(clips[0], body, avatar.betas)
    frame = min(round((time or 0.0) * clips[0].fps), len(clips[0]) - 1)
    return pose_avatar(avatar, body, poses[frame : frame + 1])[0]


@torch.no_grad()
def _save_sequence(folder: Path, avatar: Avatar, body: BodyModel, clip: Motion, to: str, degree: int) -> None:
    """One file per frame of a motion; the folder appears when all are written."""
    if folder.exists():
        raise InputError(f"--out {folder}: exists already; name a new folder")
    poses = apply_motion(clip, body, avatar.betas)
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        for i in tqdm(range(len(clip)), desc="export", unit="frame"):
            gaussians = pose_avatar(avatar, body, poses[i : i + 1])[0]
            _save_gaussians(temporary / f"{i:05d}.{to}", gaussians, to, degree)


def _save_gaussians(path: Path, gaussians: Gaussians, to: str, degree: int) -> None:
    if to == "ply":
        save_ply(path, gaussians, degree)
    elif to == "splat":
        save_splat(path, gaussians)
    elif to == "usd":
        save_usd(path, gaussians)
    else:
        assert to in CONVERTED
        save_converted(path, gaussians, to)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
