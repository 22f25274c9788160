"""`index.html` of a capture: the overlay sheet, findings as sentences, and a table of the frames."""

from html import escape
from pathlib import Path

from core.capture.quality import CaptureReport
from core.utils.html_page import findings, sentence, write_html_page


def write_page(path: Path, name: str, report: CaptureReport) -> None:
    """Write the page; it needs `overlay.png` beside it and nothing from elsewhere."""
    used = sum(frame.used for frame in report.frames)
    lead = f"{used} of {len(report.frames)} chosen frames are used. Fits are shown as they are before any alignment."
    parts = findings(report.warnings)
    parts.append('<div class=card><img src="overlay.png" alt="Overlay of fits, masks and landmarks"></div>')
    parts.append("<h2>Frames</h2><div class=card><table>")
    parts.append("<tr><th>frame<th>where<th>overlap with the mask<th>landmarks off by<th>findings</tr>")
    for frame in report.frames:
        overlap = "" if frame.mask_iou is None else f"{100 * frame.mask_iou:.0f} %"
        error = "" if frame.landmark_error is None else f"{100 * frame.landmark_error:.1f} % of the height"
        remarks = "; ".join(frame.warnings) + ("" if frame.used else " (left out)")
        row = f"<td>{frame.id}<td>{escape(frame.label)}<td>{overlap}<td>{error}<td>{escape(remarks)}"
        parts.append(f"<tr{'' if frame.used else ' class=out'}>{row}</tr>")
    parts.append("</table></div>")
    if report.notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escape(sentence(x))}</li>" for x in report.notes) + "</ul>")
    if report.left_out:
        parts.append(f"<h2>Left out</h2><p>{escape(left_out_summary(report.left_out))}</p>")
    write_html_page(path, name, parts, lead)


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
