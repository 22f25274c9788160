"""Timing of the page that plays an avatar, in a headless Chromium: pose, sort, skinning and drawing of a frame."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from core.utils.ranges import Count, ImageSize
from scripts.benchmarks.chromium import Chromium, find_chromium
from scripts.benchmarks.common import report
from smpl_renderer.bounded_files import load_text
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

MAX_PAGE_BYTES = 2**25
GRAPHICS = """(() => {
  const gl = document.createElement("canvas").getContext("webgl2");
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  return gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
})()"""


@dataclass(frozen=True)
class PlayerTiming:
    """Medians in milliseconds of a frame. The sort runs in a worker, beside the drawing of the frame before."""

    gaussians: int
    size: int
    pose_ms: float
    sort_ms: float
    skin_ms: float
    """Skinning and projection of all Gaussians."""
    project_ms: float
    """Projection without skinning, as of a still."""
    draw_ms: float
    ratio: float
    """Skinning and drawing, relative to a draw without skinning."""


def player(
    page: Annotated[Path, tyro.conf.Positional] = REPOSITORY / "docs/demo.html",
    size: ImageSize = 512,
    frames: Count = 30,
    out: Path | None = None,
) -> None:
    """Time a page that scripts/export.py --to html wrote; needs Chromium or Chrome.

    A headless browser draws on the CPU unless it finds a GPU. For the times on a GPU open the page in a browser, and
    enter `await (await player).benchmark()` in its console.

    Args:
        page: The page.
        size: Width and height of the image in pixels.
        frames: Timed frames.
        out: Also write the timings to this JSON file.
    """
    if find_chromium() is None:
        raise InputError("timing the player needs a browser: install Chromium or Chrome")
    if 'id="description"' not in load_text(page, MAX_PAGE_BYTES, "a page"):
        raise InputError(f"{page}: plays no avatar; write a page with scripts/export.py --to html")
    timing, graphics = time_player(page, size, frames)
    print(report("player", list(PlayerTiming.__annotations__), [timing], torch.device("cpu"), out))
    print(f"graphics: {graphics}")


def time_player(page: Path, size: int, frames: int) -> tuple[PlayerTiming, str]:
    """Times of a page, and the name of the graphics device."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Chromium(Path(folder) / "profile", (size + 100, size + 200)) as browser,
    ):
        browser.open(f"{page.resolve().as_uri()}#paused=1&size={size}&ui=0")
        count = browser.evaluate("player.then(p => { window.opened = p; return p.gaussians.count; })")
        ms = browser.evaluate(f"opened.benchmark({frames})", timeout=600)
        graphics = browser.evaluate(GRAPHICS)
    ratio = (ms["skin"] + ms["draw"]) / max(ms["project"] + ms["draw"], 1e-9)
    times = (ms[name] for name in ("pose", "sort", "skin", "project", "draw"))
    return PlayerTiming(count, size, *times, ratio), graphics
