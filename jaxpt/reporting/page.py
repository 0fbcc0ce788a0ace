"""The parts of which reports are made: one self-contained HTML page, light and dark, also as narrow as a phone."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from jaxpt.cli.visible import visible
from jaxpt.files.partial import writes

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #222; --line: #bbb; --box: #f6f6f6 }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181f; --text: #dde3ea; --line: #4a5563; --box: #222932 }
  img { filter: invert(.92) hue-rotate(180deg) }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { background: var(--back); color: var(--text); overflow-wrap: anywhere }
.scroll { overflow-x: auto; overflow-wrap: normal }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td:first-child { white-space: nowrap }
@media (max-width: 40rem) { td:first-child { white-space: normal; min-width: 6rem } td, th { padding-right: .5rem } }
details { margin-top: 2rem } summary { cursor: pointer; font-weight: 600 }
th { border-bottom: 1px solid var(--line); font-weight: 600 }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start } img { max-width: 29rem; width: 100% }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: 12px }
"""


def write_page(target: Path, title: str, heading: str, parts: Sequence[str]) -> Path:
    """Writes a page of `parts`, which are HTML; title and heading are text."""
    page = "\n".join(
        [
            "<!doctype html><meta charset=utf-8>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(heading)}</h1>",
            *parts,
        ]
    )
    with writes(target):
        target.write_text(visible(page), encoding="utf-8")
    return target


def embedded(figure: Figure, file: Path) -> str:
    """Writes a figure as a PNG file, closes it, and returns it as an image of a page."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    plt.close(figure)
    with writes(file):
        file.write_bytes(data.getvalue())
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(file.stem)}" src="data:image/png;base64,{encoded}">'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table that scrolls sideways where the page is too narrow; cells are text."""
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    top = f"<tr>{top}</tr>" if any(head) else ""
    return f'<div class="scroll"><table>{top}{body}</table></div>'
