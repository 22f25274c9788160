"""Records of measured rows: one JSON file per row with metrics, settings, origin and machine."""

import datetime
import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core.utils.aliases import OPTIONS, current_options
from scripts.benchmarks.common import PACKAGES, package_version
from scripts.results.bench import Measured
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY, atomic_path

Record = dict[str, Any]
"""`FIELDS` and the fields of `Measured`. A record is current if its `settings` equal those of its row."""
FIELDS = ("row", "commit", "data", "date", "device", "versions", "settings", "metrics", "steps", "train_minutes")
"""Fields of every record."""
_SETTINGS = {"shown": "input_subset", "enlargement": "supersampling", "pictures": "images"}
"""Earlier names of settings, and the present ones."""


def record_path(folder: Path, row: str) -> Path:
    return folder / f"{row}.json"


def read_record(folder: Path, row: str) -> Record | None:
    """The record of a row under the present names of its settings; None if the row has not been measured.

    Raises:
        InputError: If the file is not a record.
    """
    path = record_path(folder, row)
    if not path.is_file():
        return None
    remedy = "move it elsewhere, and the row is measured again"
    try:
        record = load_json(path)
    except InputError as error:
        raise InputError(f"{error}, or {remedy}") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings", {}), dict):
        raise InputError(f"{path}: not a record of results; {remedy}")
    if missing := [name for name in FIELDS if name not in record]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; {remedy}")
    record["settings"] = current_settings(record["settings"])
    return record


def write_record(
    folder: Path, row: str, settings: dict, measured: Measured, *, device: torch.device, data: str, commit: str | None
) -> None:
    """Write the record of a row, completely or not at all."""
    record = {
        "row": row,
        "commit": commit or current_commit(),
        "data": data,
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": versions(),
        **asdict(measured),
        "settings": settings,
    }
    with atomic_path(record_path(folder, row)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def current_settings(values: Any) -> Any:
    """Nested settings under the present names of settings and options."""
    if isinstance(values, dict):
        renamed = {_SETTINGS.get(name, name): value for name, value in values.items()}
        return {name: current_settings(value) for name, value in current_options(renamed, list(OPTIONS)).items()}
    return [current_settings(value) for value in values] if isinstance(values, list) else values


def is_current(record: Record | None, settings: dict) -> bool:
    """True if a record was made with these settings."""
    return record is not None and record["settings"] == json.loads(json.dumps(settings))


def versions() -> dict[str, str]:
    """Versions of Python, PyTorch and other installed packages that affect results."""
    found = {package: package_version(package) for package in PACKAGES}
    known = {package: version for package, version in found.items() if version is not None}
    return {"python": platform.python_version(), "torch": torch.__version__, **known}


def current_commit() -> str:
    """Commit of the repository, with a plus if tracked files differ from it; `unknown` without a repository."""
    try:
        outputs = [
            subprocess.run(["git", "-C", str(REPOSITORY), *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return outputs[0].strip() + ("+" if outputs[1].strip() else "")
