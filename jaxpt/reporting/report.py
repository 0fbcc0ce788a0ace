"""One HTML page of a run: what it is, how it went, what it used."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from jaxpt.checkpoints.run_files import WAY_OUT, stored_model
from jaxpt.cli.visible import visible
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.files.partial import writes
from jaxpt.reporting import marks, stages
from jaxpt.reporting.pictures import PICTURES
from jaxpt.reporting.series import Records, series
from jaxpt.reporting.summary import read_events, summary
from jaxpt.training.config import RunConfig
from jaxpt.training.history import newest_saved, read_legs
from jaxpt.training.metrics import read

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
.pictures { display: flex; flex-wrap: wrap; gap: 1rem } img { max-width: 29rem; width: 100% }
pre { background: var(--box); padding: .8rem; overflow-x: auto; font-size: 12px }
"""


def write_report(workdir: str | Path, notes: Mapping[str, str] | None = None) -> Path:
    """Writes `report/index.html` (self-contained) and its pictures as PNG files into a run directory.

    Args:
        workdir: the run directory.
        notes: plain text by heading, for instance samples; kept for the reports after this one.

    Raises:
        JaxptError: no run directory, or nothing logged yet.
    """
    workdir = Path(workdir)
    metrics = workdir / "metrics.jsonl"
    if not metrics.is_file():
        raise JaxptError(f"--workdir={workdir} is not a run directory: it has no metrics.jsonl")
    records = read(metrics)
    if not records:
        raise JaxptError(f"{metrics} holds no records yet; report again after the first {metrics.name} line")
    out = workdir / "report"
    out.mkdir(exist_ok=True)
    events = read_events(workdir / "events.jsonl")
    found = marks.marks_of(workdir, records, events)
    model = stored_model(workdir)
    values = read_json(workdir, "config.json", dict, WAY_OUT)
    config, text = build(RunConfig, values), json.dumps(values, indent=2)
    saved = newest_saved(workdir)
    past = read_legs(saved, config.stages) if saved else ()
    facts = [*summary(records, events, model, config, past), *marks.guard_facts(records), *found.facts]
    page = "\n".join(
        [
            "<!doctype html><meta charset=utf-8>",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(workdir.name)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(str(workdir))}</h1>",
            _table(["", ""], facts),
            f"<h2>Plan</h2>{_table(*stages.planned(config, past))}",
            "<h2>Course</h2>",
            '<div class="pictures">',
            *_images(out, records, found),
            "</div>",
            f"<h2>Stages</h2>{_table(*stages.trained(records))}",
            f"<h2>Mixtures</h2>{_table(*stages.mixtures(records))}",
            _first_and_last("Evaluation", records, "eval/"),
            _first_and_last("Mixtures of experts", records, "moe/"),
            *(f"<h2>{html.escape(k)}</h2><pre>{html.escape(v)}</pre>" for k, v in _notes(out, notes).items()),
            f"<details><summary>Config</summary><pre>{html.escape(text)}</pre></details>",
        ]
    )
    target = out / "index.html"
    with writes(target):
        target.write_text(visible(page), encoding="utf-8")
    return target


def _images(folder: Path, records: Records, found: marks.Marks) -> list[str]:
    """Writes every picture that there is something for; returns them for the page."""
    images = []
    for name, draw in PICTURES.items():
        figure = draw(records)
        if figure is None:
            continue
        marks.draw(figure, found)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        plt.close(figure)
        with writes(folder / f"{name}.png"):
            (folder / f"{name}.png").write_bytes(data.getvalue())
        images.append(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">')
    return images


def _notes(folder: Path, notes: Mapping[str, str] | None) -> Mapping[str, str]:
    """Keeps notes that are given; returns those or the ones kept earlier."""
    file = folder / "notes.json"
    if notes is not None:
        with writes(file):
            file.write_text(json.dumps(notes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return notes
    try:
        kept = json.loads(file.read_bytes()) if file.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise JaxptError(f"{file} is broken ({error}); remove it, and the report is written without notes") from error
    if not isinstance(kept, dict) or not all(isinstance(text, str) for text in kept.values()):
        raise JaxptError(f"{file} is broken; remove it, and the report is written without notes")
    return kept


def _first_and_last(title: str, records: Records, prefix: str) -> str:
    curves = series(records, prefix)
    if not curves:
        return ""
    rows = [
        [name, f"{values[0]:.4f} (step {steps[0]:,})", f"{values[-1]:.4f} (step {steps[-1]:,})"]
        for name, (steps, values) in curves.items()
    ]
    return f"<h2>{title}</h2>{_table(['', 'first', 'last'], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    top = f"<tr>{top}</tr>" if any(head) else ""
    return f'<div class="scroll"><table>{top}{body}</table></div>'
