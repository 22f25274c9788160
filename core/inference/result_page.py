"""`index.html` of a subject and of a run: player, inputs, fits, renderings, videos, metrics, and further commands."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from core.data.input_files import CAPTURE_FOLDER
from core.inference.aligned_inputs import ALIGNMENT_FILE
from core.inference.report import Metrics, metrics_table
from core.utils.html_page import figure, findings, sentence, write_html_page
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError

PLAYER, TURNTABLE, NOVEL_POSE, SHEET = "player.html", "turntable.mp4", "novel_pose.mp4", "comparison.png"
ALIGNED_SHEET = "alignment.png"
"""Overlay of the inputs with the fits before and after the alignment."""
FILES = {
    "avatar.safetensors": "the avatar, for the commands below",
    "avatar.ply": "the rest pose, for 3DGS viewers",
    PLAYER: "the player alone, in one file",
}


def write_result_page(path: Path, name: str, folder: Path, capture: Path | None, alignment: str | None = None) -> None:
    """Write the page of a subject.

    Args:
        path: Path of the page; the other results are in the same folder.
        name: Name of the subject.
        folder: Where the results will be, for the commands.
        capture: Where the capture is now, if it was made of one's own images; it will be in `CAPTURE_FOLDER` beside the
            page. Its `quality.json` may be missing.
        alignment: What the alignment of the inputs moved, as a sentence.
    """
    parts = [f'<iframe src="{PLAYER}" title="The avatar in motion"></iframe>']
    if capture is not None:
        parts += _capture_findings(capture)
    if alignment is not None:
        parts.append(f'<p>{escape(sentence(alignment))} (<a href="{ALIGNMENT_FILE}">{ALIGNMENT_FILE}</a>)</p>')
    parts.append("<h2>Renderings and images</h2><div class=card>")
    parts.append(f'<img src="{SHEET}" alt="Inputs, and renderings beside images"></div>')
    parts.append("<h2>Videos</h2><div class=row>")
    for video, text in ((TURNTABLE, "From all around"), (NOVEL_POSE, "In motion")):
        parts.append(figure(f'<video src="{video}" controls loop muted autoplay playsinline></video>', text))
    parts.append("</div>")
    parts += _masks_and_fits(capture is not None, alignment is not None)
    parts += _commands(folder)
    rows = "".join(f'<li><a href="{file}">{file}</a>: {text}' for file, text in FILES.items())
    parts.append(f"<h2>Files</h2><ul>{rows}</ul>")
    write_html_page(path, name, parts, "Drag to turn the avatar, scroll to come nearer, choose a motion below it.")


def write_index_page(path: Path, subjects: Sequence[str], metrics: Metrics | None) -> None:
    """Write the page of a run.

    Args:
        path: Path of the page; results of the subjects are in folders of their names beside it.
        subjects: Names.
        metrics: Results of an evaluation.
    """
    first = quote(subjects[0])
    parts = [f'<iframe src="{first}/{PLAYER}" title="The first avatar in motion"></iframe><h2>Subjects</h2>']
    parts.append('<div class="row">')
    for name in subjects:
        folder = quote(name)
        video = f'<video src="{folder}/{TURNTABLE}" loop muted autoplay playsinline></video>'
        parts.append(f'<div class=card><a href="{folder}/index.html">{video}</a>')
        links = (("index.html", "page"), (PLAYER, "player"), (SHEET, "renderings"), ("avatar.safetensors", "avatar"))
        text = " · ".join(f'<a href="{folder}/{file}">{label}</a>' for file, label in links)
        parts.append(f"<p><b>{escape(name)}</b><br>{text}</p></div>")
    parts.append("</div>")
    if metrics is not None:
        parts.append(f"<h2>Metrics</h2><pre>{escape(metrics_table(metrics))}</pre>")
        parts.append('<p><a href="metrics.json">metrics.json</a> has all numbers and settings.</p>')
    parts += _commands(path.parent / subjects[0])
    count = f"{len(subjects)} {'avatar' if len(subjects) == 1 else 'avatars'}"
    write_html_page(path, "Avatars", parts, f"{count}. Drag to turn, scroll to come nearer, choose a motion.")


def _masks_and_fits(has_capture: bool, is_aligned: bool) -> list[str]:
    """The sheet of the fits that the avatar was made with, and a link to the capture and its first fits."""
    if not has_capture and not is_aligned:
        return []
    link = f"{CAPTURE_FOLDER}/index.html"
    sheet, text = ALIGNED_SHEET, "Fits of the input images before and after the alignment"
    if not is_aligned:
        sheet, text = f"{CAPTURE_FOLDER}/overlay.png", "Overlay of fits and masks"
    image = f'<a href="{link if has_capture else sheet}"><img src="{sheet}" alt="{text}"></a>'
    parts = ["<h2>Masks and fits</h2>"]
    if has_capture:
        more = ", with their first fits" if is_aligned else ""
        parts.append(f'<p><a href="{link}">All frames of the capture{more}</a></p>')
    return [*parts, f"<div class=card>{image}</div>"]


def _capture_findings(capture: Path) -> list[str]:
    try:
        quality = load_json(capture / "quality.json")
    except InputError:
        quality = {}
    parts = ["<h2>Findings</h2>", *findings(quality.get("warnings", ()))]
    if (coverage := quality.get("surface_seen")) is not None:
        text = f"the images show {100 * coverage:.0f} % of the body's surface; the rest is guessed"
        parts.append(f"<p>{sentence(text)}</p>")
    return parts


def _commands(folder: Path) -> list[str]:
    """The three commands that go on from an avatar."""
    avatar = folder / "avatar.safetensors"
    name = f"'{avatar}'" if any(c in str(avatar) for c in " ()&;$") else str(avatar)
    lines = (
        "# in motion: a built-in one, or a file (BVH, AMASS, SMPL, GVHMR, ...)",
        f"python scripts/animate.py {name} dance --out dance.mp4",
        "# in other programs: html, glb, ply, spz, usd, ...",
        f"python scripts/export.py {name} --to glb --motion walk",
        "# what is installed, and what would make it faster",
        "python scripts/doctor.py",
    )
    return ["<h2>Go on</h2>", f"<pre>{escape(chr(10).join(lines))}</pre>"]
