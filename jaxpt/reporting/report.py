"""One HTML page of a run: what it is, how it went, what it used."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.checkpoints.marks import best_of
from jaxpt.checkpoints.run_files import WAY_OUT, stored_model
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import prefix
from jaxpt.files.digests import read_json
from jaxpt.files.partial import writes
from jaxpt.reporting import marks, score_pictures, scores, stages
from jaxpt.reporting.mask_pictures import mask_pictures
from jaxpt.reporting.page import embedded, html_table, write_page
from jaxpt.reporting.pictures import PICTURES
from jaxpt.reporting.series import Records, series
from jaxpt.reporting.summary import read_events, summary
from jaxpt.training import followed
from jaxpt.training.config import RunConfig
from jaxpt.training.history import newest_saved, read_legs
from jaxpt.training.metrics import read


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
        raise JaxptError(f"{workdir} is not a run directory: it has no metrics.jsonl")
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
    saved, scored_by = newest_saved(workdir), scores.score_entries(workdir, config)
    with_followed = followed.records_of(workdir) if scored_by else records
    past = read_legs(saved, config.stages) if saved else ()
    facts = [*summary(records, events, model, config, past), *marks.guard_facts(records), *found.facts]
    parts = [
        html_table(["", ""], facts),
        f"<h2>Plan</h2>{html_table(*stages.planned(config, past))}",
        "<h2>Course</h2>",
        '<div class="pictures">',
        *_images(out, workdir, records, found),
        *_picture_of_scores(out, workdir, with_followed, scored_by, found),
        "</div>",
        f"<h2>Stages</h2>{html_table(*stages.trained(records))}",
        f"<h2>Mixtures</h2>{html_table(*stages.mixtures(records))}",
        *scores.section(workdir, with_followed, scored_by),
        _first_and_last("Evaluation", records, "eval/", [prefix(entry) for entry in scored_by]),
        _first_and_last("Mixtures of experts", records, "moe/"),
        _first_and_last("Masks: expected sparsity", records, "train/sparsity/"),
        *(f"<h2>{html.escape(k)}</h2><pre>{html.escape(v)}</pre>" for k, v in _notes(out, notes).items()),
        f"<details><summary>Config</summary><pre>{html.escape(text)}</pre></details>",
    ]
    return write_page(out / "index.html", workdir.name, str(workdir), parts)


def _images(out: Path, workdir: Path, records: Records, found: marks.Marks) -> list[str]:
    """Writes every picture that there is something for; returns them for the page."""
    curves = {name: figure for name, draw in PICTURES.items() if (figure := draw(records)) is not None}
    for figure in curves.values():
        marks.draw(figure, found)
    return [embedded(figure, out / f"{name}.png") for name, figure in {**curves, **mask_pictures(workdir)}.items()]


def _picture_of_scores(
    out: Path, workdir: Path, records: Records, entries: Sequence[str], found: marks.Marks
) -> list[str]:
    best = best_of(workdir, finished_steps(workdir))
    kept = [(one.step, scores.name_of(by.entry, by.metric, entries)) for by, one in best]
    figure = score_pictures.scores(records, scores.scored_steps(records, entries), kept)
    if figure is None:
        return []
    marks.draw(figure, found)
    return [embedded(figure, out / "scores.png")]


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


def _first_and_last(title: str, records: Records, begins: str, without: Sequence[str] = ()) -> str:
    every = series(records, begins)
    curves = {name: curve for name, curve in every.items() if not f"{begins}{name}".startswith(tuple(without))}
    if not curves:
        return ""
    rows = [
        [name, f"{values[0]:.4f} (step {steps[0]:,})", f"{values[-1]:.4f} (step {steps[-1]:,})"]
        for name, (steps, values) in curves.items()
    ]
    return f"<h2>{title}</h2>{html_table(['', 'first', 'last'], rows)}"
