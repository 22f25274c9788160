"""`index.html` of a capture: the overlay sheet, findings as sentences, and a table of the frames."""

from html import escape
from pathlib import Path

from core.capture.quality import CaptureReport
from smpl_renderer.files import atomic_path

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222}"
    "img,video{max-width:100%;border-radius:6px}figure{display:inline-block;margin:0 1em 1em 0}"
    "table{border-collapse:collapse}"
    "td,th{padding:.25em .9em;border-bottom:1px solid #ddd;text-align:left}"
    ".warn{background:#fff4d6;border-left:4px solid #e0a400;padding:.4em 1em;margin:.4em 0}"
    ".good{background:#e4f6e8;border-left:4px solid #2f9e44;padding:.4em 1em}.out{color:#a33}"
)


def write_page(path: Path, name: str, report: CaptureReport) -> None:
    """Write the page; it needs `overlay.png` beside it and nothing from elsewhere."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{escape(name)}</title><style>{STYLE}</style>"]
    parts.append(f"<h1>{escape(name)}</h1>")
    used = sum(frame.used for frame in report.frames)
    parts.append(f"<p>{used} of {len(report.frames)} chosen frames are used.</p>")
    if report.warnings:
        parts += [f"<p class=warn>{escape(sentence(text))}</p>" for text in report.warnings]
    else:
        parts.append("<p class=good>No findings.</p>")
    parts.append('<p><img src="overlay.png" alt="Overlay of fits, masks and landmarks"></p><h2>Frames</h2><table>')
    parts.append("<tr><th>frame<th>where<th>overlap with the mask<th>landmarks off by<th>findings</tr>")
    for frame in report.frames:
        overlap = "" if frame.mask_iou is None else f"{100 * frame.mask_iou:.0f} %"
        error = "" if frame.landmark_error is None else f"{100 * frame.landmark_error:.1f} % of the height"
        findings = "; ".join(frame.warnings) + ("" if frame.used else " (left out)")
        row = f"<td>{frame.id}<td>{escape(frame.label)}<td>{overlap}<td>{error}<td>{escape(findings)}"
        parts.append(f"<tr{'' if frame.used else ' class=out'}>{row}</tr>")
    parts.append("</table>")
    if report.notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(sentence(x))}</li>" for x in report.notes) + "</ul>")
    if report.left_out:
        parts.append(f"<h2>Left out</h2><p>{escape(left_out_summary(report.left_out))}</p>")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")


def left_out_summary(left_out: tuple[tuple[str, str], ...]) -> str:
    """One line: for each reason the number of frames and the first of them."""
    reasons: dict[str, list[str]] = {}
    for label, reason in left_out:
        reasons.setdefault(reason, []).append(label)
    parts = []
    for reason, labels in reasons.items():
        shown = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
        parts.append(f"{len(labels)} {'image' if len(labels) == 1 else 'images'}: {reason} ({shown})")
    return "; ".join(parts)


def sentence(text: str) -> str:
    """A finding with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + "."
