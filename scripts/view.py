"""Look at avatars in a browser: python scripts/view.py AVATAR... [--motion walk clip.bvh] (needs `pip install viser`)

Opens a page on this machine: orbit, motions with a timeline, joints and shape by sliders, body mesh and skeleton, what
no input image shows, screenshots, and camera paths rendered to videos.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import time
from typing import Annotated

import tyro

from core.avatar.file import find_avatar_body, load_views_seen
from core.export.quantized import load_any_avatar
from core.motion.builtin import SEQUENCES
from core.motion.sources import open_motion
from core.utils.cli import run
from core.utils.ranges import Range, checked
from scripts.viewer.page import Viewer
from smpl_renderer.errors import InputError

logger = logging.getLogger("view")


def main(
    avatars: Annotated[tuple[Path, ...], tyro.conf.Positional],
    motion: tuple[str, ...] = tuple(SEQUENCES),
    port: Annotated[int, Range(1, 65535)] = 8080,
    fps: Annotated[float, Range(1, 60)] = 15.0,
    share: bool = False,
    body: Path | None = None,
) -> None:
    """Show avatars in a browser until Ctrl+C.

    Args:
        avatars: Files `avatar.safetensors`, shown side by side.
        motion: Built-in motions or motion files (docs/motion.md).
        port: Port of the page.
        fps: Poses per second.
        share: Let other machines of the network open the page, too.
        body: A body model file; by default that of each avatar is found by its fingerprint.
    """
    viewer = open_viewer(avatars, motion, port, share, body)
    logger.info("open http://localhost:%d; stop with Ctrl+C", viewer.server.get_port())
    before = time.monotonic()
    while True:
        time.sleep(max(0.0, 1 / fps - (time.monotonic() - before)))
        now = time.monotonic()
        viewer.advance(now - before)
        before = now


def open_viewer(
    avatars: tuple[Path, ...], motion: tuple[str, ...], port: int, share: bool = False, body: Path | None = None
) -> Viewer:
    """The page, with its server running.

    Raises:
        InputError: If viser is not installed, or a file cannot be used.
    """
    try:
        import viser  # optional
    except ImportError as error:
        raise InputError("scripts/view.py needs a package: pip install viser (or export.py --to html)") from error
    if not avatars or not motion:
        raise InputError("no avatar or no motion is named; give an avatar.safetensors and, for --motion, a name")
    loaded, views_seen = {}, {}
    for path in avatars:
        avatar = load_any_avatar(path)
        model = find_avatar_body(avatar, body)
        loaded[str(path)] = (avatar, model)
        seen = load_views_seen(path, model.num_vertices)
        if seen is not None:
            views_seen[str(path)] = seen
    first_body = next(iter(loaded.values()))[1]
    motions = {name: open_motion(name, first_body) for name in motion}
    server = viser.ViserServer(host="0.0.0.0" if share else "127.0.0.1", port=port, verbose=False)
    return Viewer(server, loaded, motions, views_seen)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
