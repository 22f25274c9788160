"""Pages of results: their style, and the parts that all of them share. They need nothing from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from smpl_renderer.files import atomic_path

STYLE = """
:root{--ink:#1d2230;--soft:#5b6274;--line:#e3e6ee;--accent:#3b63d8;--card:#fff;--ground:#f6f7fa}
body{font:15px/1.55 system-ui,sans-serif;margin:0;color:var(--ink);background:var(--ground)}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 10px}
.lead{color:var(--soft);margin:0 0 18px}a{color:var(--accent)}
img,video{max-width:100%;border-radius:10px;display:block}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px;overflow-x:auto}
.row video{width:100%;max-width:512px;margin:0 auto}
.row{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(280px,1fr))}
figure{margin:0}figcaption{color:var(--soft);font-size:13px;padding-top:6px}
iframe{width:100%;height:min(72vh,640px);border:1px solid var(--line);border-radius:14px;background:#fff}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3em .9em;border-bottom:1px solid var(--line);text-align:left}th{font-weight:600}
pre{background:#1d2230;color:#eef0f6;padding:14px 16px;border-radius:10px;overflow-x:auto;margin:0;font-size:13px}
.warn{background:#fff4d6;border-left:4px solid #e0a400;padding:.5em 1em;margin:.4em 0;border-radius:0 8px 8px 0}
.good{background:#e4f6e8;border-left:4px solid #2f9e44;padding:.5em 1em;border-radius:0 8px 8px 0}.out{color:#a33}
"""


def write_html_page(path: Path, title: str, parts: Iterable[str], lead: str = "") -> None:
    """Write a page, atomically.

    Args:
        title: Title and heading, as plain text.
        parts: Content as HTML.
        lead: A line below the heading, as plain text.
    """
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    lines = [head, f"<main><h1>{escape(title)}</h1>"]
    if lead:
        lines.append(f"<p class=lead>{escape(lead)}</p>")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*lines, *parts, "</main></html>"]) + "\n", encoding="utf-8")


def findings(warnings: Sequence[str]) -> list[str]:
    """Warnings as paragraphs, or that there are none."""
    return [f"<p class=warn>{escape(sentence(text))}</p>" for text in warnings] or ["<p class=good>No findings.</p>"]


def figure(content: str, caption: str) -> str:
    """An image or a video with a caption in plain text."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def sentence(text: str) -> str:
    """A finding with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + "."
