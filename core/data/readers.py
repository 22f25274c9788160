"""The layouts of captures on disk, and the choice among them."""

from pathlib import Path

from core.data.capture import Capture, Findings
from core.data.capture_json import CAPTURE_FILE
from core.data.json_capture import JsonCapture
from core.data.mvhumannet import IMAGE_FOLDERS, MVHumanNetCapture
from core.data.mvhumannet_cameras import EXTRINSICS, INTRINSICS, SCALE
from smpl_renderer.errors import InputError

MVHUMANNET_FILES = (EXTRINSICS, INTRINSICS, SCALE, *IMAGE_FOLDERS)
"""A folder that holds any of these is a capture in MVHumanNet's layout."""


def open_capture(path: Path, ready: tuple[str, int] | None = None, findings: Findings | None = None) -> Capture:
    """Open a capture of any layout; `capture.json` comes first.

    Args:
        path: The subject's folder.
        ready: Crop and size of ready crops to use where they exist; see `Capture`.
        findings: Results of earlier checks of the same capture.
    Raises:
        InputError: If it is no capture, or a description in it is missing or broken.
    """
    path = Path(path)
    if (path / CAPTURE_FILE).exists():
        return JsonCapture(path, ready, findings)
    if path.is_dir() and not is_capture(path):
        raise InputError(
            f"{path}: no capture: neither {CAPTURE_FILE} nor {EXTRINSICS} is there; docs/data.md describes the layouts"
        )
    return MVHumanNetCapture(path, ready, findings)


def is_capture(path: Path) -> bool:
    """True if a folder holds a capture, whole or not."""
    return any((path / name).exists() for name in (CAPTURE_FILE, *MVHUMANNET_FILES))
