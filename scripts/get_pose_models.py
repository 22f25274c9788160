"""Fetch the pose networks into pretrained/pose/: a download of 36 MB, 17 MB on disk (Apache-2.0).

They are MediaPipe's person detector and its landmark networks of body and hands, as published in its Python package.
Nothing of the package is installed or run. `--heavy` adds the largest body network (28 MB) from its npm package.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging

import tyro

from core.capture.weights import WEIGHTS_FOLDER, fetch_heavy, fetch_models
from core.utils.cli import run

logger = logging.getLogger(__name__)


def main(
    archive: Path | None = None, heavy: bool = False, heavy_archive: Path | None = None, out: Path = WEIGHTS_FOLDER
) -> None:
    """Write the networks and their licence to `out`.

    Args:
        archive: MediaPipe's wheel as a file (mediapipe-0.10.14-*.whl), for machines without a connection.
        heavy: Also fetch `pose_landmark_heavy`, which needs npm.
        heavy_archive: The npm package as a file, instead of npm.
        out: Folder from which `core.capture` reads them.
    """
    paths = fetch_models(out, archive)
    if heavy or heavy_archive is not None:
        paths.append(fetch_heavy(out, heavy_archive))
    for path in paths:
        logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)


if __name__ == "__main__":
    run(lambda: tyro.cli(main))
