"""Convert captures between MVHumanNet's layout and capture.json:

    python scripts/convert_capture.py IN --out DIR --to capture

Cameras, names, fits and the body are kept; images are copied. docs/data.md describes both layouts.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
from typing import Annotated

import tyro
from tqdm import tqdm

from core.data.conversion import Layout, convert_capture
from core.data.human_list import find_subjects
from core.data.readers import open_capture
from core.utils.cli import run

logger = logging.getLogger("convert_capture")


def main(
    captures: Annotated[Path, tyro.conf.Positional],
    out: Path,
    to: Layout,
    body: Path | None = None,
    check: bool = True,
) -> None:
    """Write captures in another layout, to <out>/<subject>.

    Args:
        captures: Folder of one capture, or a folder of captures.
        out: Folder of the copies.
        to: `capture` for capture.json, or `mvhumannet`.
        body: A body model file; by default it is found by the capture's fingerprint.
        check: Compare fits and masks first. A world that does not stand along z is then turned.
    """
    subjects = find_subjects(captures)
    for entry in tqdm(subjects, desc="convert", unit="capture"):
        capture = open_capture(entry.path)
        convert_capture(capture, out / entry.subject, to, capture.body(body), check)
    logger.info("wrote %d captures to %s", len(subjects), out)


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
