"""Names, listings and JSON files that come from outside, checked where they are read."""

import re
from pathlib import Path
from typing import Any

from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError


def check_name(name: Any, where: str) -> str:
    """A name that is one path component, so that no writer that uses it in a path leaves its folder.

    Args:
        name: Name of a camera, subject or file.
        where: File and entry that the name comes from, for the message.
    Raises:
        InputError: If it is no text, empty, `.`, `..`, too long, or holds a separator or a control character.
    """
    allowed = (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and len(name.encode("utf-8", "surrogatepass")) <= 200
        and not re.search(r"[/\\\x00-\x1f\x7f]", name)
    )
    if not allowed:
        raise InputError(f"{where}: {_short(name)} is not allowed as a name; use one without `/` and `\\`")
    return name


CAPTURE_FOLDER = "capture"
"""Name of a subject's folder that does not name the subject: `<workspace>/<name>/capture/`."""


def subject_name(path: Path) -> str:
    """Name of the subject of a capture's folder: that of the folder or, for `CAPTURE_FOLDER`, of the one above it."""
    path = Path(path).resolve()
    return path.parent.name if path.name == CAPTURE_FOLDER and path.parent.name else path.name


_LEAVES = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
_NO_PATH = re.compile(r"[\\\x00-\x1f\x7f]|^(\./?|)$|/$")


def check_path(relative: str, where: str) -> None:
    """Refuse a path of a record that is not relative to the record's folder, or leaves it; links: see `check_inside`.

    Raises:
        InputError: If it is absolute, has a component `..`, or is no path.
    """
    if _NO_PATH.search(relative):
        raise InputError(f"{where}: {_short(relative)} is no path of a file; write it relative to the folder, with `/`")
    if _LEAVES.search(relative):
        raise InputError(f"{where}: {_short(relative)} leaves the folder; write a path inside of it, without `..`")


def check_inside(folder: Path, path: Path, where: str) -> Path:
    """The path, if no link on its way leads out of the folder.

    Raises:
        InputError: If one does.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {path} is a link that leads out of {folder}; copy the file into it")
    return path


def read_json(path: Path, missing: str = "the capture is incomplete") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        missing: Meaning of a missing file, for the message.
    Raises:
        InputError: If it is missing or broken.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; {missing}")
    return load_json(path)


def numbered_files(folder: Path, pattern: re.Pattern) -> dict[int, Path]:
    """Files of a folder by the number in their name (the pattern's first group), in its order.

    Empty if there is no such folder.

    Raises:
        InputError: If two files have the same number.
    """
    if not folder.is_dir():
        return {}
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in files:
            raise InputError(
                f"{folder}: two files of frame {number:04d}, {files[number].name} and {path.name}; keep one of them"
            )
        files[number] = path
    return dict(sorted(files.items()))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
