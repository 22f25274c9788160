"""`index.html` of an avatar of one's own images: its videos beside the findings on the capture."""

import json
from html import escape
from pathlib import Path

from core.capture.page import STYLE, sentence
from core.data.input_files import CAPTURE_FOLDER


def write_result_page(path: Path, name: str, capture: Path) -> None:
    """Write the page.

    Args:
        path: Path of the page; the other results are in the same folder, the capture in `CAPTURE_FOLDER` of it.
        capture: Present folder of the capture; its `quality.json` may be missing.
    """
    try:
        quality = json.loads((capture / "quality.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        quality = {}
    title = escape(name)
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"]
    for video, text in (("turntable.mp4", "Turntable"), ("novel_pose.mp4", "In motion")):
        parts.append(
            f'<figure><video src="{video}" controls loop muted autoplay></video><figcaption>{text}</figcaption>'
        )
        parts.append("</figure>")
    parts.append("<h2>Findings</h2>")
    parts += [f"<p class=warn>{escape(sentence(text))}</p>" for text in quality.get("warnings", ())]
    if not quality.get("warnings"):
        parts.append("<p class=good>No findings.</p>")
    if (coverage := quality.get("surface_seen")) is not None:
        parts.append(f"<p>The images show {100 * coverage:.0f} % of the body's surface; the rest is guessed.</p>")
    parts.append('<h2>Renderings and images</h2><p><img src="comparison.png" alt="Renderings beside input images"></p>')
    link = f"{CAPTURE_FOLDER}/index.html"
    parts.append(f'<h2><a href="{link}">Capture</a></h2><p><a href="{link}">')
    parts.append(f'<img src="{CAPTURE_FOLDER}/overlay.png" alt="Overlay of fits, masks and landmarks"></a></p>')
    parts.append(
        '<p>Files: <a href="avatar.safetensors">avatar.safetensors</a>, <a href="avatar.ply">avatar.ply</a></p>'
    )
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")
