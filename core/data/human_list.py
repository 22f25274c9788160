"""Subjects, cameras and poses to use: `human.json` in both of HGG's spellings, or everything that is present."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.input_files import check_name, read_json, subject_name
from core.data.readers import is_capture
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

LIST_NAMES = ("human.json", "human_debug.json")


@dataclass(frozen=True)
class HumanEntry:
    """One subject, with the cameras and frames of it to use."""

    path: Path
    views: tuple[str, ...] | None = None
    """Camera names to use; None: all."""
    poses: tuple[int, ...] | None = None
    """Image ids to use; None: all."""

    @property
    def subject(self) -> str:
        return subject_name(self.path)


def find_subjects(root: Path) -> list[HumanEntry]:
    """Find subjects: `root` itself, the subjects in it, or those that the list in or beside it names.

    The list is `human.json` (or HGG's `human_debug.json`) in `root`, else in its parent; a list in the parent is used
    only if it names a subject that is present. Listed subjects that are absent are left out, with a warning.

    Raises:
        InputError: If there is no such folder, no subject in it, or the list is broken.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name the folder of a capture, or a folder of captures")
    if is_capture(root):
        return [HumanEntry(root)]
    # Names of unfinished files begin with a dot (`smpl_renderer.files.atomic_path`).
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    present = {path.name: path for path in folders if is_capture(path)}
    if not present:
        raise InputError(
            f"{root}: neither a capture nor a folder of captures (no capture.json, no camera_extrinsics.json); "
            "docs/data.md describes both layouts"
        )

    for folder in (root, root / ".."):
        for path in (folder / name for name in LIST_NAMES):
            if not path.is_file():
                continue
            names, views, poses = _read_list(path)
            entries = [HumanEntry(present[name], views, poses) for name in names if name in present]
            if entries or folder == root:
                return _checked(entries, names, present, path)
    return [HumanEntry(path) for path in present.values()]


def split_subjects(subjects: list[HumanEntry], validation: int) -> tuple[list[HumanEntry], list[HumanEntry]]:
    """Hold out the last `validation` subjects, as HGG does; at least one remains for training."""
    held_out = max(0, min(validation, len(subjects) - 1))
    return subjects[: len(subjects) - held_out], subjects[len(subjects) - held_out :]


def _read_list(path: Path) -> tuple[list[str], tuple[str, ...] | None, tuple[int, ...] | None]:
    """Read subjects, views (`view_id_list` or `view_id`) and poses (`pose_id_list` or `pose_id`); None if missing."""
    values = read_json(path)
    if not isinstance(values, dict) or "human_id" not in values:
        raise InputError(f"{path}: expected an object with `human_id`, a list of subjects; correct it")
    names = _strings(values, "human_id", path)
    views = _strings(values, "view_id_list" if "view_id_list" in values else "view_id", path)
    poses = _strings(values, "pose_id_list" if "pose_id_list" in values else "pose_id", path)
    try:
        numbers = None if poses is None else tuple(int(pose) for pose in poses)
    except ValueError as error:
        raise InputError(f'{path}: poses must be image ids such as "0005" ({error}); correct them') from error
    for name in (*(names or ()), *(views or ())):
        check_name(name, f"{path}: subject or view")
    return list(dict.fromkeys(names or ())), views, numbers


def _strings(values: dict[str, Any], key: str, path: Path) -> tuple[str, ...] | None:
    entries = values.get(key)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, str | int) for entry in entries):
        raise InputError(f"{path}: `{key}` must be a list of names; correct it")
    return tuple(str(entry) for entry in entries)


def _checked(entries: list[HumanEntry], names: list[str], present: dict[str, Path], path: Path) -> list[HumanEntry]:
    if not entries:
        raise InputError(
            f"{path}: none of its {len(names)} subjects has a folder; here are {', '.join(list(present)[:5])}"
        )
    if missing := [name for name in names if name not in present]:
        logger.warning(
            "%s: %d of %d subjects have no folder and are left out (%s)",
            *(path, len(missing), len(names), ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")),
        )
    return entries
