"""Make a capture of one's own images or video: python scripts/prepare_capture.py INPUT --out DIR

INPUT is a video, an image, a folder of images of one camera, or a folder with a video or a folder of images per camera
and a calibration. DIR receives capture.json with images, masks and body fits, and index.html, which shows how good they
are. `python infer.py DIR` makes the avatar. docs/own_capture.md explains how to film.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import tyro

from core.capture.options import PrepareOptions
from core.capture.prepare import prepare_capture
from core.utils.cli import run
from core.utils.ranges import checked


def main(
    input: tyro.conf.Positional[Path],
    out: Path,
    options: tyro.conf.OmitArgPrefixes[PrepareOptions] = PrepareOptions(),
) -> None:
    """Make a capture of a video, an image or a folder.

    Args:
        input: The video, image or folder.
        out: Folder of the capture; it is made, or replaced if it is one made before by this script.
        options: How.
    """
    prepare_capture(input, out, options)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main), config=(tyro.conf.FlagCreatePairsOff,)))
