"""Record of how a capture was made, by which complete and compatible captures are recognised."""

from pathlib import Path

from core.data.capture_json import CAPTURE_FILE
from scripts.synthetic.layout import STAMP
from scripts.synthetic.options import GENERATOR_VERSION, CaptureOptions
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError


def make_stamp(index: int, options: CaptureOptions, body: BodyModel) -> dict:
    """The body of the fits, the index of the person, and the options of the capture."""
    return {
        "fingerprint": body.fingerprint,
        "name": body.name,
        "generator": GENERATOR_VERSION,
        "person": index,
        "options": options.record(),
    }


def read_stamp(folder: Path) -> dict:
    """The stamp of the capture in a folder; empty if the capture is missing or incomplete."""
    for name, key in ((STAMP, None), (CAPTURE_FILE, "source")):
        try:
            content = load_json(folder / name)
            stamp = content if key is None else content[key]
        except (LookupError, TypeError, InputError):
            continue
        if isinstance(stamp, dict):
            return stamp
    return {}


def is_current(folder: Path, index: int, options: CaptureOptions, body: BodyModel) -> bool:
    """True if a folder contains exactly this capture, complete."""
    return read_stamp(folder).items() >= make_stamp(index, options, body).items()


def is_compatible(folder: Path, options: CaptureOptions, body: BodyModel) -> bool:
    """True if a folder contains a capture of any person that can be in one set with captures of these options."""
    stamp, expected = read_stamp(folder), make_stamp(0, options, body)
    made_with = stamp.get("options", {})
    return all(stamp.get(key) == expected[key] for key in ("fingerprint", "generator")) and all(
        made_with.get(key) == expected["options"].get(key) for key in ("rig", "cameras", "frames", "format")
    )
